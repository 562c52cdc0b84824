"""Batches of the training data for one rank.

    for batch in train_batches(config, manifest, start_step, rank, world_size, device):
        ...

Rank r of W has the lanes [r * G / W, (r + 1) * G / W) of the global batch: the ranks' batches one after the other
are the global batch, whatever W is, and draw s of every lane is step s.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing

import torch

from ialcms.config import Config, check_world_size
from ialcms.data.batch import Batch
from ialcms.data.loader import load, most_clips
from ialcms.data.manifest import Manifest
from ialcms.data.normalise import normalise_objects
from ialcms.data.plan import Plan
from ialcms.data.selection import select_clips
from ialcms.processes import cores_of_a_rank

__all__ = ["BadClips", "Batch", "cached_bytes", "loader_workers", "normalise_objects", "train_batches"]

log = logging.getLogger(__name__)


def train_batches(
    config: Config,
    manifest: Manifest,
    start_step: int = 0,
    rank: int = 0,
    world_size: int = 1,
    device: torch.device | str = "cpu",
) -> Generator[Batch]:
    """The batches of steps start_step, start_step + 1, ... for rank `rank`, without end.

    config, manifest: of the run. rank, world_size: which of how many ranks. device: where the batches are wanted; those
    for a GPU are prefetched. What the batches hold depends on the binding fields of the configuration, the manifest and
    the step; nothing before start_step is read. Clips that cannot be used are replaced and named in `Batch.bad`, for
    `BadClips`; a shard that cannot be read ends the iteration with a ValueError. Closing the iterator ends the loader
    workers.
    """
    if manifest.sample_rate != config.audio.sample_rate:
        raise ValueError(
            f"the shards in {manifest.folder} have {manifest.sample_rate} Hz, audio.sample_rate is "
            f"{config.audio.sample_rate}; pack them at that rate or set audio.sample_rate={manifest.sample_rate}"
        )
    check_world_size(config, world_size)
    plan = Plan(manifest, config.data, config.audio, seed=config.seed, num_lanes=config.train.global_batch)
    share = config.train.global_batch // world_size
    lanes = range(rank * share, (rank + 1) * share)
    num_workers = loader_workers(config, share)
    chosen = " (auto)" if config.data.loader_workers == "auto" else ""
    processes = "1 loader worker" if num_workers == 1 else f"{num_workers} loader workers"
    where = processes + chosen if num_workers else "the training process"
    summary = (
        f"loader: {plan.num_clips} clips in {len(manifest.shards)} shards; lanes {lanes.start} to {lanes.stop - 1} in "
        f"{where}; at most {min(most_clips(plan, share), plan.num_clips * max(num_workers, 1))} clips or about "
        f"{cached_bytes(plan, share, num_workers) / 1e6:.0f} MB cached"
    )
    batches = load(
        plan, lanes, start_step, num_workers=num_workers, prefetch=config.data.prefetch, device=torch.device(device)
    )
    return _announced(batches, summary)


def loader_workers(config: Config, num_lanes: int) -> int:
    """Processes that prepare a rank's `num_lanes` lanes: `data.loader_workers`, but no more than there are lanes.

    auto leaves one of the rank's cores to the training itself.
    """
    wanted = config.data.loader_workers
    return min(max(1, cores_of_a_rank() - 1) if wanted == "auto" else wanted, num_lanes)


def cached_bytes(plan: Plan, num_lanes: int, num_workers: int) -> int:
    """About the memory that the clips of a rank with `num_lanes` lanes take at most, in bytes.

    Sound and boxes of every clip that is cached, and for every lane its pictures of the clips in its window.
    """
    numbers = plan.manifest.table.numbers
    num_samples, num_boxes = (int(numbers[name][plan.clip_indices].sum()) for name in ("num_samples", "num_boxes"))
    sounds = (2 * num_samples + 4 * 7 * num_boxes) / plan.num_clips
    most = most_clips(plan, num_lanes)
    picture = 3 * plan.data.image_resize**2
    return round(
        sounds * min(most, plan.num_clips * max(num_workers, 1))
        + picture * plan.data.pictures_per_clip * min(most, plan.num_clips * num_lanes)
    )


def _announced(batches: Generator[Batch], summary: str) -> Generator[Batch]:
    log.info(summary)  # at the first batch: a run's log file is not there before
    with closing(batches):
        yield from batches


class BadClips:
    """Clips that had to be replaced, each counted and named once; too many of them stop a run.

    In the log the first ones stand at once, then all new ones of a minute together.
    """

    AT_ONCE = 10
    PAUSE_S = 60.0

    def __init__(
        self,
        config: Config,
        manifest: Manifest,
        seen: Iterable[str] = (),
        logs: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """seen: those that a run has met before; logs: whether they are to be logged, too.

        config, manifest: for how many clips there are. clock: seconds, for the pauses in the log.
        """
        self._most = config.data.max_bad_fraction
        self._num_clips = len(select_clips(manifest, "train", config.data.instruments))
        self._logs, self._clock = logs, clock
        self._seen = dict.fromkeys(seen)
        self._unlogged: dict[str, tuple[int, str]] = {}  # by key: step and reason
        self._logged_at = -math.inf

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(self._seen)

    def has_new(self, bad: Mapping[str, str]) -> bool:
        return not self._seen.keys() >= bad.keys()

    def add(self, step: int, bad: Mapping[str, str]) -> None:
        """bad: of the batch of `step`, key -> one line with shard and reason. ValueError when there are too many."""
        for key, line in bad.items():
            if key not in self._seen:
                self._seen[key] = None
                self._unlogged[key] = step, line
        if len(self._seen) <= self.AT_ONCE or self._clock() - self._logged_at >= self.PAUSE_S:
            self.log_new()
        if len(self._seen) > self._most * self._num_clips:
            raise ValueError(
                f"{len(self._seen)} of {self._num_clips} training clips cannot be used, more than "
                f"data.max_bad_fraction={self._most:g}; the last, in step {step}: {list(bad.values())[-1]}; run "
                "'ialcms data verify --fix'"
            )

    def log_new(self) -> None:
        """Log the clips that are not in the log yet: a line each as long as they are few, else one line for all."""
        if not self._unlogged or not self._logs:
            return
        count = len(self._seen)
        if count <= self.AT_ONCE:
            for number, (step, line) in enumerate(self._unlogged.values(), start=count - len(self._unlogged) + 1):
                log.warning("step %d: replaced a clip (the %d. so far): %s", step, number, line)
        else:
            step, line = next(reversed(self._unlogged.values()))
            keys = ", ".join(self._unlogged)
            log.warning("step %d: replaced clips %s (%d so far); the last: %s", step, keys, count, line)
        self._unlogged.clear()
        self._logged_at = self._clock()
