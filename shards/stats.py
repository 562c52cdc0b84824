"""What a set of shards holds, from its manifest alone: clips, hours, videos and boxes per instrument; its balance."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ialcms.csv_cells import text_cell
from ialcms.data.manifest import SPLITS, Clip, Manifest
from ialcms.names import ENCODING_ERRORS

COLUMNS = ("instrument", *SPLITS, "clips", "videos", "hours", "boxes", "boxes/clip", "MB")


@dataclass(frozen=True)
class InstrumentStats:
    """Sums over the clips of an instrument, or of all."""

    name: str
    clips: dict[str, int]  # per split
    num_videos: int
    seconds: float
    num_boxes: int
    num_bytes: int

    @property
    def num_clips(self) -> int:
        return sum(self.clips.values())

    @property
    def boxes_per_clip(self) -> float:
        return self.num_boxes / max(self.num_clips, 1)

    def row(self) -> tuple[str, ...]:
        """The cells of COLUMNS."""
        return (
            self.name,
            *(str(self.clips[split]) for split in SPLITS),
            str(self.num_clips),
            str(self.num_videos),
            f"{self.seconds / 3600:.2f}",
            str(self.num_boxes),
            f"{self.boxes_per_clip:.1f}",
            f"{self.num_bytes / 1e6:.1f}",
        )


@dataclass(frozen=True)
class SplitBalance:
    """How alike the shards of a split are."""

    split: str
    names: tuple[str, ...]  # of its shards
    clips: NDArray[np.int64]  # (S, I) clips per shard and instrument of the whole set
    num_bytes: NDArray[np.int64]  # (S,)

    @property
    def shares(self) -> NDArray[np.float64]:
        """(S, I) an instrument's share of a shard over its share of the split: 1 is even, 0 is none."""
        totals = self.clips.sum(axis=0)
        expected = totals / totals.sum() * self.clips.sum(axis=1, keepdims=True)
        return np.divide(self.clips, expected, out=np.ones(self.clips.shape), where=expected > 0)

    def line(self) -> str:
        per_shard, sizes = self.clips.sum(axis=1), self.num_bytes / 1e6
        present = self.clips.sum(axis=0) > 0
        fewest = (self.clips[:, present] > 0).sum(axis=1).min()
        return (
            f"{self.split}: {len(self.names)} shards of {per_shard.min()} to {per_shard.max()} clips, "
            f"{sizes.min():.1f} to {sizes.max():.1f} MB, each with {fewest} or more of {present.sum()} instruments"
        )


@dataclass(frozen=True)
class Stats:
    """Counts of a data set, of each instrument and split."""

    instruments: list[InstrumentStats]  # by name
    total: InstrumentStats
    balance: list[SplitBalance]  # of the splits that have shards
    shared_videos: int  # with clips for training and for validation or test


def collect_stats(manifest: Manifest) -> Stats:
    """Count what the manifest lists."""
    names = manifest.instruments()
    of_name: dict[str, list[Clip]] = {name: [] for name in names}
    videos: dict[str, set[str]] = {split: set() for split in SPLITS}
    for clip in manifest.clips:
        of_name[clip.instrument].append(clip)
        videos[clip.split].add(clip.video)
    balances = [_balance(manifest, split, names) for split in SPLITS]
    return Stats(
        instruments=[_sum_up(name, clips, manifest.sample_rate) for name, clips in of_name.items()],
        total=_sum_up("all", manifest.clips, manifest.sample_rate),
        balance=list(filter(None, balances)),
        shared_videos=len(videos["train"] & (videos["val"] | videos["test"])),
    )


def table_lines(stats: Stats) -> list[str]:
    """The table as text, columns aligned."""
    rows = [COLUMNS, *(item.row() for item in stats.instruments), stats.total.row()]
    widths = [max(map(len, column)) for column in zip(*rows)]
    return [_aligned(row, widths) for row in rows]


def table_csv(stats: Stats) -> bytes:
    """The table as a CSV file."""
    text = io.StringIO()
    rows = [COLUMNS, *(item.row() for item in stats.instruments), stats.total.row()]
    csv.writer(text, lineterminator="\n").writerows([[text_cell(row[0]), *row[1:]] for row in rows])
    return text.getvalue().encode(errors=ENCODING_ERRORS)


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    """A line of the table: the name to the left, the figures to the right."""
    figures = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
    return "  ".join([row[0].ljust(widths[0]), *figures])


def _sum_up(name: str, clips: Sequence[Clip], sample_rate: int) -> InstrumentStats:
    counts = Counter(clip.split for clip in clips)
    videos = {clip.video for clip in clips}
    num_samples = sum(clip.num_samples for clip in clips)
    num_boxes = sum(clip.num_boxes for clip in clips)
    num_bytes = sum(clip.size for clip in clips)
    return InstrumentStats(
        name=name,
        clips={split: counts[split] for split in SPLITS},
        num_videos=len(videos),
        seconds=num_samples / sample_rate,
        num_boxes=num_boxes,
        num_bytes=num_bytes,
    )


def _balance(manifest: Manifest, split: str, names: list[str]) -> SplitBalance | None:
    clips = manifest.of_split(split)
    shards = sorted({clip.shard for clip in clips})
    if not shards:
        return None
    rows = {shard: row for row, shard in enumerate(shards)}
    counts = np.zeros((len(shards), len(names)), np.int64)
    for clip in clips:
        counts[rows[clip.shard], names.index(clip.instrument)] += 1
    names_of_shards = tuple(manifest.shards[shard].name for shard in shards)
    num_bytes = np.array([manifest.shards[shard].num_bytes for shard in shards], np.int64)
    return SplitBalance(split, names_of_shards, counts, num_bytes=num_bytes)
