"""Where the time of an evaluation goes: reading clips, the network, the metrics."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch


@dataclass
class EvaluationTime:
    """Of one rank, or summed over the ranks."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    num_mixes: int = 0
    elapsed_s: float = 0.0  # of one rank: as long as the whole takes, by the slowest
    parts_s: dict[str, float] = field(default_factory=dict)  # by what the rank itself did or waited for
    num_ranks: int = 1
    beside_s: float = 0.0  # seconds of the metrics' own processes, all together

    @contextmanager
    def of(self, part: str) -> Iterator[None]:
        """Count what is done inside as `part`; on a GPU until it has finished."""
        began = time.perf_counter()
        try:
            yield
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
        finally:
            self.parts_s[part] = self.parts_s.get(part, 0.0) + time.perf_counter() - began

    @staticmethod
    def total(times: Iterable[EvaluationTime]) -> EvaluationTime:
        """Of all ranks."""
        result = EvaluationTime(num_ranks=0)
        for one in times:
            result.num_mixes += one.num_mixes
            result.elapsed_s = max(result.elapsed_s, one.elapsed_s)
            result.num_ranks += one.num_ranks
            result.beside_s += one.beside_s
            for part, seconds in one.parts_s.items():
                result.parts_s[part] = result.parts_s.get(part, 0.0) + seconds
        return result

    def since(self, before: EvaluationTime) -> EvaluationTime:
        """What came after an earlier state of the same rank."""
        return EvaluationTime(
            device=self.device,
            num_mixes=self.num_mixes - before.num_mixes,
            elapsed_s=self.elapsed_s - before.elapsed_s,
            parts_s={part: seconds - before.parts_s.get(part, 0.0) for part, seconds in self.parts_s.items()},
            num_ranks=self.num_ranks,
            beside_s=self.beside_s - before.beside_s,
        )

    def shares(self) -> dict[str, float]:
        """By part, the share of the ranks' time."""
        whole = self.elapsed_s * self.num_ranks
        return {part: seconds / whole for part, seconds in self.parts_s.items()} if whole else {}

    def __str__(self) -> str:
        if not self.num_mixes or not self.elapsed_s:
            return f"{self.num_mixes} mixes"
        shares = ", ".join(f"{part} {share:.0%}" for part, share in self.shares().items())
        beside = f"; the metrics' processes took {self.beside_s / self.num_mixes:.2f} s a mix" if self.beside_s else ""
        rate = self.num_mixes / self.elapsed_s
        return f"{self.num_mixes} mixes in {self.elapsed_s:.1f} s ({rate:.3g} mixes/s): {shares}{beside}"
