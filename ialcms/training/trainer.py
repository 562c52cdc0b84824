"""The training loop.

    torchrun --standalone --nproc_per_node=2 -m ialcms train configs/demo.yaml      # two ranks
    ialcms train configs/demo.yaml train.steps=100                                  # one

A run started again in the same folder resumes from its newest checkpoint.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Generator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType

from torch import nn

from ialcms.config import Config, check_world_size, shared_fields
from ialcms.data.train_batches import Batch, train_batches
from ialcms.engine import LateFlags, Ranks, Watchdog, check_same_fields
from ialcms.engine.held_folder import held_folder
from ialcms.engine.same_input import open_same_manifest
from ialcms.lease import Lease
from ialcms.models.arithmetic import set_arithmetic
from ialcms.monitoring.measurements import learning_rates
from ialcms.monitoring.monitor import Monitor
from ialcms.monitoring.profile import StepProfile, check_profile
from ialcms.runs.checkpoint import Progress
from ialcms.runs.run_folder import RunFolder
from ialcms.terminal import runnable
from ialcms.training.saving import Checkpoints, GatheredBadClips
from ialcms.training.schedule import shows_examples, step_schedule, validation_interval
from ialcms.training.start import Beginning, Job, begin, open_folder
from ialcms.training.step import Experiment, Scalars
from ialcms.training.stop_request import StopRequest
from ialcms.training.validation import Validation

log = logging.getLogger(__name__)


def train(
    config: Config,
    folder: RunFolder,
    ranks: Ranks,
    resume: str = "auto",
    weights: Path | None = None,
    profiled_steps: int = 0,
) -> Progress:
    """Train until `train.steps` or a request to stop; returns where the run is.

    config: of the run. folder: of the run, which need not exist. ranks: of the job.
    resume: "auto" resumes from the newest checkpoint in the folder, "none" starts afresh in a folder without any, or a
    checkpoint's folder. weights: start a new run with these networks (see `init_from`). profiled_steps: steps to write
    a profile of. ValueError for faults in the input, before anything is written.
    """
    check_world_size(config, ranks.world_size)
    check_same_fields(ranks, shared_fields(config))
    manifest = open_same_manifest(ranks, config.data.shards)
    lease = Lease(folder.path, "training", "--folder", name="the run's folder")
    with held_folder(ranks, lease, must_be_shared=True):
        job = Job(
            config,
            folder,
            ranks,
            manifest=manifest,
            lease=lease,
            resume=resume,
            weights=weights,
            profiled_steps=profiled_steps,
        )
        validation = Validation(config, manifest, ranks)  # finds out that there are too few instruments before we start
        set_arithmetic(config, fixed_shapes=True)
        beginning = begin(job)
        first_step = beginning.progress.step
        if profiled_steps:
            check_profile(profiled_steps, config.train.steps - first_step)
        batches = train_batches(
            config, manifest, first_step, rank=ranks.rank, world_size=ranks.world_size, device=ranks.device
        )
        # From here on the input is in order: now the run's folder comes into being.
        progress = open_folder(job, beginning)
        with Trainer(job, beginning, validation, batches=batches, progress=progress) as trainer:
            return trainer.run(progress)


@dataclass(frozen=True)
class Loaded:
    """The next batch."""

    batch: Batch
    waited_s: float  # how long this rank waited for it


class Trainer:
    """The loop, on every rank of a job at the same steps. Use as a context manager, which ends what it has started."""

    def __init__(
        self, job: Job, beginning: Beginning, validation: Validation, batches: Generator[Batch], *, progress: Progress
    ) -> None:
        """Start the log and what watches the run.

        job, beginning: what the run is given and what it begins with. validation: of this run. batches: those of this
        rank from `progress.step` on. progress: where the run is.
        """
        self._job, self._experiment = job, beginning.experiment
        self._config, self._ranks = job.config, job.ranks
        self._validation, self._batches = validation, batches
        self._validation_interval = validation_interval(job.config, job.manifest)
        self._monitor = Monitor(
            job.folder, job.config, job.ranks, first_step=progress.step, validates_again=progress.validation_pending
        )
        self._bad_clips = GatheredBadClips(job, progress.bad_clips)
        self._checkpoints = Checkpoints(job, self._experiment)
        self._flags = LateFlags(job.ranks)
        self._stop = StopRequest(job.folder.stop_file, answers=job.ranks.is_first)
        self._watchdog = Watchdog(job.config.train.timeout_s, job.folder.path, job.ranks)
        self._profile = StepProfile(
            job.profiled_steps if job.ranks.is_first else 0,
            job.folder.profile,
            _networks(self._experiment),
            device=job.ranks.device,
            first_step=progress.step,
        )
        self._ends = contextlib.ExitStack()
        log.info("%s; %s", self._describe(), beginning.text)
        log.info("%s", self._describe_output())

    def __enter__(self) -> Trainer:
        for end in (self._batches.close, self._monitor.close, self._bad_clips.close, self._checkpoints.close):
            self._ends.callback(end)
        for context in (self._stop, self._watchdog, self._profile):
            self._ends.enter_context(context)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends.__exit__(kind, error, trace)

    def run(self, progress: Progress) -> Progress:
        """Train until `train.steps` or a request to stop. A validation that an earlier stop broke off comes first."""
        progress, is_stopping = self._validate_if_due(progress)
        while progress.step < self._config.train.steps and not is_stopping:
            self._watchdog.beat(f"step {progress.step}")
            loaded = self._next_batch()
            scalars = self._experiment.step(loaded.batch)
            progress = self._after_step(progress, loaded.batch)
            self._log_step(loaded, scalars)
            self._show_examples_if_due(progress)
            progress, is_stopping = self._agree_and_save(progress, loaded.batch)
            if not is_stopping:
                progress, is_stopping = self._validate_if_due(progress)
        return self._end(progress)

    def _next_batch(self) -> Loaded:
        waiting_since = time.monotonic()
        try:
            batch = next(self._batches)
        except ValueError as error:
            if not self._ranks.is_first:  # rank 0, which speaks otherwise, does not know it
                log.error("%s", error)
            raise
        return Loaded(batch, time.monotonic() - waiting_since)

    def _after_step(self, progress: Progress, batch: Batch) -> Progress:
        step = batch.step + 1
        is_due = step % self._validation_interval == 0 or step == self._config.train.steps
        return dataclasses.replace(progress, step=step, validation_pending=is_due)

    def _log_step(self, loaded: Loaded, scalars: Scalars) -> None:
        step = loaded.batch.step
        now, critic = step_schedule(step, self._config), self._experiment.critic
        rates = learning_rates(self._experiment.separator.optimizer, None if critic is None else critic.optimizer)
        values = {"lambda/ind": now.lambda_ind, "lambda/avc": now.lambda_avc, **rates}
        values["memory/loader_gb"] = loaded.batch.cached_bytes / 1e9
        if self._monitor.records(step):
            self._experiment.settle()  # a skipped step has no scalars
        self._monitor.step(step, scalars, values, waited_s=loaded.waited_s)
        self._profile.after_step()

    def _show_examples_if_due(self, progress: Progress) -> None:
        if shows_examples(progress.step, self._config):
            self._watchdog.beat(f"examples after step {progress.step}")
            separator = self._experiment.separator_for_use()
            self._monitor.show(progress.step, self._validation.views(separator) if self._ranks.is_first else [])

    def _agree_and_save(self, progress: Progress, batch: Batch) -> tuple[Progress, bool]:
        """Exchange what only some ranks know, and save if a checkpoint is due; also, whether the run is to stop."""
        self._bad_clips.collect(batch.bad)
        raised = self._flags.exchange(self._stop.requested, self._checkpoints.is_urgent, self._bad_clips.has_new)
        saves = self._checkpoints.is_due(progress) or any(raised[:2])
        if saves:  # what is saved must hold all that has come up
            late = self._flags.settle(len(raised))
            raised = [early or later for early, later in zip(raised, late)]
        is_stopping, _, has_new_bad_clips = raised
        if has_new_bad_clips:
            progress = dataclasses.replace(progress, bad_clips=self._bad_clips.gather(batch.step))
        if saves:
            if is_stopping:
                log.info("stopping: saving after step %d", progress.step)
            self._watchdog.beat(f"checkpoint after step {progress.step}")
            self._monitor.flush(progress.step)
            self._checkpoints.save(progress, wait=is_stopping)
            self._monitor.pause()
        return progress, is_stopping

    def _validate_if_due(self, progress: Progress) -> tuple[Progress, bool]:
        """Validate and keep the best checkpoint; also, whether a request to stop has broken the validation off."""
        if not progress.validation_pending:
            return progress, False
        separator = self._experiment.separator_for_use()
        follow = partial(self._follow_validation, progress.step)
        result = self._validation.run(separator, self._is_stop_requested, follow)
        if result is None:
            log.info("stopping: the validation after step %d is broken off; a resumed run repeats it", progress.step)
            return progress, True
        self._monitor.record_validation(progress.step, result.scalars(), str(result))
        progress = dataclasses.replace(progress, validation_pending=False)
        score = result.means.get("SDR")
        is_best = score is not None and (progress.best_score is None or score > progress.best_score)
        if is_best and score is not None:
            self._monitor.record_best(progress.step, score)
            progress = dataclasses.replace(progress, best_score=score, best_step=progress.step)
        self._watchdog.beat(f"checkpoint after step {progress.step}")
        self._monitor.flush(progress.step)
        self._checkpoints.add_validation(progress, is_best)
        self._monitor.pause()
        return progress, False

    def _follow_validation(self, step: int, done: int, total: int) -> None:
        self._watchdog.beat(f"validation after step {step}")
        self._monitor.show_validation(step, done, total)

    def _is_stop_requested(self) -> bool:
        return self._ranks.any(self._stop.requested)

    def _end(self, progress: Progress) -> Progress:
        if progress.step < self._config.train.steps or progress.validation_pending:
            log.info("stopped on request after step %d; start the run again to resume", progress.step)
            return progress
        if self._ranks.is_first:
            self._job.folder.finish(progress.step)
        self._monitor.finish()
        log.info("finished after step %d", progress.step)
        return progress

    def _describe(self) -> str:
        manifest, ranks = self._job.manifest, self._ranks
        return (
            f"{self._config.name}: {len(manifest.of_split('train'))} clips of "
            f"{len(manifest.instruments('train'))} instruments, {self._config.train.global_batch} mixes a step on "
            f"{ranks.world_size} rank{'' if ranks.world_size == 1 else 's'} ({ranks.device.type})"
        )

    def _describe_output(self) -> str:
        validations = f"a validation of {self._validation.num_mixes} mixes every {self._validation_interval}"
        return (
            f"a line every {self._config.train.log_every} steps: steps, time left, speed, validation SDR (dB), losses; "
            f"{validations}; curves: {runnable('tensorboard', '--logdir', self._job.folder.curves)}"
        )


def _networks(experiment: Experiment) -> dict[str, nn.Module]:
    """Those that learn, by their names; none where their passes are compiled, which names would take part in."""
    if experiment.config.train.compile:
        return {}
    learners = {"separator": experiment.separator, "critic": experiment.critic}
    return {name: learner.module for name, learner in learners.items() if learner is not None}
