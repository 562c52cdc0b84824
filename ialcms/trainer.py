"""The training loop.

    torchrun --standalone --nproc_per_node=2 -m ialcms train configs/demo.yaml      # two workers
    ialcms train configs/demo.yaml train.steps=100                                  # one

A run started again in the same folder goes on from its newest checkpoint.
"""

from __future__ import annotations

import dataclasses
import logging
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch

from ialcms import checkpoint
from ialcms.checkpoint import Progress
from ialcms.config import Config, check_world_size
from ialcms.data.batches import train_batches
from ialcms.data.manifest import Manifest, read_manifest
from ialcms.engine import Workers
from ialcms.monitor import Monitor
from ialcms.run_folder import RunFolder
from ialcms.schedule import turn
from ialcms.step import Experiment
from ialcms.validation import Validation

log = logging.getLogger("ialcms")


def train(config: Config, folder: RunFolder, workers: Workers) -> Progress:
    """Train until `train.steps` or a request to stop; returns where the run is."""
    check_world_size(config, workers.world_size)
    manifest = read_manifest(config.data.shards)
    validation = Validation(config, manifest, workers)  # finds out that there are too few instruments before we start
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = config.train.tf32
    found = workers.broadcast(checkpoint.newest(folder.checkpoints))
    experiment = Experiment(config, workers, pretrained=found is None)
    progress = Progress()
    if found is not None:
        state, progress = checkpoint.load(found, config, manifest.digest)
        experiment.load_state_dict(state)
    batches = train_batches(config, manifest, progress.step, workers.rank, workers.world_size)
    # From here on the input is in order: now the run's folder comes into being.
    if workers.is_first:
        folder.create(config, workers.world_size)
        folder.checkpoints.mkdir(exist_ok=True)
    workers.barrier()
    monitor = Monitor(folder, config, workers, progress.step)
    _greet(config, manifest, workers, progress, found is not None)
    try:
        with _stop_signals() as stop:
            progress = _loop(
                config, folder, workers, manifest, experiment, validation, monitor, batches, progress, stop
            )
    finally:
        monitor.close()
        close = getattr(batches, "close", None)
        if close is not None:
            close()
    return progress


class StopRequest:
    """Set by a signal; workers agree on it between two steps."""

    requested = False


def _loop(
    config: Config,
    folder: RunFolder,
    workers: Workers,
    manifest: Manifest,
    experiment: Experiment,
    validation: Validation,
    monitor: Monitor,
    batches: Iterator,
    progress: Progress,
    stop: StopRequest,
) -> Progress:
    saved_step = progress.step
    every = config.train.validate_every or steps_per_epoch(config, manifest)
    while progress.step < config.train.steps:
        waiting_since = time.monotonic()
        batch = next(batches)
        waited_s = time.monotonic() - waiting_since
        now = turn(batch.step, config)
        scalars = experiment.step(batch.to(workers.device))
        monitor.step(batch.step, scalars, {"lambda/ind": now.lambda_ind, "lambda/avc": now.lambda_avc}, waited_s)
        progress = dataclasses.replace(progress, step=batch.step + 1)
        last = progress.step == config.train.steps

        is_best = False
        if progress.step % every == 0 or last:
            scores = validation.run(experiment.separator.module)
            monitor.record(progress.step, {f"validation/{name}": value for name, value in scores.items()})
            log.info("validation after step %d: %s", progress.step, validation.describe(scores))
            score = scores.get("SDR")
            is_best = score is not None and (progress.best_score is None or score > progress.best_score)
            if is_best:
                progress = dataclasses.replace(progress, best_score=score, best_step=progress.step)
        stopping = workers.any(stop.requested)
        if is_best or last or stopping or progress.step % config.train.checkpoint_every == 0:
            if workers.is_first:
                _save(config, folder, manifest, experiment, progress, is_best)
            workers.barrier()
            saved_step = progress.step
            monitor.pause()
        if stopping:
            log.info("stopped on request after step %d; start the run again to go on", saved_step)
            break
    return progress


def steps_per_epoch(config: Config, manifest: Manifest) -> int:
    """Steps in which `data.epoch_passes` times as many mixes are drawn as there are training clips."""
    instruments = config.data.instruments
    clips = [clip for clip in manifest.of_split("train") if not instruments or clip.instrument in instruments]
    return max(1, round(config.data.epoch_passes * len(clips) / config.train.global_batch))


def _save(
    config: Config, folder: RunFolder, manifest: Manifest, experiment: Experiment, progress: Progress, is_best: bool
) -> None:
    state = experiment.state_dict()
    target = checkpoint.step_folder(folder.checkpoints, progress.step)
    checkpoint.save(target, config, manifest.digest, state, progress)
    if is_best:
        checkpoint.save(folder.best, config, manifest.digest, state, progress)
    checkpoint.prune(folder.checkpoints, config.train.keep_checkpoints)


def _greet(config: Config, manifest: Manifest, workers: Workers, progress: Progress, resumed: bool) -> None:
    log.info(
        "%s: %d clips of %d instruments, %d mixes a step on %d worker%s (%s)",
        config.name,
        len(manifest.of_split("train")),
        len(manifest.instruments("train")),
        config.train.global_batch,
        workers.world_size,
        "" if workers.world_size == 1 else "s",
        workers.device.type,
    )
    if resumed:
        log.info("going on from step %d of %d", progress.step, config.train.steps)


@contextmanager
def _stop_signals() -> Iterator[StopRequest]:
    """TERM, INT and USR1 ask for a checkpoint and an end at the next step boundary; a second one ends at once."""
    stop = StopRequest()
    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    before = {number: signal.getsignal(number) for number in signals}

    def request(number: int, frame: FrameType | None) -> None:
        stop.requested = True
        signal.signal(number, before[signal.Signals(number)])

    for number in signals:
        signal.signal(number, request)
    try:
        yield stop
    finally:
        for number in signals:
            signal.signal(number, before[number])
