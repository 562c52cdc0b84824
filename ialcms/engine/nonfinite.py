"""NaN and infinity: found by all ranks alike, skipped, counted, and reported with all that is known about them.

A loss that is not finite is turned into NaN gradients, which the reduction spreads to all ranks. So the norm of the
reduced gradient tells every rank the same, at no further communication. Whether a step is skipped is decided where it
is computed:
on a GPU the host learns of it one step later (`Readback`), when the step has long been skipped there.
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

log = logging.getLogger("ialcms")


def poison(loss: Tensor, taint: Tensor | float = 0.0) -> Tensor:
    """The loss itself; where it or `taint` is not finite, all its gradients are NaN. taint: 0 or NaN."""
    return loss * (1 + 0 * loss.detach() + taint)


class Health:
    """Numbers of one step that are finite where all is well, on the device, in the order in which they came up."""

    def __init__(self) -> None:
        self._messages: list[str] = []
        self._values: list[Tensor] = []
        self.taint: Tensor | float = 0.0  # 0, or NaN from the first fault on: poison for the losses after it

    def watch(self, message: str, value: Tensor) -> None:
        """value: a scalar that is the same on all ranks; message: what it is when it is not finite, {} its value."""
        self._messages.append(message)
        self._values.append(value.detach())
        self.taint = self.taint + 0 * value.detach()

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
    """A step whose verdict is awaited, with what would be told of it."""

    step: int
    verdict: Verdict
    scalars: dict[str, Tensor]  # this rank's loss terms
    inputs: Mapping[str, Tensor]  # what its networks saw
    keys: Sequence[tuple[str, ...]]  # the clips of its mixes


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
        own = (
            {name: float(value) for name, value in watched.scalars.items() if name.startswith("loss/")},
            [name for name, value in watched.inputs.items() if not bool(value.isfinite().all())],
            [", ".join(mix) for mix in watched.keys],
        )
        watched.scalars.clear()
        self.count += 1
        lines = [f"step {watched.step}: {fault}"]
        every = ranks.gather_objects(own)
        bad_inputs_somewhere = any(bad for _, bad, _ in every)
        for rank, (terms, bad_inputs, mixes) in enumerate(every):
            if bad_inputs_somewhere and not bad_inputs:
                continue  # statistics over the global batch carry one rank's NaN to all
            values = ", ".join(f"{name} {value:g}" for name, value in terms.items())
            odd = f"input {', '.join(bad_inputs)} not finite; " if bad_inputs else ""
            lines.append(f"rank {rank}: {odd}{values or 'no loss computed'}; clips {' | '.join(mixes)}")
        message = "; ".join(lines)
        if self.count > self.limit:
            raise ValueError(
                f"{message}. That is skipped step {self.count} and train.max_skipped_steps is {self.limit}: look at "
                "these clips, lower the learning rates or set optim.clip_norm, then start again from the checkpoint"
            )
        if ranks.is_first:
            log.warning("%s. Skipped (%d of at most %d)", message, self.count, self.limit)
