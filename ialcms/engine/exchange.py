"""Collectives in which each rank gets another part: all-to-all and reduce-scatter. On one rank they return the input.

Neither carries gradients.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from ialcms.engine.ranks import Ranks
from ialcms.engine.traffic import Kind
from ialcms.engine.waiting import waiting


def all_to_all(x: Tensor, ranks: Ranks, kind: Kind) -> Tensor:
    """Send block r of the W equal blocks of x (W*n, ...) to rank r; returns the blocks received, in rank order."""
    if ranks.world_size == 1:
        return x
    ranks.traffic.all_to_all(kind, x.numel() * x.element_size())
    received = torch.empty_like(x, memory_format=torch.contiguous_format)
    with waiting():
        dist.all_to_all_single(received, x.contiguous())
    return received


def reduce_scatter(x: Tensor, ranks: Ranks, kind: Kind) -> Tensor:
    """Sum x (W*n, ...) over the ranks; rank r gets block r of the sum, (n, ...)."""
    if ranks.world_size == 1:
        return x
    ranks.traffic.reduce_scatter(kind, x.numel() * x.element_size())
    block = x.new_empty(len(x) // ranks.world_size, *x.shape[1:])
    with waiting():
        dist.reduce_scatter_tensor(block, x.contiguous())
    return block
