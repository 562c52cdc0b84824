"""A mix against the definition, computed by hand from the clips."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ialcms.data.clip_reader import LoadedClip, read_clip
from ialcms.data.clip_store import ClipStore
from ialcms.data.manifest import Manifest
from ialcms.data.mixtures import MadeOf, MixArrays, empty_arrays, make_mix
from ialcms.data.plan import Plan
from tests.support.data import small_config, write_shards


def plan_of(manifest: Manifest, **data: object) -> Plan:
    config = small_config(**data)
    return Plan(manifest, config.data, config.audio, config.seed, 4)


def store_of(manifest: Manifest) -> ClipStore:
    return ClipStore(manifest, 100, 20)


def make(plan: Plan, store: ClipStore, lane: int, draw: int) -> tuple[MixArrays, MadeOf]:
    arrays = empty_arrays(plan)
    return arrays, make_mix(plan, store, lane, draw, arrays)


@pytest.mark.parametrize(("num_mixtures", "num_objects"), [(2, 2), (3, 1), (1, 2)])
def test_mix_is_what_the_plan_says(shards: Manifest, num_mixtures: int, num_objects: int) -> None:
    # gains up to 4: the clipping to [-1, 1] is at work
    plan = plan_of(shards, num_mixtures=num_mixtures, num_objects=num_objects, gain=(0.5, 4.0))
    store = store_of(shards)
    clipped = 0
    for draw in range(12):
        planned = plan.mix(1, draw).clips
        mix, made_of = make(plan, store, 1, draw)
        assert mix.mixtures.shape == (num_mixtures, 310)
        assert mix.objects.shape == (num_mixtures, num_objects, 3, 16, 16)
        assert made_of == MadeOf(planned, tuple(shards.clips[clip.clip].key for clip in planned), {})
        total = np.zeros(310)
        for m in range(num_mixtures):
            mixture = np.zeros(310)
            for o in range(num_objects):
                choice = planned[m * num_objects + o]
                clip = read_clip(shards, choice.clip)
                wave = np.zeros(310)
                cut = clip.wave[choice.start : choice.start + 310] / 32768
                wave[: len(cut)] = choice.gain * cut
                clipped += int((np.abs(wave) > 1).sum())
                mixture += np.clip(wave, -1, 1) / num_objects
                picture = clip.picture(choice.row, 20)[:, choice.top : choice.top + 16, choice.left : choice.left + 16]
                if choice.flip:
                    picture = np.flip(picture, axis=2)
                assert np.array_equal(mix.objects[m, o], picture)
            assert np.abs(mix.mixtures[m] - mixture).max() < 1e-6
            total += mixture
        assert np.abs(mix.mix - total).max() < 1e-6
    assert clipped > 0


def test_a_bad_clip_gives_way_to_the_next_choice(tmp_path: Path, shards: Manifest) -> None:
    broken = {"bell_000": {"wav": b"broken"}, "drum_001": {"npy": b"broken"}, "flute_007": {"000003.jpg": b"broken"}}
    manifest = write_shards(tmp_path, [25, 5, 30], replace=broken)
    good, plan = plan_of(shards), plan_of(manifest)
    good_store, store = store_of(shards), store_of(manifest)
    replaced: set[str] = set()
    for lane in range(4):
        for draw in range(60):
            (mix, made_of), (whole, whole_of) = make(plan, store, lane, draw), make(good, good_store, lane, draw)
            assert set(made_of.bad) <= set(broken)
            assert len({key.split("_")[0] for key in made_of.keys}) == 4
            for slot, (key, planned) in enumerate(zip(whole_of.keys, plan.mix(lane, draw).clips)):
                is_bad = key in ("bell_000", "drum_001") or (key == "flute_007" and planned.row == 0)
                if is_bad:
                    assert made_of.keys[slot] != key
                    assert key in made_of.bad
                    assert f"clip {key} in {tmp_path}/clips-000.tar" in made_of.bad[key]
                    replaced.add(key)
                else:  # the others are as if nothing had happened
                    m, o = divmod(slot, 2)
                    assert made_of.keys[slot] == key
                    assert np.array_equal(mix.objects[m, o], whole.objects[m, o])
            if not made_of.bad:
                assert np.array_equal(mix.mix, whole.mix)
            else:  # whatever was read before, the choice is the same
                again, again_of = make(plan_of(manifest), store_of(manifest), lane, draw)
                assert again_of == made_of
                assert np.array_equal(again.mix, mix.mix)
                assert np.array_equal(again.objects, mix.objects)
    assert replaced == set(broken)


def test_no_clip_left(tmp_path: Path) -> None:
    tubas = {f"tuba_{number:03d}": {"npy": b""} for number in range(4, 20, 5)}
    drums = {f"drum_{number:03d}": {"npy": b""} for number in range(1, 20, 5)}
    manifest = write_shards(tmp_path, [20], replace=tubas | drums)
    plan = plan_of(manifest)
    with pytest.raises(ValueError, match=r"clip .*; no clip that could replace it can be used either"):
        make(plan, store_of(manifest), 0, 0)


def test_sound_and_pictures_are_decoded_once_while_a_clip_is_in_the_window(
    shards: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(shards, window=16, reuse=8.0, pictures_per_clip=2)
    store, decoded = store_of(shards), []
    picture = LoadedClip.picture
    monkeypatch.setattr(LoadedClip, "picture", lambda self, *args: decoded.append(args) or picture(self, *args))
    for draw in range(120):  # one pass: 60 clips * 8 uses / 4 clips a draw
        make(plan, store, 0, draw)
        assert store.num_clips <= len(plan.window_clips(0, draw))
    assert 60 <= store.num_reads <= 60 + 16 + 8
    assert 100 <= len(decoded) <= 2 * store.num_reads  # of 480 uses
