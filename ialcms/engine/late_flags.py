"""Flags that any rank may raise between two steps: agreed on without waiting for the device.

Where flags travel from GPU to GPU, the answer to a step's question comes at the end of the next step, at the same step
on all ranks. On CPUs and on a single rank it is there at once.
"""

from __future__ import annotations

import torch

from ialcms.engine.ranks import Ranks
from ialcms.engine.readback import Readback, to_device


class LateFlags:
    """All ranks call its methods together, always with the same number of flags."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._under_way: Readback | None = None

    def exchange(self, *flags: bool) -> list[bool]:
        """Which flags were raised on any rank: those of this call, or on several GPUs those of the call before."""
        if self._ranks.world_size == 1 or not self._ranks.reads_late:
            return self._ranks.any_of(*flags)
        before = self.settle(len(flags))
        raised = to_device(torch.tensor(flags, dtype=torch.int32), self._ranks.device)
        self._under_way = Readback(self._ranks.largest(raised))
        return before

    def settle(self, count: int) -> list[bool]:
        """Of `count` flags, those of the last `exchange` that were not returned yet; waits for them."""
        under_way, self._under_way = self._under_way, None
        return [False] * count if under_way is None else [bool(flag) for flag in under_way.tolist()]
