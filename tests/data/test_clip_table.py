"""Clips as columns: the same clips, whether they come from objects, from lines, from any JSON or from a mapped file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import multiprocessing
import pickle
import random
from pathlib import Path

import numpy as np
import pytest

from ialcms.data import manifest as manifest_module
from ialcms.data.clip_table import Clip, ClipTable, Shard
from ialcms.data.manifest import FILE_NAME, Manifest, columns_of, read_manifest, write_manifest
from ialcms.data.manifest_json import parse_manifest
from ialcms.data.plan import Plan
from ialcms.data.table_file import _MAGIC, map_columns
from tests.fuzz import mutations
from tests.support.data import make_manifest, small_config

ODD = ("violin", "Ä ö", "二胡", "a\udcffb", "\U0001f3bb", 'quote"back\\slash', "tab\tend")


def odd_clips(count: int, seed: int = 0) -> list[Clip]:
    """Clips with names that are no ASCII or no UTF-8, and with numbers of all sizes."""
    rng = random.Random(seed)
    return [
        Clip(
            key=f"{rng.choice(ODD)}_{number}",
            instrument=rng.choice(ODD),
            video=f"{rng.choice(ODD)} {number // 3}",
            split=rng.choice(("train", "val", "test")),
            shard=rng.randrange(3),
            offset=rng.choice((0, 255, 256, 70_000, 1 << 40)),
            size=rng.choice((1 << 16, (1 << 32) - 1)),
            num_samples=rng.randrange(1 << 20),
            num_boxes=rng.randrange(300),
            crc32=rng.getrandbits(32),
        )
        for number in range(count)
    ]


def write_odd(folder: Path, count: int) -> tuple[Manifest, list[Clip]]:
    clips = odd_clips(count)
    shards = tuple(Shard(f"{number}.tar", 1 << 41, "0" * 64, count) for number in range(3))
    write_manifest(Manifest(folder, 11_025, shards, tuple(clips), {"made_by": "二胡"}))
    return read_manifest(folder, check_shards=False), clips


@pytest.fixture
def odd(tmp_path: Path) -> tuple[Manifest, list[Clip]]:
    return write_odd(tmp_path, 200)


def reads_json_alone(folder: Path) -> Manifest:
    columns_of(folder / FILE_NAME).unlink()
    return read_manifest(folder, check_shards=False)


def test_a_table_is_the_sequence_of_its_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ialcms.data.clip_table.CHUNK", 64)
    clips = odd_clips(500)
    table = ClipTable.of(clips)
    assert list(table) == clips
    assert table == tuple(clips)
    assert tuple(clips) == table
    assert table != clips[:-1]
    assert table != ["no clip"] * len(clips)
    assert table != [*clips[:-1], dataclasses.replace(clips[-1], crc32=clips[-1].crc32 ^ 1)]
    for index in (0, 1, 63, 64, len(clips) - 1, -1):
        assert table[index] == clips[index]
        assert all(type(value) in (str, int) for value in dataclasses.astuple(table[index]))
    assert table[5:40:3] == tuple(clips[5:40:3])
    with pytest.raises(IndexError):
        table[len(clips)]
    assert pickle.loads(pickle.dumps(table)) == clips


def test_names_are_found() -> None:
    clips = odd_clips(300)
    table = ClipTable.of(clips)
    some = np.array([3, 50, 299])
    assert table.distinct("instrument") == sorted({clip.instrument for clip in clips})
    assert table.distinct("video", some) == sorted({clips[index].video for index in some})
    assert table.is_any("split", ["val", "x"]).tolist() == [clip.split == "val" for clip in clips]
    assert ClipTable.of([]).distinct("instrument") == []
    manifest = Manifest(Path("x"), 1, (), tuple(clips), {})
    assert list(manifest.of_split("test")) == [clip for clip in clips if clip.split == "test"]
    assert manifest.of_split("test")[2:4] == [clip for clip in clips if clip.split == "test"][2:4]
    assert manifest.instruments("train") == sorted({clip.instrument for clip in clips if clip.split == "train"})


def test_columns_and_json_give_the_same(odd: tuple[Manifest, list[Clip]]) -> None:
    mapped, clips = odd
    assert mapped.table.source is not None
    assert mapped.clips == clips
    from_json = reads_json_alone(mapped.folder)
    assert from_json.table.source is None
    assert from_json == mapped
    assert from_json.digest == hashlib.sha256((mapped.folder / FILE_NAME).read_bytes()).hexdigest()[:16]


@pytest.mark.parametrize("block", [1, 500, 1 << 22])
def test_lines_and_any_other_layout_give_the_same(
    odd: tuple[Manifest, list[Clip]], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, clips = odd
    path = manifest.folder / FILE_NAME
    monkeypatch.setattr("ialcms.data.manifest_json._BLOCK", block)
    by_lines = parse_manifest(path)
    values = json.loads(path.read_text())
    for text in (
        json.dumps(values),
        json.dumps(values, indent=2),
        path.read_text() + "\n",
        path.read_text().replace('],\n  ["', '], ["', 3),
        path.read_text().replace(',\n "clips"', ',\n "more": {"a": [\n 1\n ]\n},\n "clips"'),
        json.dumps(values | {"clip_fields": values["clip_fields"][::-1], "clips": [c[::-1] for c in values["clips"]]}),
    ):
        path.write_text(text)
        other = parse_manifest(path)
        assert other.table == by_lines.table == clips
        assert {name: other.values[name] for name in ("sample_rate", "info", "shards")} == {
            name: by_lines.values[name] for name in ("sample_rate", "info", "shards")
        }
        assert other.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("\n ]\n}\n", ",\n ]\n}\n"),
        ("\n ]\n}\n", "\n ]\n"),
        ("\n ]\n}\n", ""),
        ("],\n", "]\n"),
        ("],\n", "],,\n"),
        ('\n "clips": [\n', '\n "clips": [[\n'),
        ("\n ]\n}\n", '\n ], "info": 3, "x": [\n ]\n}\n'),
    ],
)
def test_what_is_no_json_is_none_in_lines_either(odd: tuple[Manifest, list[Clip]], old: str, new: str) -> None:
    manifest, _ = odd
    path = manifest.folder / FILE_NAME
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=r"manifest.json is damaged \("):
        read_manifest(manifest.folder)


def test_columns_of_another_manifest_are_not_used(
    odd: tuple[Manifest, list[Clip]], caplog: pytest.LogCaptureFixture
) -> None:
    manifest, clips = odd
    path = manifest.folder / FILE_NAME
    path.write_text(path.read_text().replace('"train"', '"val"'))
    found = read_manifest(manifest.folder, check_shards=False)
    assert found.clips == [dataclasses.replace(clip, split=clip.split.replace("train", "val")) for clip in clips]
    assert not caplog.records  # nothing is wrong with that


def sealed(raw: bytes) -> bytes:
    """A file of columns with the checksum of what it has become."""
    start = len(_MAGIC)
    return raw[:start] + hashlib.sha256(raw[start + 32 :]).digest() + raw[start + 32 :]


def test_damaged_columns_are_replaced_by_the_json(
    odd: tuple[Manifest, list[Clip]], caplog: pytest.LogCaptureFixture
) -> None:
    """Cut off, with other bytes, and with bytes that its checksum fits: what is read is what manifest.json says."""
    manifest, clips = odd
    path = columns_of(manifest.folder / FILE_NAME)
    whole = path.read_bytes()
    for number, at in enumerate((50, len(whole) // 2, len(whole) - 1)):
        path.write_bytes(whole[:at])
        assert read_manifest(manifest.folder, check_shards=False).clips == clips
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 64]) + whole[at + 1 :])
        assert read_manifest(manifest.folder, check_shards=False).clips == clips
        damaged = [record for record in caplog.records if "cannot be used" in record.message]
        assert len(damaged) == 2 * (number + 1)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("shard", 3, "lies in a shard that it does not list"),
        ("offset", (1 << 64) - 1, "offset of a clip is 18446744073709551615"),
        ("offset", 1 << 62, "after its shard's"),
        ("num_boxes", 1 << 40, "boxes in"),
        ("split.codes", 200, "a code of split has no name"),
        ("key.ends", 0, "its texts do not lie one behind the other"),
        ("key.raw", 255, "codec can't decode|has a name that is none"),
    ],
)
def test_columns_that_claim_what_cannot_be(
    field: str, value: int, message: str, odd: tuple[Manifest, list[Clip]], caplog: pytest.LogCaptureFixture
) -> None:
    manifest, clips = odd
    path = columns_of(manifest.folder / FILE_NAME)
    raw = path.read_bytes()
    length = int.from_bytes(raw[len(_MAGIC) + 32 : len(_MAGIC) + 40], "little")
    start = len(_MAGIC) + 40
    header = json.loads(raw[start : start + length])
    kind, _, count = header["arrays"][field]
    column = np.full(count, value, np.uint64 if "." not in field else np.dtype(kind))
    header["arrays"][field] = [column.dtype.str, len(raw) - start - length, count]  # behind all others
    head = json.dumps(header).encode()
    content = len(head).to_bytes(8, "little") + head + raw[start + length :] + column.tobytes()
    path.write_bytes(sealed(_MAGIC + bytes(32) + content))
    assert read_manifest(manifest.folder, check_shards=False).clips == clips
    (record,) = caplog.records
    assert "cannot be used" in record.message
    assert any(part in record.message for part in message.split("|"))


def test_no_bytes_in_the_columns_do_harm(tmp_path: Path) -> None:
    """A few hundred damaged files of columns, with checksums that fit: read, or refused in one line."""
    manifest, _ = write_odd(tmp_path, 20)
    path = columns_of(tmp_path / FILE_NAME)
    whole = path.read_bytes()
    rng = random.Random(3)
    outcomes = {"read": 0, "replaced": 0}
    for _ in range(300):
        path.write_bytes(sealed(mutations.bytes_of(rng, whole)))
        found = read_manifest(tmp_path, check_shards=False)
        outcomes["replaced" if found.table.source is None else "read"] += 1
        assert len(list(found.clips)) == len(found.table.key)
        assert found.digest == manifest.digest
    assert min(outcomes.values()) > 0, outcomes


def test_a_killed_writer_leaves_the_old_manifest(
    odd: tuple[Manifest, list[Clip]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The columns of the new one are there already when it is killed."""
    manifest, clips = odd
    monkeypatch.setattr("ialcms.files.os.replace", interrupted_at(FILE_NAME))
    with pytest.raises(KeyboardInterrupt):
        write_manifest(dataclasses.replace(manifest, clips=clips[:50]))
    assert read_manifest(manifest.folder, check_shards=False) == manifest


def interrupted_at(name: str):
    from os import replace

    def replaced(source: Path, target: Path) -> None:
        if target.name == name:
            raise KeyboardInterrupt
        replace(source, target)

    return replaced


def test_large_manifests_without_columns_get_them_in_the_cache(
    odd: tuple[Manifest, list[Clip]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    manifest, clips = odd
    caplog.set_level(logging.INFO)
    cache = tmp_path / "cache"
    monkeypatch.setenv("WDS_CACHE", str(cache))
    monkeypatch.setattr(manifest_module, "_FEW_BYTES", 1000)
    for _ in range(2):
        found = reads_json_alone(manifest.folder) if not cache.exists() else read_manifest(manifest.folder, False)
        assert found.clips == clips
        assert found.table.source is not None
        assert found.table.source[0] == cache / "manifests" / f"{manifest.digest}.columns"
    assert sum("has no columns beside it" in record.message for record in caplog.records) == 1
    assert {path.name for path in manifest.folder.iterdir()} == {FILE_NAME, "cache"}
    # where nothing can be kept it is read all the same
    monkeypatch.setenv("WDS_CACHE", "/proc/no")
    assert read_manifest(manifest.folder, check_shards=False) == manifest


def _clip_in_another_process(pickled: bytes, index: int) -> Clip:
    return pickle.loads(pickled).clips[index]


def test_a_plan_goes_to_a_loader_worker_as_the_name_of_a_file(tmp_path: Path) -> None:
    made = make_manifest([[60] * 5] * 40, folder=tmp_path)
    shards = tuple(dataclasses.replace(shard, num_bytes=1 << 20) for shard in made.shards)
    clips = tuple(dataclasses.replace(clip, size=1 << 10) for clip in made.clips)
    write_manifest(dataclasses.replace(made, shards=shards, clips=clips))
    manifest, config = read_manifest(tmp_path, check_shards=False), small_config()
    plan = Plan(manifest, config.data, config.audio, 7, 4)
    pickled = pickle.dumps(plan)
    assert len(pickled) < 10_000 < len(pickle.dumps(made.clips)) / 10
    copy = pickle.loads(pickled)
    assert copy.manifest == manifest
    assert [copy.mix(3, draw) for draw in (0, 100)] == [plan.mix(3, draw) for draw in (0, 100)]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_clip_in_another_process, (pickle.dumps(manifest), 77)) == manifest.clips[77]
    columns = columns_of(tmp_path / FILE_NAME)
    assert map_columns(columns, check_sum=False).table == clips
    write_manifest(dataclasses.replace(made, shards=shards, clips=clips[1:]))
    with pytest.raises(ValueError, match=r"manifest.columns is gone, or was replaced .*; start again"):
        pickle.loads(pickled)
