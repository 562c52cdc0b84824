"""How much each rank sends, by what it is for: computed from sizes, at no cost to the step.

A rank of W sends what the ring algorithms of NCCL send: of an all-reduce of n bytes 2 (W-1)/W n, of an
all-gather of n bytes a rank (W-1) n, of an all-to-all or a
reduce-scatter with n bytes of input (W-1)/W n. Of rows for single ranks, those for other ranks count. A test compares
the sizes with what torch's profiler has seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

from torch import Tensor

Kind = Literal["gradients", "parameters", "batchnorm", "features", "bank"]
KINDS: tuple[Kind, ...] = ("gradients", "parameters", "batchnorm", "features", "bank")


def all_reduce_bytes(num_bytes: float, world_size: int) -> float:
    return 2 * (world_size - 1) / world_size * num_bytes


def all_gather_bytes(num_bytes: float, world_size: int) -> float:
    """num_bytes: of one rank's part."""
    return (world_size - 1) * num_bytes


def all_to_all_bytes(num_bytes: float, world_size: int) -> float:
    """num_bytes: of what one rank has for all ranks, itself included. A reduce-scatter sends as much."""
    return (world_size - 1) / world_size * num_bytes


def size(tensors: Iterable[Tensor]) -> int:
    """In bytes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class Traffic:
    """What this rank has sent since the last `take`.

    gradients: of the networks that learn. parameters: what ZeRO collects from its shards. batchnorm: sums of forward
    and backward passes. features: embeddings of the consistency loss, their gradients, and
    summaries of its columns. bank: independent partners for other ranks' components. What is sent now and then, not per
    step, and single numbers are left out.
    """

    def __init__(self, world_size: int) -> None:
        self._world_size = world_size
        self._bytes: dict[Kind, float] = {}

    def all_reduce(self, kind: Kind, num_bytes: float) -> None:
        self._add(kind, all_reduce_bytes(num_bytes, self._world_size))

    def all_gather(self, kind: Kind, num_bytes: float) -> None:
        self._add(kind, all_gather_bytes(num_bytes, self._world_size))

    def all_to_all(self, kind: Kind, num_bytes: float) -> None:
        self._add(kind, all_to_all_bytes(num_bytes, self._world_size))

    def reduce_scatter(self, kind: Kind, num_bytes: float) -> None:
        self._add(kind, all_to_all_bytes(num_bytes, self._world_size))

    def sends(self, kind: Kind, num_bytes: float) -> None:
        """num_bytes: what goes to single other ranks."""
        self._add(kind, num_bytes)

    @contextmanager
    def noting(self) -> Iterator[dict[Kind, float]]:
        """What is counted inside, by kind, is noted in the dictionary instead."""
        outer, self._bytes = self._bytes, {}
        noted = self._bytes
        try:
            yield noted
        finally:
            self._bytes = outer

    def add(self, num_bytes: Mapping[Kind, float]) -> None:
        """Bytes by kind, as `noting` gives them."""
        for kind, count in num_bytes.items():
            self._add(kind, count)

    def _add(self, kind: Kind, num_bytes: float) -> None:
        if num_bytes and self._world_size > 1:
            self._bytes[kind] = self._bytes.get(kind, 0.0) + num_bytes

    def take(self) -> dict[Kind, float]:
        """Bytes by kind, where there were any; counting begins anew."""
        taken, self._bytes = self._bytes, {}
        return {kind: taken[kind] for kind in KINDS if kind in taken}
