from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ialcms.data.manifest import Clip, Manifest, Shard
from shards.stats import COLUMNS, collect_stats, table_csv, table_lines
from shards.stats_picture import draw_stats, stats_figure

RATE = 11_025


def clip(key: str, instrument: str, shard: int, split: str = "train", boxes: int = 10) -> Clip:
    return Clip(key, instrument, key.rpartition("_")[0], split, shard, 0, 500_000, 10 * RATE, boxes, 0)


@pytest.fixture
def manifest() -> Manifest:
    """Three training shards, the last of violins alone, and one for validation, with a video that leaks."""
    clips = [clip(f"v{n}_{k}", "violin", n, boxes=20) for n in range(3) for k in range(3)]
    clips += [clip(f"t{n}_0", "tuba", n) for n in range(2)]
    clips += [clip("v0_9", "violin", 3, "val"), clip("t7_0", "tuba", 3, "val"), clip("e_0", "erhu", 3, "val")]
    names = ("train-000000.tar", "train-000001.tar", "train-000002.tar", "val-000000.tar")
    sizes = (2_000_000, 2_000_000, 1_500_000, 1_500_000)
    shards = tuple(Shard(name, size, "", 3) for name, size in zip(names, sizes))
    return Manifest(Path("set"), RATE, shards, tuple(clips), {})


def test_counts_per_instrument(manifest: Manifest):
    stats = collect_stats(manifest)
    found = {item.name: (item.clips, item.num_videos, item.seconds, item.num_boxes) for item in stats.instruments}
    assert found == {
        "erhu": ({"train": 0, "val": 1, "test": 0}, 1, 10.0, 10),
        "tuba": ({"train": 2, "val": 1, "test": 0}, 3, 30.0, 30),
        "violin": ({"train": 9, "val": 1, "test": 0}, 3, 100.0, 190),
    }
    assert (stats.total.num_clips, stats.total.num_bytes, stats.shared_videos) == (14, 7_000_000, 1)


def test_balance_of_the_shards(manifest: Manifest):
    train, val = collect_stats(manifest).balance
    assert train.clips.tolist() == [[0, 1, 3], [0, 1, 3], [0, 0, 3]]  # erhu, tuba, violin
    # the shares of the split are 2/11 and 9/11
    np.testing.assert_allclose(train.shares[0], [1, (1 / 4) / (2 / 11), (3 / 4) / (9 / 11)])
    np.testing.assert_allclose(train.shares[2], [1, 0, 11 / 9])
    assert train.line() == "train: 3 shards of 3 to 4 clips, 1.5 to 2.0 MB, each with 1 or more of 2 instruments"
    assert val.names == ("val-000000.tar",)
    np.testing.assert_allclose(val.shares, 1)


def test_the_table(manifest: Manifest):
    stats = collect_stats(manifest)
    rows = list(csv.reader(io.StringIO(table_csv(stats).decode())))
    assert rows[0] == list(COLUMNS)
    assert rows[3] == ["violin", "9", "1", "0", "10", "3", "0.03", "190", "19.0", "5.0"]
    assert [row[0] for row in rows[1:]] == ["erhu", "tuba", "violin", "all"]
    lines = table_lines(stats)
    assert [line.split() for line in lines] == rows
    assert len({len(line) for line in lines}) == 1


def test_the_picture_shows_the_numbers(manifest: Manifest):
    figure = stats_figure(collect_stats(manifest), "set")
    clips, boxes, train, _, val = figure.axes[:5]  # a map has its colour bar behind it
    widths = [bar.get_width() for bar in clips.patches]
    assert widths == [0, 2, 9, 1, 1, 1, 0, 0, 0]  # erhu, tuba and violin of train, then of val, then of test
    assert [bar.get_width() for bar in boxes.patches] == [10.0, 10.0, 19.0]
    assert [label.get_text() for label in clips.get_yticklabels()] == ["erhu", "tuba", "violin"]
    assert "10 from 3 videos" in clips.texts[2].get_text()
    shares = np.asarray(train.collections[0].get_array())
    assert shares.shape == (3, 3)
    assert shares[2, 1] == 0  # the shard without a tuba
    assert train.get_title(loc="left").startswith("train: 3 shards")
    assert val.get_title(loc="left").startswith("val: 1 shards")


def test_the_picture_is_a_png(manifest: Manifest):
    image = Image.open(io.BytesIO(draw_stats(collect_stats(manifest), "set")))
    assert (image.format, image.width) == ("PNG", 1400)


def test_many_shards_make_no_endless_picture():
    shards = tuple(Shard(f"train-{n:06d}.tar", 1, "", 1) for n in range(1000))
    clips = tuple(clip(f"v{n}_0", "violin", n) for n in range(1000))
    image = Image.open(io.BytesIO(draw_stats(collect_stats(Manifest(Path("s"), RATE, shards, clips, {})), "s")))
    assert image.height < 1500
