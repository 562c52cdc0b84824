"""NaN and infinity: found by all workers alike, skipped, counted, and reported with all that is known about them.

A loss that is not finite is turned into NaN gradients, which the reduction spreads to all workers. So the norm of the
reduced gradient tells every worker the same, at no further communication.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from torch import Tensor

from ialcms.engine.ranks import Workers

log = logging.getLogger("ialcms")


class NonFinite(Exception):
    """A value that all workers see is not finite; the message says which one."""


def poison(loss: Tensor) -> Tensor:
    """The loss itself; where it is not finite, all its gradients are NaN."""
    return loss * (1 + 0 * loss.detach())


class SkippedSteps:
    """Counts the steps that were skipped; a run may have `limit` of them."""

    def __init__(self, limit: int, count: int = 0) -> None:
        self.limit, self.count = limit, count

    def add(
        self, workers: Workers, step: int, fault: NonFinite, scalars: Mapping[str, Tensor],
        inputs: Mapping[str, Tensor], keys: Sequence[tuple[str, ...]],
    ) -> None:  # fmt: skip
        """Report a step (all workers do), and raise ValueError when it is one too many.

        scalars: this worker's loss terms; inputs: what its networks saw; keys: the clips of its mixes.
        """
        own = (
            {name: float(value) for name, value in scalars.items() if name.startswith("loss/")},
            [name for name, value in inputs.items() if not bool(value.isfinite().all())],
            [", ".join(mix) for mix in keys],
        )
        self.count += 1
        lines = [f"step {step}: {fault}"]
        every = workers.gather_objects(own)
        bad_inputs_somewhere = any(bad for _, bad, _ in every)
        for rank, (terms, bad_inputs, mixes) in enumerate(every):
            if bad_inputs_somewhere and not bad_inputs:
                continue  # statistics over the global batch carry one worker's NaN to all
            values = ", ".join(f"{name} {value:g}" for name, value in terms.items())
            odd = f"input {', '.join(bad_inputs)} not finite; " if bad_inputs else ""
            lines.append(f"worker {rank}: {odd}{values or 'no loss computed'}; clips {' | '.join(mixes)}")
        message = "; ".join(lines)
        if self.count > self.limit:
            raise ValueError(
                f"{message}. That is skipped step {self.count} and train.max_skipped_steps is {self.limit}: look at "
                "these clips, lower the learning rates or set optim.clip_norm, then start again from the checkpoint"
            )
        if workers.is_first:
            log.warning("%s. Skipped (%d of at most %d)", message, self.count, self.limit)
