"""What a run measures of itself: means of its scalars, speed, waiting, memory, time left.

What is exchanged and what is recorded has the same size on any number of ranks.
"""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer

from ialcms.engine import Ranks, waited_s
from ialcms.progress import duration


@dataclass(frozen=True)
class Measured:
    """Figures since the last record, the same on all ranks, by their names in the log."""

    means: dict[str, float]  # of the scalars, over steps and ranks
    speed: dict[str, float]  # {} where no step was timed


class Measurements:
    """Collects what steps return and how long they take. `take` is called by all ranks together."""

    def __init__(self, global_batch: int, ranks: Ranks) -> None:
        """global_batch: mixes in a step of the whole job."""
        self._global_batch, self._ranks = global_batch, ranks
        self._scalars: list[Mapping[str, Tensor]] = []
        self.pause()

    def pause(self) -> None:
        """Forget the time since the last record: validation and checkpoints are not training."""
        self._since, self._timed_steps, self._waited_s = time.monotonic(), 0, 0.0
        self._in_collectives_since = waited_s()

    def count(self, scalars: Mapping[str, Tensor], waited_s: float) -> None:
        """A finished step. scalars stay on the device; waited_s: how long this rank waited for its batch."""
        self._scalars.append(scalars)
        self._timed_steps += 1
        self._waited_s += waited_s

    def take(self) -> Measured:
        """Means and speed since the last call; nothing else in a step waits for the device."""
        names = sorted({name for scalars in self._scalars for name in scalars})
        means = [self._local_mean(name) for name in names]
        elapsed_s = max(time.monotonic() - self._since, 1e-9)
        collectives_s = min(waited_s() - self._in_collectives_since, elapsed_s)
        step_s = elapsed_s / max(self._timed_steps, 1)
        shares = self._waited_s / elapsed_s, collectives_s / elapsed_s
        local_s = step_s - step_s * shares[1]  # without waiting for the other ranks
        memory = peak_memory_gb(self._ranks.device)
        device = self._ranks.device
        # float64 holds sums of float32 exactly enough: the order of the ranks does not show
        summed = torch.tensor([step_s, *shares], dtype=torch.float64, device=device)
        if means:
            summed = torch.cat([torch.stack(means).to(device, torch.float64), summed])
        extremes = torch.tensor([local_s, -local_s, shares[0], *memory], dtype=torch.float64, device=device)
        mean = self._ranks.sum(summed) / self._ranks.world_size
        largest = self._ranks.largest(extremes)
        # the lowest rank of those that take longest, as its negative; a rank that is not among them does not count
        candidate = torch.where(largest[:1] == local_s, -float(self._ranks.rank), -math.inf)
        values = torch.cat([mean, largest, self._ranks.largest(candidate)]).tolist()
        figures, extreme = values[len(names) : len(names) + 3], values[len(names) + 3 :]
        speed = self._speed(figures, extreme) if self._timed_steps else {}
        self._scalars.clear()
        self.pause()
        return Measured(dict(zip(names, values)), speed)

    def _local_mean(self, name: str) -> Tensor:
        return torch.stack([scalars[name].float() for scalars in self._scalars if name in scalars]).mean()

    def _speed(self, means: list[float], extremes: list[float]) -> dict[str, float]:
        """means over the ranks: step seconds, shares of waiting for data and for ranks. extremes: see `take`."""
        step_s, for_data, for_ranks = means
        slowest_s, fastest_s, longest_for_data, process_gb, device_gb, slowest = extremes
        values = {
            "speed/mixes_per_second": self._global_batch / step_s,
            "speed/step_seconds": step_s,
            "speed/slowest_rank": -slowest,
            "speed/slowest_rank_step_seconds": slowest_s,
            "speed/fastest_rank_step_seconds": -fastest_s,
            "speed/share_waiting_for_data": for_data,
            "speed/longest_share_waiting_for_data": longest_for_data,
            "speed/share_waiting_for_ranks": for_ranks,
            "memory/process_gb": process_gb,
        }
        if self._ranks.device.type == "cuda":
            values["memory/device_gb"] = device_gb
        return values


class TimeLeft:
    """From the mean time of a step so far, with validations and checkpoints. The first step, which sets things up, is
    left out."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._first: tuple[int, float] | None = None  # finished steps, and when

    def count(self, step: int) -> None:
        """`step` steps are finished."""
        if self._first is None:
            self._first = step, time.monotonic()

    def text(self, step: int) -> str:
        """Like '0:02:07 left'; '' before the second step."""
        if self._first is None or step == self._first[0]:
            return ""
        first, since = self._first
        left_s = (time.monotonic() - since) / (step - first) * (self._steps - step)
        return f"{duration(left_s)} left"


def learning_rates(separator: Optimizer, critic: Optimizer | None) -> dict[str, float]:
    """Rates by their names in the log; the separator's groups have names."""
    rates = {f"learning_rate/{group['name']}": float(group["lr"]) for group in separator.param_groups}
    if critic is not None:
        rates["learning_rate/critic"] = float(critic.param_groups[0]["lr"])
    return rates


def peak_memory_gb(device: torch.device) -> tuple[float, float]:
    """Largest so far: of this process in main memory, and of its tensors on the device (0 without one)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kilobytes; bytes on macOS
    process_gb = peak / (1e9 if sys.platform == "darwin" else 1e6)
    return process_gb, torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else 0.0
