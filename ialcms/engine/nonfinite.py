"""NaN and infinity: found by all ranks alike, skipped, counted, and reported with all that is known about them.

A loss that is not finite is turned into NaN gradients, which the reduction spreads to all ranks. So the norm of the
reduced gradient tells all ranks the same, without further communication. The decision to skip is made where the step is
computed: on a GPU the host reads it one step later (`Readback`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ialcms.engine.ranks import Ranks
from ialcms.engine.readback import Readback

log = logging.getLogger(__name__)

_REPORTED_RANKS = 4  # so that a line does not grow with the job


def poison(loss: Tensor, taint: Tensor | float = 0.0) -> Tensor:
    """The loss itself; where it or `taint` is not finite, all its gradients are NaN. taint: 0 or NaN."""
    return loss * (1 + 0 * loss.detach() + taint)


def gradient_of(loss: Tensor, taint: Tensor | float, share: float) -> Tensor:
    """The gradient to begin the backward pass of `loss` with: `share`, NaN where `loss` or `taint` is not finite.

    So all gradients become what those of share * poison(loss, taint) are, with fewer launches. taint: 0 or NaN.
    """
    value = loss.detach()
    zero = torch.add(taint, value, alpha=0) if isinstance(taint, Tensor) else 0 * value + taint
    return zero + share


class Health:
    """Numbers of one step that are finite where all is well, on the device, in the order in which they came up."""

    def __init__(self) -> None:
        self._messages: list[str] = []
        self._values: list[Tensor] = []
        self.taint: Tensor | float = 0.0  # 0, or NaN from the first fault on: poison for the losses after it

    def watch(self, message: str, value: Tensor) -> None:
        """value: a scalar that is the same on all ranks; message: what it is when it is not finite, {} its value."""
        self._messages.append(message)
        value = value.detach()
        self._values.append(value)
        # infinity times 0 is NaN
        self.taint = torch.add(self.taint, value, alpha=0) if isinstance(self.taint, Tensor) else 0 * value

    @property
    def is_bad(self) -> Tensor:
        """Whether the step is to be skipped, on the device."""
        assert isinstance(self.taint, Tensor), "nothing was watched"
        return self.taint.isnan()

    def read(self) -> Verdict:
        return Verdict(self._messages, Readback(torch.stack(self._values).float()))


class Verdict:
    """What a step's `Health` was, on its way to the host."""

    def __init__(self, messages: Sequence[str], values: Readback) -> None:
        self._messages, self._values = messages, values

    def fault(self) -> str | None:
        """The first fault; None if there is none."""
        for message, value in zip(self._messages, self._values.tolist()):
            if not math.isfinite(value):
                return message.format(value)
        return None


@dataclass
class Watched:
    """A step whose verdict is not known yet, with what is reported if it is skipped."""

    step: int
    verdict: Verdict
    scalars: dict[str, Tensor]  # local loss terms
    inputs: Mapping[str, Tensor]  # of the networks
    keys: Sequence[tuple[str, ...]]  # the clips of the local mixes

    def bad_inputs(self) -> list[str]:
        """Names of those that are not finite."""
        return [name for name, value in self.inputs.items() if not bool(value.isfinite().all())]

    def describe(self) -> str:
        """Losses, inputs that are not finite, clips."""
        bad = self.bad_inputs()
        losses = [f"{name} {float(value):g}" for name, value in self.scalars.items() if name.startswith("loss/")]
        odd = f"input {', '.join(bad)} not finite; " if bad else ""
        mixes = " | ".join(", ".join(keys) for keys in self.keys)
        return f"{odd}{', '.join(losses) or 'no loss computed'}; clips {mixes}"


class SkippedSteps:
    """Counts the steps that were skipped; a run may have `limit` of them."""

    def __init__(self, limit: int, count: int = 0) -> None:
        self.limit, self.count = limit, count
        self._watched: Watched | None = None

    def watch(self, watched: Watched) -> None:
        """The step that was just computed; the one before is settled."""
        assert self._watched is None
        self._watched = watched

    def settle(self, ranks: Ranks) -> None:
        """Report the watched step if it was skipped, and empty its scalars; all ranks do so at the same step.

        ValueError when it is one skipped step too many.
        """
        watched, self._watched = self._watched, None
        if watched is None:
            return
        fault = watched.verdict.fault()
        if fault is not None:
            self._report(ranks, watched, fault)

    def _report(self, ranks: Ranks, watched: Watched, fault: str) -> None:
        is_bad = torch.tensor([bool(watched.bad_inputs())], device=ranks.device, dtype=torch.int32)
        # Statistics over the global batch carry one rank's NaN to all: the ranks with bad inputs are the cause.
        all_ranks = list(range(ranks.world_size))
        causes = [rank for rank, bad in zip(all_ranks, ranks.gather(is_bad).tolist()) if bad] or all_ranks
        description = watched.describe()
        watched.scalars.clear()
        self.count += 1
        lines = [f"step {watched.step}: {fault}"]
        for rank in causes[:_REPORTED_RANKS]:
            lines.append(f"rank {rank}: {ranks.broadcast(description, source=rank)}")
        if len(causes) > _REPORTED_RANKS:
            lines.append(f"and {len(causes) - _REPORTED_RANKS} other ranks")
        message = "; ".join(lines)
        if self.count > self.limit:
            raise ValueError(
                f"{message}. That is skipped step {self.count} and train.max_skipped_steps is {self.limit}: look at "
                "these clips, lower the learning rates or set optim.clip_norm, then start again from the checkpoint"
            )
        if ranks.is_first:
            log.warning("%s. Skipped (%d of at most %d)", message, self.count, self.limit)
