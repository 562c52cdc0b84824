from __future__ import annotations

import dataclasses
import io
import json
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

import shards.verify
from ialcms.data.manifest import Clip, Manifest, read_manifest, write_manifest
from shards.encode import EncodeOptions, encode_array, encode_audio, tar_member
from shards.pack import PackOptions, pack
from shards.verify import ShardFindings, check_clip, check_manifest, drop_bad_clips, verify


@pytest.fixture
def packed(full_tree, tmp_path: Path) -> Manifest:
    """24 clips in several shards."""
    manifest, _ = pack(full_tree.entries, tmp_path / "out", PackOptions(EncodeOptions(clean="none"), shard_mb=0.05))
    return manifest


def flip(path: Path, offset: int) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def bad(findings: list[ShardFindings]) -> dict[str, ShardFindings]:
    return {found.shard: found for found in findings if not found.ok}


class TestVerify:
    @pytest.mark.parametrize("jobs", [1, 2])
    def test_whole_shards_have_no_findings(self, packed: Manifest, jobs: int):
        findings = verify(packed, jobs)
        assert [found.shard for found in findings] == [shard.name for shard in packed.shards]
        assert [found.sha256 for found in findings] == [shard.sha256 for shard in packed.shards]
        assert bad(findings) == {}
        assert check_manifest(packed) == []

    def test_one_wrong_bit_names_the_clip(self, packed: Manifest):
        clip = packed.clips[7]
        flip(packed.shard_path(clip), clip.offset + clip.size // 2)
        (found,) = bad(verify(packed)).values()
        assert found.lines() == [
            f"{found.shard}: checksum (sha256) is wrong",
            f"{found.shard}: clip {clip.key}: checksum (crc32) is wrong",
        ]

    def test_a_wrong_bit_outside_of_the_clips(self, packed: Manifest):
        shard = packed.shards[0]
        flip(packed.folder / shard.name, shard.num_bytes - 100)
        (found,) = bad(verify(packed)).values()
        assert found.problems == ["holds more than the clips of the manifest at its end", "checksum (sha256) is wrong"]

    def test_a_shard_cut_off(self, packed: Manifest):
        clips = [clip for clip in packed.clips if clip.shard == 1]
        path = packed.shard_path(clips[0])
        path.write_bytes(path.read_bytes()[: clips[-1].offset + 1000])
        findings = bad(verify(read_manifest(packed.folder, check_shards=False)))
        assert set(findings) == {path.name}
        assert findings[path.name].bad_clips == {
            clips[-1].key: f"{clips[-1].size - 1000} of its {clips[-1].size} bytes are missing"
        }

    def test_a_missing_shard(self, packed: Manifest):
        path = packed.folder / packed.shards[1].name
        path.unlink()
        findings = bad(verify(packed))
        assert findings[path.name].problems == ["cannot be read: No such file or directory"]
        assert set(findings[path.name].bad_clips) == {clip.key for clip in packed.clips if clip.shard == 1}

    def test_bytes_that_no_clip_claims(self, packed: Manifest):
        forgotten = packed.clips[1]
        clips = tuple(clip for clip in packed.clips if clip != forgotten)
        (found,) = bad(verify(dataclasses.replace(packed, clips=clips))).values()
        assert found.problems[0].startswith("manifest lists ")
        assert found.problems[1] == f"{forgotten.size} bytes that belong to no clip before clip {packed.clips[2].key}"

    def test_clips_that_overlap(self, packed: Manifest):
        first, second = packed.clips[:2]
        clips = (first, dataclasses.replace(second, offset=first.offset), *packed.clips[2:])
        (found,) = bad(verify(dataclasses.replace(packed, clips=clips))).values()
        assert any("bytes that belong to two clips" in problem for problem in found.problems)
        assert second.key in found.bad_clips

    def test_names_listed_twice(self, packed: Manifest):
        twice = dataclasses.replace(packed, clips=(*packed.clips, packed.clips[0]))
        assert check_manifest(twice) == [f"clip {packed.clips[0].key} is listed 2 times"]
        dotted = dataclasses.replace(packed, clips=(dataclasses.replace(packed.clips[0], key="a.b"),))
        assert check_manifest(dotted) == ["clip a.b: a WebDataset key cannot have dots"]

    def test_shards_that_are_not_listed(self, packed: Manifest):
        (packed.folder / "train-000099.tar").touch()
        (packed.folder / "mine.tar").touch()
        (problem,) = check_manifest(packed)
        assert problem.startswith("shard train-000099.tar is not listed")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"name": "train-000000.tar"', '"name": "../train-000000.tar"', "no file of its folder"),
        ('"name": "train-000000.tar"', '"name": "/etc/passwd"', "no file of its folder"),
        ('"train", 0, 0', '"train", 99, 0', "a clip lies in a shard that it does not list"),
        ('"train", 0, 0', '"train", "0", 0', "shard of a clip is '0'"),
        ('"train", 0, 0', '"train", 0, -1', "offset of a clip is -1"),
        ('"train", 0, 0', '["train"], 0, 0', r"split of a clip is \['train'\]"),
        ('"sample_rate": 11025', '"sample_rate": "11025"', "sample_rate is '11025'"),
        ('"num_bytes": ', '"num_bytes": 0.', r"num_bytes of a shard is 0\.\d+"),
    ],
)
def test_a_manifest_with_impossible_values_is_refused(packed: Manifest, old: str, new: str, message: str):
    path = packed.folder / "manifest.json"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ValueError, match=message):
        read_manifest(packed.folder)


def test_a_full_disk_leaves_the_manifest_as_it_was(packed: Manifest, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ValueError, match=r"cannot write .*manifest\.json: No space left on device; make room"):
        write_manifest(dataclasses.replace(packed, clips=packed.clips[1:]))
    assert read_manifest(packed.folder) == packed
    assert not list(packed.folder.glob("*.tmp"))


class TestResume:
    def kill_at(self, index: int, packed: Manifest, monkeypatch) -> None:
        """Verify, and stop when the shard of this index is to be read."""
        real = shards.verify.check_shard

        def check(numbered, manifest):
            if numbered[0] == index:
                raise KeyboardInterrupt
            return real(numbered, manifest)

        monkeypatch.setattr(shards.verify, "check_shard", check)
        with pytest.raises(KeyboardInterrupt):
            verify(packed)
        monkeypatch.setattr(shards.verify, "check_shard", real)

    def shards_read(self, packed: Manifest, monkeypatch) -> tuple[list[str], dict]:
        real, read = shards.verify.check_shard, []

        def check(numbered, manifest):
            read.append(manifest.shards[numbered[0]].name)
            return real(numbered, manifest)

        monkeypatch.setattr(shards.verify, "check_shard", check)
        return read, bad(verify(packed))

    def test_a_killed_run_goes_on_with_the_other_shards(self, packed: Manifest, monkeypatch):
        names = [shard.name for shard in packed.shards]
        clip = packed.clips[0]
        flip(packed.shard_path(clip), clip.offset + 600)
        self.kill_at(2, packed, monkeypatch)
        read, found = self.shards_read(packed, monkeypatch)
        assert read == names[2:]
        assert found[names[0]].bad_clips == {clip.key: "checksum (crc32) is wrong"}  # seen by the first run
        assert not (packed.folder / ".verifying").exists()

    def test_shards_written_since_are_read_again(self, packed: Manifest, monkeypatch):
        names = [shard.name for shard in packed.shards]
        self.kill_at(2, packed, monkeypatch)
        clip = packed.clips[0]
        flip(packed.shard_path(clip), clip.offset + 600)
        (packed.folder / ".verifying" / f"{names[1]}.json").write_text("{")
        read, found = self.shards_read(packed, monkeypatch)
        assert read == names
        assert set(found) == {names[0]}

    def test_a_folder_that_takes_no_records_is_checked_all_the_same(self, packed: Manifest, monkeypatch):
        def refuse(path: Path, content: bytes) -> None:
            raise ValueError("cannot write")

        monkeypatch.setattr(shards.verify, "write_whole", refuse)
        assert bad(verify(packed)) == {}


class TestFix:
    def test_bad_clips_are_dropped_and_the_old_manifest_kept(self, packed: Manifest):
        clip = packed.clips[7]
        flip(packed.shard_path(clip), clip.offset + 600)
        before = (packed.folder / "manifest.json").read_bytes()
        fixed = drop_bad_clips(packed, verify(packed))
        assert fixed.clips == tuple(c for c in packed.clips if c != clip)
        assert read_manifest(packed.folder) == fixed
        assert (packed.folder / "manifest.json.1").read_bytes() == before
        assert bad(verify(fixed)) == {}
        assert fixed.info["removed"] == [
            {"key": clip.key, "shard": packed.shards[clip.shard].name, "offset": clip.offset, "size": clip.size,
             "reason": "checksum (crc32) is wrong"}
        ]  # fmt: skip

    def test_a_second_time(self, packed: Manifest):
        for clip in (packed.clips[7], packed.clips[8]):
            flip(packed.shard_path(clip), clip.offset + 600)
            fixed = drop_bad_clips(read_manifest(packed.folder), verify(read_manifest(packed.folder)))
        assert len(fixed.clips) == len(packed.clips) - 2
        assert len(fixed.info["removed"]) == 2
        assert (packed.folder / "manifest.json.2").exists()
        assert bad(verify(fixed)) == {}

    def test_shards_without_a_clip_are_no_longer_listed(self, packed: Manifest):
        (packed.folder / packed.shards[0].name).unlink()
        cut = packed.folder / packed.shards[1].name
        cut.write_bytes(cut.read_bytes()[:-2000])
        damaged = read_manifest(packed.folder, check_shards=False)
        fixed = drop_bad_clips(damaged, verify(damaged))
        assert [shard.name for shard in fixed.shards] == [shard.name for shard in packed.shards[1:]]
        last = [clip for clip in packed.clips if clip.shard == 1][-1]
        kept = [clip for clip in packed.clips if clip.shard > 0 and clip != last]
        assert fixed.clips == tuple(dataclasses.replace(clip, shard=clip.shard - 1) for clip in kept)
        assert bad(verify(fixed)) == {}

    def test_nothing_whole_is_an_error(self, packed: Manifest):
        for shard in packed.shards:
            (packed.folder / shard.name).write_bytes(b"")
        with pytest.raises(ValueError, match=r"no clip of .* is whole"):
            drop_bad_clips(packed, verify(packed))
        assert not (packed.folder / "manifest.json.1").exists()


def jpeg(width: int = 32, height: int = 24) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (90, 120, 40)).save(buffer, "JPEG")
    return buffer.getvalue()


def sound(wave: np.ndarray, rate: int = 11_025, subtype: str = "PCM_16") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format="WAV", subtype=subtype)
    return buffer.getvalue()


WAVE = (8000 * np.sin(np.arange(500) * 0.1)).astype(np.int16)
BOXES = np.float32([[1, 4, 0.9, 2, 3, 32, 24], [7, 4, 0.9, 0, 0, 5, 5]])
METADATA = {"instrument": "erhu", "video": "x", "split": "train", "num_samples": 500, "num_boxes": 2}


def whole_members() -> dict[str, bytes]:
    return {
        "flac": encode_audio(WAVE, 11_025, "flac"),
        "000001.jpg": jpeg(),
        "000007.jpg": jpeg(),
        "npy": encode_array(BOXES),
        "json": json.dumps(METADATA).encode(),
    }


def problem_of(members: dict[str, bytes], key: str = "x_0") -> str | None:
    """What verification says of a clip with these members, whose checksum is right."""
    data = b"".join(tar_member(f"{key}.{extension}", content) for extension, content in members.items())
    clip = Clip("x_0", "erhu", "x", "train", 0, 0, len(data), 500, 2, zlib.crc32(data))
    return check_clip(clip, data, 11_025)


def with_boxes(**columns: float) -> dict[str, bytes]:
    boxes = BOXES.copy()
    for name, value in columns.items():
        boxes[1, ["frame", "class_id", "confidence", "x1", "y1", "x2", "y2"].index(name)] = value
    return {"npy": encode_array(boxes)}


class TestClip:
    def test_a_whole_clip(self):
        assert problem_of(whole_members()) is None

    @pytest.mark.parametrize(
        ("changed", "problem"),
        [
            ({"flac": b"fLaC" + bytes(50)}, "sound cannot be decoded"),
            ({"flac": encode_audio(WAVE, 22_050, "flac")}, "sound has 22050 samples per second"),
            ({"flac": encode_audio(WAVE[:-1], 11_025, "flac")}, "sound has 499 samples of 1 channels"),
            ({"flac": encode_audio(0 * WAVE, 11_025, "flac")}, "sound is silent"),
            ({"flac": encode_audio(WAVE[:0], 11_025, "wav")}, "sound has no samples"),
            ({"flac": sound(np.stack([WAVE, WAVE], 1))}, "sound has 500 samples of 2 channels"),
            ({"flac": sound(np.full(500, np.nan, np.float32), subtype="FLOAT")}, "not finite"),
            ({"000007.jpg": jpeg()[:200]}, "picture 000007.jpg cannot be decoded"),
            ({"000007.jpg": jpeg(4, 24)}, "a box of picture 000007.jpg is not inside it"),
            ({"000003.jpg": jpeg()}, "boxes and pictures differ in frames 000003.jpg"),
            (with_boxes(frame=8), "differ in frames 000007.jpg, 000008.jpg"),
            (with_boxes(x1=-1), "a box of picture 000007.jpg is not inside it"),
            (with_boxes(y2=24.5), "a box of picture 000007.jpg is not inside it"),
            (with_boxes(x1=9), "inverted"),
            (with_boxes(x1=4.5), "a box is smaller than a pixel"),
            (with_boxes(confidence=np.nan), "not finite"),
            (with_boxes(frame=7.5), "no whole frame number"),
            ({"npy": encode_array(BOXES[:1])}, "boxes are float32 (1, 7)"),
            ({"npy": encode_array(BOXES.astype(np.float64))}, "boxes are float64"),
            ({"npy": b"\x93NUMPY"}, ".npy cannot be read"),
            ({"json": b"{"}, ".json is damaged"),
            ({"json": b"{}"}, ".json is damaged"),
            ({"json": json.dumps({**METADATA, "video": "y"}).encode()}, ".json says video 'y', the manifest 'x'"),
            ({"txt": b"?"}, "must have one sound, pictures, .npy and .json"),
            ({"wav": sound(WAVE)}, "must have one sound"),
        ],
    )
    def test_what_is_wrong_is_said(self, changed: dict[str, bytes], problem: str):
        found = problem_of({**whole_members(), **changed})
        assert found is not None
        assert problem in found

    @pytest.mark.parametrize("name", ["flac", "npy", "json"])
    def test_a_missing_member(self, name: str):
        members = whole_members()
        del members[name]
        assert "must have one sound, pictures, .npy and .json" in (problem_of(members) or "")

    def test_a_stranger_among_the_members(self):
        assert problem_of(whole_members(), key="y_0") == "member y_0.flac does not belong to it"

    def test_bytes_that_are_no_archive(self):
        data = b"?" * 1024
        clip = Clip("x_0", "erhu", "x", "train", 0, 0, len(data), 500, 2, zlib.crc32(data))
        assert "is no tar archive" in (check_clip(clip, data, 11_025) or "")
