"""`ialcms train --dry-run`: what a run would do, what it would take, and its first plan; nothing is written."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

import torch

from ialcms.config import Config
from ialcms.data.remote import open_manifest
from ialcms.data.train_batches import train_batches
from ialcms.engine import Ranks
from ialcms.info import describe, describe_plan
from ialcms.models.arithmetic import set_arithmetic
from ialcms.monitoring.measurements import peak_memory_gb
from ialcms.progress import duration
from ialcms.runs import checkpoint
from ialcms.runs.run_folder import RunFolder
from ialcms.training.schedule import StepSchedule, step_schedule
from ialcms.training.step import Experiment


def dry_run(config: Config, folder: RunFolder, ranks: Ranks) -> str:
    """The text for the user, on rank 0; all ranks call it together.

    Networks are built as for a new run, and trained for the first steps of the run on its own samples: one step of each
    kind to warm up, or as many as it takes until they are recorded, then one of each that is timed. ValueError where
    the run could not start.
    """
    text = [_what(config, folder, ranks.world_size), "", describe(config, ranks.world_size), ""]
    text += [_first_mix(config), ""]
    set_arithmetic(config, fixed_shapes=True)
    experiment = Experiment(config, ranks)
    kinds = _kinds(config)
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    manifest = open_manifest(config.data.shards)
    batches = train_batches(config, manifest, 0, rank=ranks.rank, world_size=ranks.world_size, device=ranks.device)
    with closing(batches):
        while any(len(timed) <= experiment.first_steps for timed in seconds.values()):
            batch = next(batches)
            kind = _kind(step_schedule(batch.step, config))
            began = time.monotonic()
            experiment.step(batch)
            experiment.settle()
            _wait_for_device(ranks.device)
            if kind and len(seconds[kind]) <= experiment.first_steps:
                seconds[kind].append(time.monotonic() - began)
    last = {kind: ranks.largest(torch.tensor(timed[-1])).item() for kind, timed in seconds.items()}
    text += [f"a step in which {kind}: {step_s:.3g} s" for kind, step_s in last.items()]
    mean_s = sum(last[kind] * share for kind, share in kinds.items())
    text.append(
        f"{config.train.steps:,} steps: about {duration(mean_s * config.train.steps)} at this rate, without "
        "validations and checkpoints"
    )
    text.append(_memory(ranks.device))
    return "\n".join(text)


def _what(config: Config, folder: RunFolder, world_size: int) -> str:
    newest = checkpoint.newest_intact(folder.checkpoints)
    begin = "would begin a run" if newest is None else f"would resume from {newest.name}"
    last = f"to step {config.train.steps:,}"
    count = f"{world_size} rank{'' if world_size == 1 else 's'}"
    return f"dry run, nothing is written: {begin} in {Path(folder.path)} and train {last} on {count}"


def _first_mix(config: Config) -> str:
    """The plan of the first step without the lanes behind the first one."""
    head, _, table = describe_plan(config, 0).partition("\n\n")
    lines = table.partition("\n\n")[0].splitlines()
    first = [lines[0], *(line for line in lines[1:] if line.split()[0] == "0")]
    return "\n".join([head.splitlines()[0], *(f"  {line}" for line in first)])


def _kinds(config: Config) -> dict[str, float]:
    """Kinds of steps that train anything, with the share of all steps that they are."""
    period = config.train.critic_every * config.train.separator_every
    kinds = [_kind(step_schedule(step, config)) for step in range(period)]
    return {kind: kinds.count(kind) / period for kind in dict.fromkeys(kinds) if kind}


def _kind(now: StepSchedule) -> str:
    if now.train_critic and now.train_separator:
        return "both networks learn"
    if now.train_critic:
        return "the critic alone learns"
    return "the separator alone learns" if now.train_separator else ""


def _memory(device: torch.device) -> str:
    process_gb, device_gb = peak_memory_gb(device)
    text = f"memory of rank 0 at its peak: {process_gb:.1f} GB, without its loader workers"
    return text + (f"; of its GPU {device_gb:.1f} GB" if device.type == "cuda" else "")


def _wait_for_device(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
