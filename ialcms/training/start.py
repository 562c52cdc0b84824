"""The start of a training run: which checkpoint or weights it begins with, and its folder."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path

from ialcms.config import Config
from ialcms.data.manifest import Manifest
from ialcms.engine import Ranks, state_from_first
from ialcms.launched import launch_mark
from ialcms.lease import Lease
from ialcms.runs import checkpoint
from ialcms.runs.checkpoint import Progress
from ialcms.runs.run_folder import RunFolder, Start
from ialcms.training.init_from import init_from
from ialcms.training.step import Experiment

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What a training run is given."""

    config: Config
    folder: RunFolder
    ranks: Ranks
    manifest: Manifest
    lease: Lease  # of the run's folder; rank 0 has it
    resume: str = "auto"  # or "none", or a checkpoint's folder
    weights: Path | None = None  # of --init-from
    profiled_steps: int = 0


@dataclass(frozen=True)
class Beginning:
    """Where training starts: from nothing, other weights, or a checkpoint."""

    experiment: Experiment
    progress: Progress
    text: str  # for the log
    start: Start  # for the run's folder


def begin(job: Job) -> Beginning:
    """Build the networks and load what the run begins with; on all ranks alike. Nothing is written.

    Rank 0 alone reads files: 512 ranks that each read a checkpoint would stop a shared file system. ValueError where
    checkpoint or weights do not fit.
    """
    config, ranks = job.config, job.ranks
    start = Start(ranks.gather_objects(launch_mark()), job.weights)
    # Rank 0 decides for all: the others may see another state of a shared file system.
    found = ranks.from_first(lambda: _checkpoint_to_resume(job, start))
    experiment = Experiment(config, ranks, pretrained=found is None and job.weights is None)
    if found is not None:
        state, progress = state_from_first(ranks, lambda: checkpoint.load(found, config, job.manifest.digest))
        with checkpoint.fitting(found):
            experiment.load_state_dict(state)
        text = f"resumes from step {progress.step} of {config.train.steps}"
        return Beginning(experiment, progress, text, start=start)
    if job.weights is not None:
        return Beginning(
            experiment, Progress(), f"starts with {_weights_from_first(experiment, job.weights)}", start=start
        )
    text = "from the start"
    if origin := experiment.separator.module.visual.backbone.origin:
        text += f"; backbone {config.model.visual.weights}: {origin}"
    return Beginning(experiment, Progress(), text, start=start)


def open_folder(job: Job, beginning: Beginning) -> Progress:
    """Make the run's folder, or put an old one into the state of the step that is resumed from.

    Returns the run's progress, without a best score where the checkpoint of it is not in the folder. All ranks call it.
    """
    folder, progress = job.folder, beginning.progress
    if job.ranks.is_first:
        folder.create(job.config, job.ranks.world_size, beginning.start)
        folder.start()
        checkpoint.abandon_after(folder.checkpoints, progress.step)
        checkpoint.restore_best(folder.checkpoints, progress)
    job.ranks.barrier()
    # Of a damaged checkpoint, or in another folder: a later validation must be able to become the best.
    if not job.ranks.broadcast(job.ranks.is_first and checkpoint.best(folder.checkpoints) is not None):
        progress = dataclasses.replace(progress, best_score=None, best_step=None)
    return progress


def _weights_from_first(experiment: Experiment, source: Path) -> str:
    """`init_from` on rank 0, whose networks the other ranks copy."""
    filled = experiment.ranks.from_first(lambda: init_from(experiment, source))
    for learner in (experiment.separator, experiment.critic):
        if learner is not None:
            experiment.ranks.copy_from_first([*learner.module.parameters(), *learner.module.buffers()])
    return filled


def _checkpoint_to_resume(job: Job, start: Start) -> Path | None:
    folder, resume = job.folder, job.resume
    if resume != "auto" and folder.was_started_by(start.marks):
        # torchrun starts the ranks again when a node joins or leaves, with the same arguments
        log.warning("--resume %s was done when this launch started; resuming from the newest checkpoint", resume)
        resume = "auto"
    if resume == "auto":
        newest = checkpoint.newest_intact(folder.checkpoints)
        if newest is not None and start.weights is not None and not folder.was_begun_with(start.weights):
            raise ValueError(
                f"{folder.path} has checkpoints already, of a run that did not begin with {start.weights}: leave out "
                "--init-from to resume that run, or give another --folder to begin a new one"
            )
        return newest
    if resume != "none":
        return Path(resume)
    if checkpoint.newest(folder.checkpoints) is not None:
        raise ValueError(f"{folder.path} has checkpoints already; --resume none needs another --folder, or delete it")
    return None
