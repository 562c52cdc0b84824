"""The picture of a set of shards: clips and boxes per instrument as bars, the balance of its shards as a map."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ialcms.data.manifest import SPLITS
from shards.stats import SplitBalance, Stats

WIDTH = 1400
_MARGIN, _ROW, _BAR = 28, 26, 17  # pixels
_NAME = 170  # width of the column of names
_INK, _FAINT, _PAPER = (33, 37, 41), (134, 142, 150), (255, 255, 255)
# blue, orange and green that people with any sight of colours tell apart (Okabe and Ito 2008)
_SPLIT_COLOURS = {"train": (0, 114, 178), "val": (230, 159, 0), "test": (0, 158, 115)}
_BOX_COLOUR = (120, 120, 160)
_FEW, _EVEN, _MANY = (213, 94, 0), (245, 245, 245), (0, 114, 178)  # of an instrument in a shard
_MOST_ROWS = 60  # of shards that are drawn; of more, evenly chosen ones
_SHARD_ROW = 12


def draw_stats(stats: Stats, title: str) -> bytes:
    """A PNG of 1400 pixels width."""
    rows = len(stats.instruments)
    maps = [(balance, _choose(len(balance.names))) for balance in stats.balance]
    bars_height = rows * _ROW + 60
    height = 90 + bars_height + 84 + sum(len(chosen) * _SHARD_ROW + 34 for _, chosen in maps) + _name_height(stats)
    image = Image.new("RGB", (WIDTH, height), _PAPER)
    draw = ImageDraw.Draw(image)
    _text(draw, (_MARGIN, 20), title, 22)
    total = stats.total
    _text(
        draw,
        (_MARGIN, 52),
        f"{total.num_clips:,} clips of {total.num_videos:,} videos, {total.seconds / 3600:.1f} hours, "
        f"{total.num_boxes:,} boxes, {total.num_bytes / 1e9:.2f} GB",
        15,
        _FAINT,
    )
    _draw_bars(draw, stats, 90)
    _draw_maps(draw, stats, maps, 90 + bars_height)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _draw_bars(draw: ImageDraw.ImageDraw, stats: Stats, top: int) -> None:
    left, right = _MARGIN + _NAME, WIDTH // 2 + 150
    _text(draw, (left, top), "clips", 15)
    legend = left + 60
    for split in SPLITS:
        draw.rectangle((legend, top + 3, legend + 12, top + 15), fill=_SPLIT_COLOURS[split])
        _text(draw, (legend + 18, top), split, 15, _FAINT)
        legend += 80
    _text(draw, (right, top), "boxes per clip", 15)
    clip_scale = (right - left - 150) / max((item.num_clips for item in stats.instruments), default=1)
    box_scale = (WIDTH - _MARGIN - right - 70) / max((item.boxes_per_clip for item in stats.instruments), default=1)
    for number, item in enumerate(stats.instruments):
        y = top + 28 + number * _ROW
        _text(draw, (left - 10, y + 1), item.name, 14, anchor="ra")
        x = float(left)
        for split in SPLITS:
            end = x + item.clips[split] * clip_scale
            if item.clips[split]:
                draw.rectangle((x, y, end, y + _BAR), fill=_SPLIT_COLOURS[split])
            x = end
        videos = "video" if item.num_videos == 1 else "videos"
        _text(draw, (x + 8, y + 1), f"{item.num_clips:,} from {item.num_videos:,} {videos}", 13, _FAINT)
        end = right + item.boxes_per_clip * box_scale
        draw.rectangle((right, y, end, y + _BAR), fill=_BOX_COLOUR)
        _text(draw, (end + 8, y + 1), f"{item.boxes_per_clip:.1f}", 13, _FAINT)


def _draw_maps(
    draw: ImageDraw.ImageDraw, stats: Stats, maps: list[tuple[SplitBalance, NDArray[np.intp]]], top: int
) -> None:
    left = _MARGIN + _NAME
    cell = min((WIDTH - _MARGIN - left - 120) / max(len(stats.instruments), 1), 90.0)
    _text(draw, (left, top), "balance of the shards: an instrument's share of a shard over its share of the split", 15)
    legend = left
    for value, label in ((0.0, "none"), (0.5, "half"), (1.0, "even"), (2.0, "twice or more")):
        draw.rectangle((legend, top + 29, legend + 22, top + 41), fill=_colour(value), outline=_FAINT)
        _text(draw, (legend + 30, top + 26), label, 13, _FAINT)
        legend += 100
    y = top + 60
    for balance, chosen in maps:
        shown = f", {len(chosen)} of them" if len(chosen) < len(balance.names) else ""
        _text(draw, (left, y), f"{balance.split}: {len(balance.names)} shards{shown}", 13, _FAINT)
        _text(draw, (left + len(stats.instruments) * cell + 6, y), "clips", 13, _FAINT)
        y += 20
        for number, shard in enumerate(chosen):
            row = y + number * _SHARD_ROW
            if number % 3 == 0:
                _text(draw, (left - 10, row - 1), balance.names[shard], 11, _FAINT, "ra")
            for column, share in enumerate(balance.shares[shard]):
                x = left + column * cell
                draw.rectangle((x, row, x + cell - 2, row + _SHARD_ROW - 2), fill=_colour(share))
            _text(draw, (left + len(stats.instruments) * cell + 6, row - 1),
                  f"{balance.clips[shard].sum():,}", 11, _FAINT)  # fmt: skip
        y += len(chosen) * _SHARD_ROW + 14
    for column, item in enumerate(stats.instruments):
        # names stand upright where cells are narrow
        name, font = Image.new("L", (_name_height(stats), 18)), ImageFont.load_default(13)
        ImageDraw.Draw(name).text((name.width - 4, 1), item.name, fill=255, font=font, anchor="ra")
        name = name.rotate(90, expand=True)
        draw.bitmap((int(left + (column + 0.5) * cell) - 9, y), name, fill=_INK)


def _colour(share: float) -> tuple[int, int, int]:
    """From orange (none) over grey (even) to blue (twice as many as fair, or more)."""
    end, weight = (_FEW, 1 - share) if share < 1 else (_MANY, min(share - 1, 1))
    red, green, blue = (round(even + (other - even) * weight) for even, other in zip(_EVEN, end))
    return red, green, blue


def _choose(count: int) -> NDArray[np.intp]:
    return np.unique(np.linspace(0, count - 1, min(count, _MOST_ROWS)).round().astype(np.intp))


def _name_height(stats: Stats) -> int:
    """Of the longest name, standing upright."""
    font = ImageFont.load_default(13)
    return 24 + round(max((font.getlength(item.name) for item in stats.instruments), default=0))


def _text(
    draw: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    size: int,
    colour: tuple[int, int, int] = _INK,
    anchor: str = "la",
) -> None:
    draw.text(place, text, fill=colour, font=ImageFont.load_default(size), anchor=anchor)
