"""What the ranks save together: checkpoints, and which clips had to be replaced."""

from __future__ import annotations

from collections.abc import Mapping

from ialcms.data.train_batches import BadClips
from ialcms.engine import Ranks
from ialcms.runs.checkpoint import Progress
from ialcms.runs.checkpoint_writer import CheckpointWriter
from ialcms.training.start import Job
from ialcms.training.step import Experiment


class Checkpoints:
    """All ranks call `save` and `add_validation` together; rank 0 writes."""

    def __init__(self, job: Job, experiment: Experiment) -> None:
        self._ranks, self._experiment, self._last_step = job.ranks, experiment, job.config.train.steps
        self._root = job.folder.checkpoints
        lease = job.lease if job.ranks.is_first else None
        self._writer = CheckpointWriter(self._root, job.config, job.manifest.digest, lease=lease)

    @property
    def is_urgent(self) -> bool:
        """Whether rank 0 asks for one: the last one is too old, or another job has taken the folder over."""
        return self._ranks.is_first and (self._writer.is_overdue() or self._writer.shut_out)

    def is_due(self, progress: Progress) -> bool:
        """Whether one is due by what all ranks know: the step, and a validation, which may take long."""
        is_last = progress.step == self._last_step
        return is_last or progress.validation_pending or self._writer.is_due(progress.step)

    def save(self, progress: Progress, *, is_best: bool = False, wait: bool = False) -> None:
        """Write a checkpoint in the background. wait: until it is on the disk.

        ValueError on all ranks when several writes in a row have failed, or this one with `wait`.
        """
        state = self._experiment.state_dict()  # of all ranks: an engine may have to gather it
        if self._ranks.is_first:
            self._writer.wait()
            if not self._writer.failed_for_good:
                self._writer.write(state, progress, is_best)
            if wait or self._writer.shut_out:
                self._writer.wait()
        self._refuse_failures(wait)

    def add_validation(self, progress: Progress, is_best: bool) -> None:
        """Put the outcome of the validation after `progress.step` into that step's checkpoint.

        Where that could not be written, the best and the last one are tried once more.
        """
        is_last = progress.step == self._last_step
        amended = self._ranks.broadcast(self._ranks.is_first and self._writer.amend(progress, is_best))
        if not amended and (is_best or is_last):
            self.save(progress, is_best=is_best, wait=is_last)

    def close(self) -> None:
        """Wait for what is being written."""
        self._writer.wait()

    def _refuse_failures(self, is_needed: bool) -> None:
        given_up = self._writer.failed_for_good or (is_needed and self._writer.failed)
        if not self._ranks.any(given_up):
            return
        reason, times = self._ranks.broadcast((self._writer.last_failure, self._writer.failures))
        if self._ranks.broadcast(self._writer.shut_out):
            raise ValueError(reason)
        raise ValueError(
            f"no checkpoint could be written to {self._root} {times} time{'s in a row' if times > 1 else ''} "
            f"({reason}); make room there or choose another --folder, then start again"
        )


class GatheredBadClips:
    """The clips that any rank had to replace. A rank collects what it finds; all ranks together call `gather`."""

    def __init__(self, job: Job, seen: tuple[str, ...]) -> None:
        """seen: keys of those that an earlier start has found."""
        self._ranks: Ranks = job.ranks
        self._gathered = BadClips(job.config, job.manifest, seen, logs=job.ranks.is_first)
        self._local: dict[str, str] = {}  # those that the other ranks do not know

    def collect(self, bad: Mapping[str, str]) -> None:
        """bad: of this rank's batch, key -> one line with shard and reason."""
        self._local |= bad

    @property
    def has_new(self) -> bool:
        """Whether this rank has some that the other ranks do not know."""
        return self._gathered.has_new(self._local)

    def gather(self, step: int) -> tuple[str, ...]:
        """Keys of all so far, those found up to `step` among them. ValueError when there are too many."""
        parts = self._ranks.gather_objects(self._local)
        self._gathered.add(step, {key: line for bad in parts for key, line in bad.items()})
        self._local = {}
        return self._gathered.keys

    def close(self) -> None:
        """Log what is not in the log yet."""
        self._gathered.log_new()
