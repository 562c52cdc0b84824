"""The picture of a set of shards: clips and boxes per instrument as bars, the balance of its shards as a map."""

from __future__ import annotations

import io

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ialcms.data.manifest import SPLITS
from ialcms.names import for_matplotlib
from shards.stats import SplitBalance, Stats

_WIDTH_INCHES, _DPI = 14.0, 100
_ROW_INCHES, _SHARD_ROW_INCHES = 0.26, 0.13
_FAINT = "#868e96"
# blue, orange and green that people with any colour vision distinguish (Okabe and Ito 2008)
SPLIT_COLOURS = {"train": "#0072b2", "val": "#e69f00", "test": "#009e73"}
_BOX_COLOUR = "#7878a0"
_MOST_ROWS = 60  # of shards that are drawn; of more, evenly chosen ones
# of an instrument's share of a shard over its share of the split: orange none, grey even, blue twice as many or more
_BALANCE = LinearSegmentedColormap.from_list("balance", ["#d55e00", "#f5f5f5", "#0072b2"])


def draw_stats(stats: Stats, title: str) -> bytes:
    """A PNG of 1400 pixels width."""
    buffer = io.BytesIO()
    stats_figure(stats, title).savefig(buffer, format="png")
    return buffer.getvalue()


def stats_figure(stats: Stats, title: str) -> Figure:
    """Bars of clips and of boxes per clip in the first row, below them a map of every split's shards."""
    chosen = [_choose(len(balance.names)) for balance in stats.balance]
    heights = [_ROW_INCHES * len(stats.instruments) + 0.9]
    heights += [_SHARD_ROW_INCHES * len(rows) + 1.3 for rows in chosen]
    figure = Figure(figsize=(_WIDTH_INCHES, sum(heights) + 0.9), dpi=_DPI, layout="constrained")
    grid = figure.add_gridspec(len(heights), 2, height_ratios=heights, width_ratios=(3, 2))
    total = stats.total
    figure.suptitle(
        f"{for_matplotlib(title)}\n{total.num_clips:,} clips of {total.num_videos:,} videos, "
        f"{total.seconds / 3600:.1f} hours, {total.num_boxes:,} boxes, {total.num_bytes / 1e9:.2f} GB"
    )
    _draw_clips(figure.add_subplot(grid[0, 0]), stats)
    _draw_boxes(figure.add_subplot(grid[0, 1]), stats)
    for number, (balance, rows) in enumerate(zip(stats.balance, chosen), start=1):
        _draw_balance(figure.add_subplot(grid[number, :]), stats, balance, rows=rows)
    return figure


def _draw_clips(axes: Axes, stats: Stats) -> None:
    positions = np.arange(len(stats.instruments))
    ends = np.zeros(len(positions))
    for split in SPLITS:
        counts = np.array([item.clips[split] for item in stats.instruments])
        axes.barh(positions, counts, left=ends, color=SPLIT_COLOURS[split], label=split)
        ends += counts
    for position, item in enumerate(stats.instruments):
        videos = "video" if item.num_videos == 1 else "videos"
        text = f" {item.num_clips:,} from {item.num_videos:,} {videos}"
        axes.text(item.num_clips, position, text, va="center", fontsize=8, color=_FAINT)
    axes.set_xlim(0, 1.25 * max(1.0, *ends) if len(ends) else 1.0)
    axes.set_title("clips", loc="left")
    axes.legend(ncols=len(SPLITS), loc="lower right", bbox_to_anchor=(1, 1), frameon=False, fontsize=8)
    _name_rows(axes, [item.name for item in stats.instruments])


def _draw_boxes(axes: Axes, stats: Stats) -> None:
    bars = axes.barh(range(len(stats.instruments)), [item.boxes_per_clip for item in stats.instruments])
    for bar in bars:
        bar.set_color(_BOX_COLOUR)
    axes.bar_label(bars, fmt=" %.1f", fontsize=8, color=_FAINT)
    axes.margins(x=0.15)
    axes.set_title("boxes per clip", loc="left")
    _name_rows(axes, [item.name for item in stats.instruments])


def _draw_balance(axes: Axes, stats: Stats, balance: SplitBalance, rows: NDArray[np.intp]) -> None:
    """One row a shard, one column an instrument; shares above twice the fair one look like twice.

    stats: of the whole set. balance: of the split. rows: indices of the shards that are shown.
    """
    image = axes.pcolormesh(balance.shares[rows], cmap=_BALANCE, vmin=0.0, vmax=2.0, edgecolors="white", linewidth=0.5)
    axes.invert_yaxis()
    names = [for_matplotlib(item.name) for item in stats.instruments]
    axes.set_xticks(np.arange(len(names)) + 0.5, names, rotation=30, ha="right", rotation_mode="anchor")
    shown = range(0, len(rows), 3)
    labels = [f"{balance.names[rows[n]]} ({balance.clips[rows[n]].sum():,})" for n in shown]
    axes.set_yticks([n + 0.5 for n in shown], labels, fontsize=7)
    some = f", {len(rows)} of them" if len(rows) < len(balance.names) else ""
    axes.set_title(f"{balance.split}: {len(balance.names)} shards (clips){some}", loc="left", fontsize=10)
    bar = axes.figure.colorbar(image, ax=axes, ticks=[0.0, 0.5, 1.0, 2.0], fraction=0.03)
    bar.set_ticklabels(["none", "half", "even", "twice or more"], fontsize=7)
    bar.set_label("share of the shard over\nshare of the split", fontsize=7)


def _name_rows(axes: Axes, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), [for_matplotlib(name) for name in names], fontsize=9)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)


def _choose(count: int) -> NDArray[np.intp]:
    return np.unique(np.linspace(0, count - 1, min(count, _MOST_ROWS)).round().astype(np.intp))
