"""An all-to-all in which every pair of ranks exchanges another number of rows, known to both beforehand."""

from __future__ import annotations

from collections.abc import Sequence

import torch.distributed as dist
from torch import Tensor

from ialcms.engine.ranks import Ranks
from ialcms.engine.traffic import Kind
from ialcms.engine.waiting import waiting


def exchange_rows(
    rows: Tensor, num_sent: Sequence[int], num_received: Sequence[int], *, ranks: Ranks, kind: Kind | None = None
) -> Tensor:
    """Send rows to each rank and return those received, in the order of the ranks; without gradients.

    rows: (sum of num_sent, ...), those for rank 0 first. num_sent, num_received: numbers of rows, one a rank; a rank
    may have rows for itself. kind: what it is counted as in `ranks.traffic`, if at all.
    """
    if ranks.world_size == 1:
        return rows
    if kind is not None:
        to_others = len(rows) - num_sent[ranks.rank]
        ranks.traffic.sends(kind, to_others * rows[:1].numel() * rows.element_size())
    received = rows.new_empty(sum(num_received), *rows.shape[1:])
    with waiting():
        dist.all_to_all_single(received, rows.contiguous(), list(num_received), list(num_sent))
    return received
