"""A manifest for tars that have none: ours, and those of other programs."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import webdataset
from PIL import Image

import shards.adopt
from ialcms.cli import main
from ialcms.data.clip_reader import read_clip
from ialcms.data.manifest import Manifest, read_manifest
from ialcms.data.plan import Plan
from ialcms.data.remote import open_manifest
from shards.adopt import adopt, find_tars
from shards.encode import EncodeOptions
from shards.foreign_clips import Reading
from shards.pack import PackOptions, pack
from shards.verify import check_manifest, verify
from tests.support.data import small_config

RATE = 8_000
KEYS = r"(?P<instrument>[a-z]+)_(?P<video>.{11})_"


@pytest.fixture
def packed(full_tree, tmp_path: Path) -> Manifest:
    """24 clips in several shards."""
    manifest, _ = pack(full_tree.entries, tmp_path / "out", PackOptions(EncodeOptions(clean="none"), shard_mb=0.05))
    return manifest


def picture(width: int = 60, height: int = 40, kind: str = "JPEG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), (200, 100, 30)).save(file, kind)
    return file.getvalue()


def sound(kind: str = "FLAC", rate: int = RATE, channels: int = 1, seconds: float = 0.5) -> bytes:
    file = io.BytesIO()
    wave = 0.3 * np.sin(np.arange(round(seconds * rate)) * 0.2)
    soundfile.write(file, np.stack([wave] * channels, axis=1), rate, format=kind)
    return file.getvalue()


def boxes(*frames: int, dtype: str = "float64") -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([[frame, 4, 0.9, 5, 4, 35, 30] for frame in frames], dtype))
    return file.getvalue()


def sample(number: int, **changed: bytes | dict | None) -> dict:
    """A clip as a user of WebDataset may write it: MP3, one picture, doubles, other fields."""
    name = ("violin", "tuba", "flute", "harp")[number % 4]
    values = {
        "__key__": f"{name}_vid{number // 4:08d}_{number}",
        "mp3": sound("MP3"),
        "jpg": picture(),
        "boxes.npy": boxes(0, 0),
        "json": {"label": {"name": name}, "youtube_id": f"vid{number // 8}", "split": "training"},
        "txt": b"a remark",
    }
    values |= {key.replace("__", "."): value for key, value in changed.items()}
    return {key: value for key, value in values.items() if value is not None}


THEIRS = Reading(fields={"instrument": "label.name", "video": "youtube_id"})


def their_reading() -> Reading:
    return replace(THEIRS, naming=replace(THEIRS.naming, boxes=("boxes.npy",)))


def write_theirs(folder: Path, *samples: dict, name: str = "data-%04d.tar") -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    with webdataset.ShardWriter(str(folder / name), maxcount=6, verbose=0) as writer:
        for each in samples:
            writer.write(each)
    return find_tars([str(folder)])


class TestOurs:
    def test_a_lost_manifest_is_made_anew(self, packed: Manifest, capsys: pytest.CaptureFixture[str]) -> None:
        (packed.folder / "manifest.json").unlink()
        assert main(["data", "verify", str(packed.folder), "--fix", "--jobs", "1"]) == 0
        made = read_manifest(packed.folder)
        assert (made.shards, made.clips, made.sample_rate) == (packed.shards, packed.clips, packed.sample_rate)
        assert "members" not in made.info
        assert not any(found.lines() for found in verify(made))
        assert check_manifest(made) == []
        assert "24 clips of 11025 Hz in" in capsys.readouterr().out
        assert not (packed.folder / ".adopting").exists()

    def test_without_fix_the_remedy_is_named(self, packed: Manifest, capsys: pytest.CaptureFixture[str]) -> None:
        (packed.folder / "manifest.json").unlink()
        assert main(["data", "verify", str(packed.folder)]) == 2
        assert "make the manifest.json with 'ialcms data adopt" in capsys.readouterr().err
        assert not (packed.folder / "manifest.json").exists()

    def test_bad_clips_are_left_out_and_named(self, packed: Manifest) -> None:
        clip = packed.clips[1]
        path = packed.shard_path(clip)
        raw = bytearray(path.read_bytes())
        at = raw.index(b"\x93NUMPY", clip.offset)
        raw[at : at + 6] = b"broken"
        path.write_bytes(raw)
        (packed.folder / "manifest.json").unlink()
        made, unusable = adopt(find_tars([str(packed.folder)]), Reading())
        assert [str(item) for item in unusable] == [
            f"{path.name}: clip {clip.key}: .npy cannot be read (it is no .npy file, or pickled objects, which are not "
            "read)"
        ]
        assert made.clips == tuple(other for other in packed.clips if other.key != clip.key)
        assert not any(found.lines() for found in verify(made))

    def test_a_set_that_is_being_packed_is_not_adopted(self, packed: Manifest) -> None:
        (packed.folder / "manifest.json").unlink()
        (packed.folder / ".packing").mkdir()
        with pytest.raises(ValueError, match="is being packed; end that first"):
            adopt(find_tars([str(packed.folder)]), Reading())

    def test_a_truncated_tar_gives_what_comes_before(self, packed: Manifest) -> None:
        clips = [clip for clip in packed.clips if clip.shard == 0]
        path = packed.shard_path(clips[0])
        path.write_bytes(path.read_bytes()[: clips[-1].offset + 700])
        (packed.folder / "manifest.json").unlink()
        made, unusable = adopt(find_tars([str(packed.folder)]), Reading())
        assert made.clips == tuple(clip for clip in packed.clips if clip != clips[-1])
        assert "is no whole tar" in " ".join(map(str, unusable))

    def test_a_killed_run_goes_on(self, packed: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
        (packed.folder / "manifest.json").unlink()
        tars, real, read = find_tars([str(packed.folder)]), shards.adopt.scan_tar, []

        def scan(path: Path, reading: Reading):
            if len(read) == 2:
                raise KeyboardInterrupt
            read.append(path)
            return real(path, reading)

        monkeypatch.setattr(shards.adopt, "scan_tar", scan)
        with pytest.raises(KeyboardInterrupt):
            adopt(tars, Reading())
        assert not (packed.folder / "manifest.json").exists()
        read.clear()
        monkeypatch.setattr(shards.adopt, "scan_tar", lambda path, reading: read.append(path) or real(path, reading))
        made, _ = adopt(tars, Reading())
        assert read == tars[2:]
        assert made.clips == packed.clips


class TestTheirs:
    def test_clips_are_found_read_and_planned(self, tmp_path: Path) -> None:
        tars = write_theirs(tmp_path / "a", *(sample(number) for number in range(16)))
        made, unusable = adopt(tars, their_reading(), jobs=2)
        assert unusable == []
        assert len(made.clips) == 16
        assert (made.sample_rate, made.instruments()) == (RATE, ["flute", "harp", "tuba", "violin"])
        first = made.clips[0]
        assert (first.instrument, first.video, first.split, first.num_boxes) == ("violin", "vid0", "train", 2)
        assert not any(found.lines() for found in verify(made))
        for index in range(16):
            clip = read_clip(made, index, rows=(1,))
            assert len(clip.wave) == made.clips[index].num_samples
            assert clip.picture(1, 20).shape == (3, 20, 20)
        config = small_config()
        assert len(Plan(made, config.data, config.audio, 0, 4).mix(0, 0).clips) == 4

    def test_the_command(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        write_theirs(tmp_path, *(sample(number) for number in range(8)), sample(9, mp3=b"ID3 and nothing more"))
        arguments = ["data", "adopt", f"{tmp_path}/data-{{0000..0001}}.tar", "--jobs", "1"]
        arguments += ["--member", "boxes=boxes.npy", "--field", "instrument=label.name", "--field", "video=youtube_id"]
        assert main([*arguments, "--dry-run"]) == 0
        assert "violin, video vid0, train, 2 boxes, 0.5 s at 8000 Hz" in capsys.readouterr().out
        assert not (tmp_path / "manifest.json").exists()
        assert main(arguments) == 0
        captured = capsys.readouterr()
        assert "8 clips of 8000 Hz in 2 tars, 1 unusable" in captured.out
        assert f"train with data.shards={tmp_path}" in captured.out
        assert "unusable: data-0001.tar: clip tuba_vid00000002_9: sound cannot be decoded" in captured.err
        before = (tmp_path / "manifest.json").read_bytes()
        assert main(arguments) == 0  # once more: left as it is
        assert (tmp_path / "manifest.json").read_bytes() == before
        assert main([*arguments, "--split", "val"]) == 2
        assert "has a manifest.json already" in capsys.readouterr().err
        assert main(["data", "verify", str(tmp_path), "--jobs", "1"]) == 0

    def test_facts_from_a_pattern_of_the_key(self, tmp_path: Path) -> None:
        reading = Reading(pattern=KEYS, split="val", naming=their_reading().naming)
        made, _ = adopt(write_theirs(tmp_path, *(sample(number, json=None) for number in range(8))), reading)
        assert {(clip.instrument, clip.video, clip.split) for clip in made.clips} == {
            (name, f"vid{half:08d}", "val") for name in ("violin", "tuba", "flute", "harp") for half in (0, 1)
        }

    def test_the_split_by_the_name_of_the_tar(self, tmp_path: Path) -> None:
        items = [sample(number, json={"instrument": "tuba", "video": "v"}) for number in range(2)]
        reading = Reading(their_reading().naming)
        made, _ = adopt(write_theirs(tmp_path, *items, name="validation-%03d.tar"), reading)
        assert {clip.split for clip in made.clips} == {"val"}

    def test_numbered_pictures_wav_and_several_channels(self, tmp_path: Path) -> None:
        given = {"mp3": None, "wav": sound("WAV", channels=2), "jpg": None, "frame_7__png": picture(kind="PNG")}

        reading = their_reading()
        reading = replace(reading, naming=replace(reading.naming, picture=("frame_*.png",)))
        tars = write_theirs(tmp_path, *(sample(n, **given, boxes__npy=boxes(7)) for n in range(4)))
        made, unusable = adopt(tars, reading)
        assert unusable == []
        clip = read_clip(made, 0)
        assert clip.wave.shape == (4_000,)
        assert np.abs(clip.window(0, 4_000)).max() == pytest.approx(0.3, abs=0.01)
        assert set(clip.frames) == {7}
        assert not any(found.lines() for found in verify(made))

    def test_keys_in_folders(self, tmp_path: Path) -> None:
        """Of two clips named alike, each is itself."""
        with tarfile.open(tmp_path / "train.tar", "w") as archive:
            folder = tarfile.TarInfo("./v1.0/violin")
            folder.type = tarfile.DIRTYPE
            archive.addfile(folder)
            for name in ("violin", "tuba"):
                for suffix, content in (("flac", sound()), ("jpg", picture()), ("npy", boxes(0)),
                                        ("json", json.dumps({"instrument": name}).encode())):  # fmt: skip
                    info = tarfile.TarInfo(f"./v1.0/{name}/0001.{suffix}")
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
        made, unusable = adopt(find_tars([str(tmp_path)]), Reading())
        assert unusable == []
        assert [(clip.key, clip.instrument) for clip in made.clips] == [
            ("v1.0/violin/0001", "violin"), ("v1.0/tuba/0001", "tuba")
        ]  # fmt: skip
        assert not any(found.lines() for found in verify(made))
        assert check_manifest(made) == []
        assert [read_clip(made, index).frames.keys() for index in (0, 1)] == [{0}, {0}]

    @pytest.mark.parametrize(
        ("changed", "problem"),
        [
            ({"mp3": None}, "no sound (.flac, .wav, .mp3, .ogg) among .boxes.npy, .jpg, .json, .txt"),
            ({"jpg": None}, "no picture (.*.jpg"),
            ({"boxes__npy": None}, "no boxes (.boxes.npy)"),
            ({"boxes__npy": boxes()}, "not rows of seven floats"),
            (
                {"boxes__npy": b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'shape': (10**12, 7)}"},
                ".npy",
            ),
            ({"boxes__npy": boxes(0, dtype="int64")}, "not rows of seven floats"),
            ({"jpg": picture(20, 20)}, "a box of picture jpg is not inside it"),
            ({"jpg": b"GIF89a"}, "picture jpg cannot be decoded"),
            ({"json": b"{"}, "its metadata cannot be read"),
            ({"json": {"youtube_id": "x", "split": "train"}}, "its metadata have no field 'label.name'"),
            ({"json": {"label": {"name": "harp"}}}, "its split is stated nowhere"),
            ({"json": {"label": {"name": "harp"}, "split": "holdout"}}, "its split is holdout"),
            ({"mp3": sound("MP3", rate=16_000)}, "its sound has 16000 samples per second, most have 8000"),
        ],
    )
    def test_what_is_unusable_is_said(self, changed: dict, problem: str, tmp_path: Path) -> None:
        tars = write_theirs(tmp_path, *(sample(number) for number in range(4)), sample(5, **changed))
        made, unusable = adopt(tars, their_reading())
        assert len(made.clips) == 4
        assert [item.key for item in unusable] == ["tuba_vid00000001_5"]
        assert problem in unusable[0].problem
        assert not any(found.lines() for found in verify(made))
        assert check_manifest(made) == []

    def test_a_clip_twice(self, tmp_path: Path) -> None:
        tars = write_theirs(tmp_path, *(sample(number) for number in (0, 1, 2, 3, 4, 5, 1)))
        made, unusable = adopt(tars, their_reading())
        assert len(made.clips) == 6
        assert str(unusable[0]) == (
            "data-0001.tar: clip tuba_vid00000000_1: a clip of this name is in data-0000.tar too"
        )

    def test_links_in_a_tar(self, tmp_path: Path) -> None:
        tars = write_theirs(tmp_path, *(sample(number) for number in range(4)))
        with tarfile.open(tars[0], "a") as archive:
            link = tarfile.TarInfo("harp_vid9_9.mp3")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(link)
        made, unusable = adopt(tars, their_reading())
        assert [str(item) for item in unusable] == ["data-0000.tar: clip harp_vid9_9: a link, not a file"]
        assert not any(found.lines() for found in verify(made))


@pytest.mark.parametrize(
    ("prepare", "names", "message"),
    [
        (lambda folder: None, ["{}"], "no tar in"),
        (lambda folder: None, ["{}/train-{{0..3}}.tar"], "train-0.tar does not exist"),
        (lambda folder: None, ["{}/train-{{0..3.tar"], "is no pattern of names"),
        (lambda folder: None, ["{}/train-{{0..999999999999}}.tar"], "names more than 1000000 tars"),
        (lambda folder: (folder / "a.tar").write_bytes(b"\x1f\x8b" + bytes(600)), ["{}"], "compressed.*gunzip"),
        (lambda folder: (folder / "a.tar").write_bytes(b"?" * 2_000), ["{}"], "no whole tar: no header"),
        (lambda folder: (folder / "a.tar").write_bytes(bytes(10_240)), ["{}"], "the tars are empty"),
    ],
)  # fmt: skip
def test_input_that_cannot_be_adopted_is_one_line(
    prepare: Callable[[Path], object],
    names: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    prepare(tmp_path)
    assert main(["data", "adopt", *(name.format(tmp_path) for name in names), "--jobs", "1"]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert error.count("\n") == 1
    assert not (tmp_path / "manifest.json").exists()


@pytest.mark.parametrize("name", ["train-000000.tar", "train-{000000..000003}.tar", "train-*.tar", "a.tar::b.tar",
                                  "x.tgz", "{train,val}-0.tar", "train-000000.tar.gz"])  # fmt: skip
@pytest.mark.parametrize("there", [True, False])
def test_tars_in_the_place_of_their_folder_lead_to_it(name: str, there: bool, packed: Manifest) -> None:
    if not there:
        (packed.folder / "manifest.json").unlink()
    location = "::".join(f"{packed.folder}/{part}" for part in name.split("::"))
    with pytest.raises(ValueError, match=r"must name a folder with a manifest\.json") as raised:
        open_manifest(location)
    assert str(raised.value).endswith(f"give data.shards={packed.folder}")
    assert ("ialcms data adopt" in str(raised.value)) is not there
