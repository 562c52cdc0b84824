"""Collectives in which each rank gets another part: all-to-alls and reduce-scatter. On one rank they return the input.

None carries gradients. Those that are started return an `Arriving`: what is computed until its `wait` hides them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from ialcms.engine.ranks import Ranks
from ialcms.engine.traffic import Kind
from ialcms.engine.waiting import waiting


class Arriving:
    """A tensor that is being received."""

    def __init__(self, received: Tensor, work: dist.Work | None = None, sent: Tensor | None = None) -> None:
        """received: complete when `work` is done; None: it is complete. sent: kept until then."""
        self._received, self._work, self._sent = received, work, sent

    def wait(self) -> Tensor:
        """The complete tensor. On a GPU the stream waits, not the program."""
        if self._work is not None:
            with waiting():
                self._work.wait()
            self._work = self._sent = None
        return self._received


def all_to_all(x: Tensor, ranks: Ranks, kind: Kind) -> Tensor:
    """Send block r of the W equal blocks of x (W*n, ...) to rank r; returns the blocks received, in rank order."""
    if ranks.world_size == 1:
        return x
    ranks.traffic.all_to_all(kind, x.numel() * x.element_size())
    received = torch.empty_like(x, memory_format=torch.contiguous_format)
    with waiting():
        dist.all_to_all_single(received, x.contiguous())
    return received


def start_reduce_scatter(x: Tensor, ranks: Ranks, kind: Kind) -> Arriving:
    """Sum x (W*n, ...) over the ranks; rank r gets block r of the sum, (n, ...)."""
    if ranks.world_size == 1:
        return Arriving(x)
    ranks.traffic.reduce_scatter(kind, x.numel() * x.element_size())
    block, sent = x.new_empty(len(x) // ranks.world_size, *x.shape[1:]), x.contiguous()
    return Arriving(block, dist.reduce_scatter_tensor(block, sent, async_op=True), sent)


def start_exchange_rows(
    rows: Tensor, num_sent: Sequence[int], num_received: Sequence[int], *, ranks: Ranks, kind: Kind | None = None
) -> Arriving:
    """Send each rank its rows and receive one's own, in the order of the ranks: an all-to-all of unequal blocks.

    rows: (sum of num_sent, ...), those for rank 0 first. num_sent, num_received: numbers of rows, one a rank; a rank
    may have rows for itself. kind: what it is counted as in `ranks.traffic`, if at all.
    """
    if ranks.world_size == 1:
        return Arriving(rows)
    if kind is not None:
        to_others = len(rows) - num_sent[ranks.rank]
        ranks.traffic.sends(kind, to_others * rows[:1].numel() * rows.element_size())
    received, sent = rows.new_empty(sum(num_received), *rows.shape[1:]), rows.contiguous()
    work = dist.all_to_all_single(received, sent, list(num_received), list(num_sent), async_op=True)
    return Arriving(received, work, sent)
