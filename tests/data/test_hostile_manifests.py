"""Manifests and shards that claim what cannot be: one line, before memory is asked for."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ialcms.cli import main
from ialcms.data.clip_reader import BadClip, read_clip
from ialcms.data.manifest import FILE_NAME, Manifest, Shard, read_manifest, write_manifest
from ialcms.data.remote import open_manifest
from shards.verify import verify
from tests.support.data import clip_members, write_shards


def column(name: str) -> int:
    return [
        "key",
        "instrument",
        "video",
        "split",
        "shard",
        "offset",
        "size",
        "num_samples",
        "num_boxes",
        "crc32",
    ].index(name)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("offset", 2**40, "ends at byte .* after its shard's"),
        ("offset", 2**64, "offset of a clip is 18446744073709551616"),
        ("offset", 10**400, "offset of a clip is a whole number of 1329 bits"),
        ("offset", 1e6, r"offset of a clip is 1000000\.0"),
        ("size", 2**50, "ends at byte"),
        ("size", -1, "size of a clip is -1"),
        ("num_samples", 10**15, "has 10{15} samples"),
        ("num_boxes", 10**12, "and 10{12} boxes"),
        ("crc32", -5, "crc32 of a clip is -5"),
        ("split", "holdout", r"a clip has the split 'holdout', not train, val, test \('bell_000'\)"),
        ("split", None, "split of a clip is None"),
        ("shard", 7, "lies in a shard that it does not list"),
        ("key", "", "has a name that is none"),
        ("instrument", "\ud800", "has a name that is none"),
        ("instrument", [["x" * 10_000] * 100] * 100, "instrument of a clip is"),
    ],
)
def test_impossible_clips(name: str, value: Any, message: str, tmp_path: Path) -> None:
    write_shards(tmp_path, [5])
    values = json.loads((tmp_path / FILE_NAME).read_text())
    values["clips"][0][column(name)] = value
    (tmp_path / FILE_NAME).write_text(json.dumps(values))
    with pytest.raises(ValueError, match=f"manifest.json is damaged .*{message}") as raised:
        open_manifest(tmp_path)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 700


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values.update(info={"removed": [{"shard": 1}]}),
        lambda values: values.update(info={"removed": "x"}),
        lambda values: values.update(info={"members": {"sound": "flac"}}),
        lambda values: values.update(info={"members": {"sounds": ["flac"]}}),
        lambda values: values.update(info=json.loads("[" * 500 + "]" * 500)),
        lambda values: values.update(info={"a": json.loads("[" * 500 + "]" * 500)}),
        lambda values: values.update(sample_rate=10**12),
        lambda values: values.update(shards=5),
        lambda values: values.update(clips={"a": 1}),
        lambda values: values.update(clip_fields=[["key"]]),
        lambda values: values["shards"][0].update(name="x" * 300),
        lambda values: values["shards"][0].update(name="a\0b"),
        lambda values: values["shards"][0].update(name=".."),
        lambda values: values["shards"][0].update(more=1),
    ],
)
def test_impossible_manifests(
    change: Callable[[dict], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shards(tmp_path, [5])
    values = json.loads((tmp_path / FILE_NAME).read_text())
    change(values)
    (tmp_path / FILE_NAME).write_text(json.dumps(values))
    for verb in ("verify", "stats"):
        assert main(["data", verb, str(tmp_path)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("ialcms: error: ")
        assert error.count("\n") == 1
        assert "is damaged" in error


def with_members(folder: Path, *extra: tarfile.TarInfo, **sizes: bytes) -> Manifest:
    """One clip, whose checksums fit, with more members than it should have."""
    whole = write_shards(folder, [1])
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in clip_members("bell_000", 0, 0, "wav").items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for info in extra:
            archive.addfile(info)
        end = archive.offset
    raw = bytearray(file.getvalue())
    for name, field in sizes.items():
        at = raw.index(f"bell_000.{name}".encode())
        raw[at + 124 : at + 136] = field
        raw[at + 148 : at + 156] = b" " * 8
        raw[at + 148 : at + 156] = b"%06o\0 " % sum(raw[at : at + 512])
    (folder / whole.shards[0].name).write_bytes(raw)
    clip = dataclasses.replace(whole.clips[0], size=end, crc32=zlib.crc32(raw[:end]))
    shard = Shard(whole.shards[0].name, len(raw), hashlib.sha256(raw).hexdigest(), 1)
    write_manifest(dataclasses.replace(whole, shards=(shard,), clips=(clip,)))
    return read_manifest(folder)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
@pytest.mark.parametrize("target", ["/etc/passwd", "bell_000.wav", "absent"])
def test_links_and_devices_are_not_followed(kind: bytes, target: str, tmp_path: Path) -> None:
    info = tarfile.TarInfo("bell_000.flac")
    info.type, info.linkname = kind, target
    manifest = with_members(tmp_path, info)
    with pytest.raises(BadClip, match=r"its member 'bell_000.flac' is a (link|other), not a file"):
        read_clip(manifest, 0)
    assert verify(manifest)[0].bad_clips == {"bell_000": "member bell_000.flac does not belong to it"}


@pytest.mark.parametrize(
    "field", [b"\x80" + b"\xff" * 11, b"77777777777\0", b"\x80\0\0\0\x7f" + b"\xff" * 7, b"9" * 12]
)
def test_sizes_beyond_the_shard(field: bytes, tmp_path: Path) -> None:
    manifest = with_members(tmp_path, wav=field)
    with pytest.raises(ValueError, match="is not the tar that the manifest describes") as raised:
        read_clip(manifest, 0)
    assert "\n" not in str(raised.value)
    assert "is no tar archive" in verify(manifest)[0].bad_clips["bell_000"]
