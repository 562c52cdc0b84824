"""Fixed lists of mixes for validation and test."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ialcms.data.clip_reader import read_clip
from ialcms.data.evaluation_mixes import list_mixes, load_mix, share
from ialcms.data.manifest import Manifest
from tests.support.data import make_manifest, small_config, write_shards


@pytest.fixture(scope="module")
def music() -> Manifest:
    """152 test clips of 11 instruments, as many as MUSIC's test split has, besides training clips."""
    test = make_manifest([[14] * 11], split="test")
    train = make_manifest([[5] * 11], split="train")
    return replace(test, clips=(*train.clips, *test.clips[:152]), shards=test.shards)


@pytest.mark.parametrize(("num_sources", "combinations"), [(2, 55), (3, 165)])
def test_published_lists(music: Manifest, num_sources: int, combinations: int) -> None:
    mixes = list_mixes(music, "test", num_sources, draws=10, seed=0, seconds=0.35)
    assert len(mixes) == 10 * combinations
    assert [mix.index for mix in mixes] == list(range(len(mixes)))
    names = Counter(tuple(music.clips[index].instrument for index in mix.clips) for mix in mixes)
    assert len(names) == combinations
    assert set(names.values()) == {10}
    assert all(list(key) == sorted(set(key)) for key in names)
    clips = [music.clips[index] for mix in mixes for index in mix.clips]
    assert {clip.split for clip in clips} == {"test"}
    assert len({clip.key for clip in clips}) == 152
    for mix in mixes:
        for index, row, start in zip(mix.clips, mix.rows, mix.starts):
            assert 0 <= row < music.clips[index].num_boxes
            assert 0 <= start <= max(music.clips[index].num_samples - 350, 0)
    assert len({start for mix in mixes for start in mix.starts}) > 50


def test_draws_of_a_combination_use_different_clips(music: Manifest) -> None:
    mixes = list_mixes(music, "test", 2, draws=10, seed=0, seconds=0.35)
    for first in range(0, len(mixes), 10):
        for slot in range(2):
            assert len({mix.clips[slot] for mix in mixes[first : first + 10]}) == 10


def test_lists_depend_on_their_arguments_alone(music: Manifest) -> None:
    mixes = list_mixes(music, "test", 2, 10, 0, 0.35)
    assert mixes == list_mixes(music, "test", 2, 10, 0, 0.35)
    assert mixes != list_mixes(music, "test", 2, 10, 1, 0.35)
    # fewer draws: the first ones of every combination
    few = list_mixes(music, "test", 2, 3, 0, 0.35)
    assert [mix.clips for mix in few[:3]] == [mix.clips for mix in mixes[:3]]
    assert [mix.clips for mix in few[3:6]] == [mix.clips for mix in mixes[10:13]]


def test_a_clip_that_is_not_longer_starts_at_its_beginning(music: Manifest) -> None:
    assert {start for mix in list_mixes(music, "test", 2, 10, 0, 10.0) for start in mix.starts} == {0}


def test_chosen_instruments(music: Manifest) -> None:
    mixes = list_mixes(music, "test", 2, 4, 0, 0.35, instruments=("i03", "i00", "i07"))
    assert {music.clips[index].instrument for mix in mixes for index in mix.clips} == {"i00", "i03", "i07"}
    assert len(mixes) == 3 * 4


def test_errors(music: Manifest) -> None:
    with pytest.raises(ValueError, match=r"needs 3 different instruments .* has 2: i00, i03; lower"):
        list_mixes(music, "test", 3, 4, 0, 0.35, instruments=("i00", "i03"))
    with pytest.raises(ValueError, match=r"names 'i77'"):
        list_mixes(music, "test", 2, 4, 0, 0.35, instruments=("i00", "i77"))
    with pytest.raises(ValueError, match=r"no clips in the split 'val'"):
        list_mixes(music, "val", 2, 4, 0, 0.35)


def test_load_mix(shards: Manifest) -> None:
    data = small_config().data
    mixes = list_mixes(shards, "train", 3, 2, 0, 0.3)
    starts = [start for mix in mixes for start in mix.starts]
    assert max(starts) > 0
    for mix in mixes:
        item = load_mix(shards, mix, data, 300)
        assert item.mix == mix
        assert item.sources.shape == (3, 300)
        assert item.sources.dtype == np.float32
        assert item.pictures.shape == (3, 1, 3, 16, 16)
        assert item.pictures.dtype == np.uint8
        for slot, index in enumerate(mix.clips):
            clip = read_clip(shards, index)
            assert item.keys[slot] == shards.clips[index].key
            assert item.instruments[slot] == shards.clips[index].instrument
            assert np.array_equal(item.sources[slot], clip.window(mix.starts[slot], 300))
            # centre crop: (20 - 16) / 2
            assert np.array_equal(item.pictures[slot, 0], clip.picture(mix.rows[slot], 20)[:, 2:18, 2:18])


def test_short_clips_are_padded(shards: Manifest) -> None:
    mix = next(mix for mix in list_mixes(shards, "train", 2, 2, 0, 1.0) if shards.clips[mix.clips[0]].num_samples < 300)
    item = load_mix(shards, mix, small_config().data, 1_000)
    length = shards.clips[mix.clips[0]].num_samples
    assert item.sources[0, :length].any()
    assert not item.sources[0, length:].any()


def test_a_clip_that_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    manifest = write_shards(tmp_path, [5], replace={"flute_002": {"npy": b""}})
    mix = next(mix for mix in list_mixes(manifest, "train", 2, 1, 0, 0.3) if 2 in mix.clips)
    with pytest.raises(ValueError, match=r"^clip flute_002 in .*clips-000.tar"):
        load_mix(manifest, mix, small_config().data, 300)


@pytest.mark.parametrize("world_size", [1, 2, 3, 7, 20])
def test_share(world_size: int) -> None:
    items = [f"item {index}" for index in range(11)]
    shares = [share(items, rank, world_size) for rank in range(world_size)]
    assert sorted(item for part in shares for item in part) == sorted(items)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
