"""The training loop.

    torchrun --standalone --nproc_per_node=2 -m ialcms train configs/demo.yaml      # two ranks
    ialcms train configs/demo.yaml train.steps=100                                  # one

A run started again in the same folder goes on from its newest checkpoint.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ialcms.config import Config, check_world_size, shared_fields
from ialcms.data.manifest import Manifest
from ialcms.data.selection import select_clips
from ialcms.data.train_batches import BadClips, Batch, train_batches
from ialcms.engine import LateFlags, Ranks, Watchdog, check_same_fields
from ialcms.engine.held_folder import held_folder
from ialcms.engine.same_input import open_same_manifest
from ialcms.launched import launch_mark
from ialcms.lease import Lease
from ialcms.models.arithmetic import set_arithmetic
from ialcms.monitoring.monitor import Monitor, learning_rates
from ialcms.monitoring.profile import StepProfile, check_profile
from ialcms.runs import checkpoint
from ialcms.runs.checkpoint import Progress
from ialcms.runs.checkpoint_writer import CheckpointWriter
from ialcms.runs.run_folder import RunFolder, Start
from ialcms.training.init_from import init_from
from ialcms.training.schedule import step_schedule
from ialcms.training.step import Experiment
from ialcms.training.stop_request import StopRequest
from ialcms.training.validation import Validation

log = logging.getLogger("ialcms")


def train(
    config: Config,
    folder: RunFolder,
    ranks: Ranks,
    resume: str = "auto",
    weights: Path | None = None,
    profiled_steps: int = 0,
) -> Progress:
    """Train until `train.steps` or a request to stop; returns where the run is.

    resume: "auto" goes on from the newest checkpoint in the folder, "none" starts afresh in a folder without any, or a
    checkpoint's folder. weights: start a new run with these networks (see `init_from`). profiled_steps: steps to write
    a profile of. ValueError for faults in the input, before anything is written.
    """
    check_world_size(config, ranks.world_size)
    check_same_fields(ranks, shared_fields(config))
    manifest = open_same_manifest(ranks, config.data.shards)
    lease = Lease(folder.path, "training", "--folder", name="the run's folder")
    with held_folder(ranks, lease, must_be_shared=True):
        return _train(
            config,
            folder,
            ranks,
            manifest,
            resume=resume,
            weights=weights,
            lease=lease,
            profiled_steps=profiled_steps,
        )


def _train(
    config: Config, folder: RunFolder, ranks: Ranks, manifest: Manifest, *, resume: str, weights: Path | None,
    lease: Lease, profiled_steps: int,
) -> Progress:  # fmt: skip
    validation = Validation(config, manifest, ranks)  # finds out that there are too few instruments before we start
    set_arithmetic(config, fixed_shapes=True)
    # Rank 0 decides for all: the others may see another state of a shared file system.
    start = Start(ranks.gather_objects(launch_mark()), weights)
    found = ranks.from_first(lambda: _checkpoint_to_resume(folder, resume, start))
    experiment = Experiment(config, ranks, pretrained=found is None and weights is None)
    progress, beginning = Progress(), "from the start"
    if found is not None:
        state, progress = checkpoint.load(found, config, manifest.digest)
        with checkpoint.fitting(found):
            experiment.load_state_dict(state)
        beginning = f"going on from step {progress.step} of {config.train.steps}"
    elif weights is not None:
        beginning = f"starting with {init_from(experiment, weights)}"
    elif origin := experiment.separator.module.visual.backbone.origin:
        beginning += f"; backbone {config.model.visual.weights}: {origin}"
    if profiled_steps:
        check_profile(profiled_steps, config.train.steps - progress.step)
    batches = train_batches(config, manifest, progress.step, ranks.rank, ranks.world_size, ranks.device)

    # From here on the input is in order: now the run's folder comes into being.
    if ranks.is_first:
        folder.create(config, ranks.world_size, start)
        folder.start()
        checkpoint.abandon_after(folder.checkpoints, progress.step)
        checkpoint.restore_best(folder.checkpoints, progress)
    ranks.barrier()
    monitor = Monitor(folder, config, ranks, progress.step)
    bad = BadClips(config, manifest, progress.bad_clips, logs=ranks.is_first)
    writer = CheckpointWriter(folder.checkpoints, config, manifest.digest, lease if ranks.is_first else None)
    # Of a damaged checkpoint, or in another folder: a later validation must be able to become the best.
    if not ranks.broadcast(ranks.is_first and checkpoint.best(folder.checkpoints) is not None):
        progress = dataclasses.replace(progress, best_score=None, best_step=None)
    log.info("%s; %s", _describe(config, manifest, ranks), beginning)
    try:
        watchdog = Watchdog(config.train.timeout_s, folder.path, ranks)
        looks = profiled_steps if ranks.is_first else 0
        with (
            StopRequest(folder.stop_file) as stop,
            watchdog,
            StepProfile(
                looks, folder.profile, _networks(experiment), device=ranks.device, first_step=progress.step
            ) as profile,
        ):
            run = _Run(config, folder, ranks, manifest, experiment, validation, monitor, writer, stop, watchdog, bad,
                       profile)  # fmt: skip
            return run.loop(batches, progress)
    finally:
        writer.wait()
        bad.log_new()
        monitor.close()
        batches.close()


@dataclass
class _Run:
    config: Config
    folder: RunFolder
    ranks: Ranks
    manifest: Manifest
    experiment: Experiment
    validation: Validation
    monitor: Monitor
    writer: CheckpointWriter
    stop: StopRequest
    watchdog: Watchdog
    bad: BadClips
    profile: StepProfile

    def loop(self, batches: Generator[Batch], progress: Progress) -> Progress:
        config, ranks, monitor = self.config, self.ranks, self.monitor
        validate_every = config.train.validate_every or steps_per_epoch(config, self.manifest)
        flags = LateFlags(ranks)
        unshared: dict[str, str] = {}  # clips that this rank had to replace and has not told the others of
        while progress.step < config.train.steps:
            self.watchdog.beat(f"step {progress.step}")
            waiting_since = time.monotonic()
            try:
                batch = next(batches)
            except ValueError as error:
                if not ranks.is_first:  # rank 0, which speaks otherwise, does not know it
                    log.error("%s", error)
                raise
            waited_s = time.monotonic() - waiting_since
            now = step_schedule(batch.step, config)
            scalars = self.experiment.step(batch)
            values = {"lambda/ind": now.lambda_ind, "lambda/avc": now.lambda_avc, **self._learning_rates()}
            values["memory/loader_gb"] = batch.cached_bytes / 1e9
            if monitor.records(batch.step):
                self.experiment.settle()  # a skipped step has no scalars
            monitor.step(batch.step, scalars, values, waited_s)
            progress = dataclasses.replace(progress, step=batch.step + 1)
            self.profile.after_step()

            is_last = progress.step == config.train.steps
            is_best = False
            if progress.step % validate_every == 0 or is_last:
                self.watchdog.beat(f"validation after step {progress.step}")
                progress, is_best = self._validate(progress)
            show_every = config.train.visualise_every
            if show_every and (progress.step % show_every == 0 or is_last):
                self.watchdog.beat(f"pictures after step {progress.step}")
                separator = self.experiment.separator_for_use()
                monitor.show(progress.step, self.validation.views(separator) if ranks.is_first else [])
            unshared |= batch.bad
            overdue = ranks.is_first and (self.writer.is_overdue() or self.writer.shut_out)
            raised = flags.exchange(self.stop.requested, overdue, self.bad.has_new(unshared))
            saves = is_best or is_last or self.writer.is_due(progress.step) or any(raised[:2])
            if saves:  # what is saved must hold all that has come up
                raised = [early or late for early, late in zip(raised, flags.settle(len(raised)))]
            stopping, _, found = raised
            if found:
                progress = self._share_bad_clips(progress, unshared)
                unshared = {}
            if saves:
                self._save(progress, is_best, wait=is_last or stopping)
            if stopping and not is_last:
                log.info("stopped on request after step %d; start the run again to go on", progress.step)
                return progress
        if ranks.is_first:
            self.folder.finish(progress.step)
        monitor.finish()
        log.info("finished after step %d", progress.step)
        return progress

    def _validate(self, progress: Progress) -> tuple[Progress, bool]:
        """Where the run is with the validation's score counted in, and whether it is the best so far."""
        result = self.validation.run(self.experiment.separator_for_use())
        self.monitor.record_validation(progress.step, result.scalars(), str(result))
        score = result.means.get("SDR")
        if score is None or (progress.best_score is not None and score <= progress.best_score):
            return progress, False
        self.monitor.record_best(progress.step, score)
        return dataclasses.replace(progress, best_score=score, best_step=progress.step), True

    def _share_bad_clips(self, progress: Progress, own: dict[str, str]) -> Progress:
        every = {key: line for bad in self.ranks.gather_objects(own) for key, line in bad.items()}
        self.bad.add(progress.step - 1, every)
        return dataclasses.replace(progress, bad_clips=self.bad.keys)

    def _learning_rates(self) -> dict[str, float]:
        critic = self.experiment.critic
        return learning_rates(self.experiment.separator.optimizer, None if critic is None else critic.optimizer)

    def _save(self, progress: Progress, is_best: bool, wait: bool) -> None:
        self.watchdog.beat(f"checkpoint after step {progress.step}")
        self.monitor.flush(progress.step)
        state = self.experiment.state_dict()  # of all ranks: an engine may have to gather it
        if self.ranks.is_first:
            self.writer.wait()
            if not self.writer.failed_for_good:
                self.writer.write(state, progress, is_best)
            if wait or self.writer.shut_out:
                self.writer.wait()
        self.monitor.pause()
        given_up = self.writer.failed_for_good or (wait and self.writer.failed)
        if self.ranks.any(given_up):
            reason, times = self.ranks.broadcast((self.writer.last_failure, self.writer.failures))
            if self.ranks.broadcast(self.writer.shut_out):
                raise ValueError(reason)
            raise ValueError(
                f"no checkpoint could be written to {self.folder.checkpoints} "
                f"{times} time{'s in a row' if times > 1 else ''} ({reason}); make room there or choose another "
                "--folder, then start again"
            )


def steps_per_epoch(config: Config, manifest: Manifest) -> int:
    """Steps in which `data.epoch_passes` times as many mixes are drawn as there are training clips."""
    num_clips = len(select_clips(manifest, "train", config.data.instruments))
    return max(1, round(config.data.epoch_passes * num_clips / config.train.global_batch))


def _checkpoint_to_resume(folder: RunFolder, resume: str, start: Start) -> Path | None:
    if resume != "auto" and folder.was_started_by(start.marks):
        # torchrun starts the ranks again when a node joins or leaves, with the same words
        log.warning("--resume %s was done when this launch started; going on from the newest checkpoint", resume)
        resume = "auto"
    if resume == "auto":
        newest = checkpoint.newest_intact(folder.checkpoints)
        if newest is not None and start.weights is not None and not folder.was_begun_with(start.weights):
            raise ValueError(
                f"{folder.path} has checkpoints already, of a run that did not begin with {start.weights}: leave out "
                "--init-from to go on with that run, or give another --folder to begin a new one"
            )
        return newest
    if resume != "none":
        return Path(resume)
    if checkpoint.newest(folder.checkpoints) is not None:
        raise ValueError(f"{folder.path} has checkpoints already; --resume none needs another --folder, or delete it")
    return None


def _describe(config: Config, manifest: Manifest, ranks: Ranks) -> str:
    return (
        f"{config.name}: {len(manifest.of_split('train'))} clips of {len(manifest.instruments('train'))} instruments, "
        f"{config.train.global_batch} mixes a step on {ranks.world_size} "
        f"rank{'' if ranks.world_size == 1 else 's'} ({ranks.device.type})"
    )


def _networks(experiment: Experiment) -> dict[str, nn.Module]:
    """Those that learn, by their names; none where their passes are compiled, which names would take part in."""
    if getattr(experiment.config.train, "compile", False):
        return {}
    learners = {"separator": experiment.separator, "critic": experiment.critic}
    return {name: learner.module for name, learner in learners.items() if learner is not None}
