from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import webdataset
from PIL import Image

import shards.pack
from ialcms.cli import main
from ialcms.data.manifest import Clip, Manifest, read_manifest
from shards.datasets import Dataset, load_dataset
from shards.encode import EncodeOptions, encode_clip
from shards.entries import Entry
from shards.pack import PackOptions, mixed_order, pack
from shards.pack_parts import Part, join_parts, pack_part
from shards.report import Report
from tests.support.pictures import STORED, corners, turned

DEMO = load_dataset("demo")
REPOSITORY = Path(shards.pack.__file__).parents[1]


def options(shard_mb: float = 0.05, max_bad_fraction: float = 0.5, **encode) -> PackOptions:
    return PackOptions(EncodeOptions(dataset=DEMO, **encode), shard_mb, max_bad_fraction=max_bad_fraction)


def clip_bytes(manifest: Manifest, clip: Clip) -> bytes:
    with open(manifest.shard_path(clip), "rb") as file:
        file.seek(clip.offset)
        return file.read(clip.size)


def members(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {item.name.partition(".")[2]: archive.extractfile(item).read() for item in archive}


def boxes_of(stored: dict[str, bytes]) -> np.ndarray:
    return np.load(io.BytesIO(stored["npy"]))


def image_of(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def encoded(entry: Entry, **encode) -> dict[str, bytes]:
    result = encode_clip(entry, EncodeOptions(dataset=DEMO, **encode))
    assert result.bad is None
    return members(result.data)


class TestClip:
    def test_members_and_their_order(self, tree):
        entry = tree.add("violin-007_1", boxes=[[3, 2, 0.95, 1, 2, 30, 40], [1, 2, 0.99, 3, 4, 20, 30]])
        stored = encoded(entry)
        assert list(stored) == ["flac", "000001.jpg", "000003.jpg", "npy", "json"]
        assert (
            boxes_of(stored).tolist() == np.float32([[1, 2, 0.99, 3, 4, 20, 30], [3, 2, 0.95, 1, 2, 30, 40]]).tolist()
        )
        assert json.loads(stored["json"]) == {
            "clip": "violin-007_1", "instrument": "clarinet", "video": "violin-007", "split": "train",
            "sample_rate": 11_025, "num_samples": 3000, "num_boxes": 2, "pictures": "frames", "source_frames": [1, 3],
        }  # fmt: skip

    @pytest.mark.parametrize("audio_format", ["flac", "wav"])
    def test_16_bit_samples_stay_exact(self, tree, audio_format: str):
        wave = np.concatenate([np.arange(-32_768, 32_768, 7), [32_767]]).astype(np.int16)
        stored = encoded(tree.add("a_0", wave=wave), audio_format=audio_format)
        samples, rate = soundfile.read(io.BytesIO(stored[audio_format]), dtype="int16")
        assert rate == 11_025
        np.testing.assert_array_equal(samples, wave)

    def test_channels_are_averaged_and_loud_floats_clipped(self, tree):
        wave = np.float32([[0.5, 0.25], [2.0, 1.0], [-0.5, 0.5]])
        samples, _ = soundfile.read(io.BytesIO(encoded(tree.add("a_0", wave=wave))["flac"]), dtype="int16")
        assert samples.tolist() == [12_288, 32_767, 0]

    def test_jpeg_frames_are_copied(self, tree):
        entry = tree.add("a_0")
        assert encoded(entry)["000002.jpg"] == (entry.frames / "000002.jpg").read_bytes()
        assert encoded(entry, longest_side=64)["000002.jpg"] == (entry.frames / "000002.jpg").read_bytes()

    def test_png_frames_are_encoded(self, tree):
        entry = tree.add("a_0", suffix=".png")
        rough, fine = (encoded(entry, jpeg_quality=quality)["000002.jpg"] for quality in (10, 95))
        assert len(rough) < len(fine)
        original = np.asarray(Image.open(entry.frames / "000002.png"), float)
        assert np.abs(np.asarray(image_of(fine), float) - original).mean() < 4

    @pytest.mark.parametrize("orientation", STORED)
    def test_frames_stand_upright(self, tree, orientation: int):
        """As the detector saw them; nothing is left of the orientation, which readers of shards do not look at."""
        entry = tree.add("a_0", num_frames=1, boxes=[[1, 2, 0.95, 4, 6, 40, 30]])
        (entry.frames / "000001.jpg").write_bytes(turned(orientation))
        image = image_of(encoded(entry, jpeg_quality=95)["000001.jpg"])
        assert image.size == (60, 40)
        assert corners(np.asarray(image)) == "RGB."
        assert 0x0112 not in image.getexif()

    def test_frames_of_16_bits_are_scaled(self, tree):
        entry = tree.add("a_0", num_frames=1, boxes=[[1, 2, 0.95, 0, 0, 40, 30]], suffix=".png")
        ramp = np.linspace(0, 65_535, 64).astype(np.uint16)
        Image.fromarray(np.tile(ramp, (48, 1))).save(entry.frames / "000001.png")
        for crops_only, width in ((False, 64), (True, 40)):
            stored = encoded(entry, crops_only=crops_only, clean="none", jpeg_quality=95)
            grey = np.asarray(image_of(next(value for name, value in stored.items() if name.endswith(".jpg"))), float)
            np.testing.assert_allclose(grey[20, :, 0], ramp[:width] / 257, atol=3)

    def test_boxes_scale_with_the_frames(self, tree):
        entry = tree.add("a_0", boxes=[[1, 2, 0.95, 4, 6, 40, 30]])  # frames are 64 x 48
        stored = encoded(entry, longest_side=32)
        assert image_of(stored["000001.jpg"]).size == (32, 24)
        assert boxes_of(stored)[0, 3:].tolist() == [2, 3, 20, 15]

    def test_crops_are_stored_in_place_of_frames(self, tree):
        boxes = [[2, 2, 0.95, 4, 6, 40, 30], [2, 1, 0.97, 0, 0, 8.5, 8], [4, 2, 0.96, 10.5, 10, 20, 20]]
        entry = tree.add("a_0", boxes=boxes, suffix=".png")
        stored = encoded(entry, crops_only=True, clean="none", jpeg_quality=95, longest_side=30)
        assert list(stored) == ["flac", "000000.jpg", "000001.jpg", "000002.jpg", "npy", "json"]
        assert [image_of(stored[f"{row:06d}.jpg"]).size for row in range(3)] == [(9, 8), (30, 20), (10, 10)]
        kept = boxes_of(stored)
        assert kept[:, 0].tolist() == [0, 1, 2]
        assert kept[:, 1].tolist() == [1, 2, 2]
        assert kept[:, 3:].tolist() == [[0, 0, 9, 8], [0, 0, 30, 20], [0, 0, 10, 10]]
        assert json.loads(stored["json"])["source_frames"] == [2, 2, 4]
        crop = np.asarray(Image.open(entry.frames / "000004.png").crop((10, 10, 20, 20)), float)
        assert np.abs(np.asarray(image_of(stored["000002.jpg"]), float) - crop).mean() < 8

    def test_boxes_are_cut_off_at_the_frames_edge(self, tree):
        boxes = [[1, 2, 0.95, -5, -5, 70, 50], [2, 2, 0.95, 70, 10, 90, 20], [3, 2, 0.95, 60, 10, 90, 20]]
        result = encode_clip(tree.add("a_0", boxes=boxes), EncodeOptions(dataset=DEMO))
        kept = boxes_of(members(result.data))
        assert kept[:, [0, 3, 4, 5, 6]].tolist() == [[1, 0, 0, 64, 48], [3, 60, 10, 64, 20]]
        assert result.cleaned.rejected == {"outside the frame": 1}

    def test_boxes_of_less_than_a_pixel_fall(self, tree):
        """In pixels of the packed picture: the reader refuses them."""
        boxes = [
            [1, 2, 0.95, 4, 4, 20, 4.9],
            [2, 2, 0.95, 63.5, 4, 70, 20],
            [3, 2, 0.95, 4, 4, 5, 9],
            [4, 2, 0.95, 1, 1, 9, 9],
        ]
        entry = tree.add("a_0", boxes=boxes)
        for crops_only in (False, True):
            result = encode_clip(entry, EncodeOptions(dataset=DEMO, crops_only=crops_only))
            stored = members(result.data)
            assert json.loads(stored["json"])["source_frames"] == [3, 4]
            assert len(boxes_of(stored)) == 2
            assert result.cleaned.rejected == {"smaller than a pixel": 2}
        assert boxes_of(encoded(entry, longest_side=32))[:, 0].tolist() == [4]

    def test_an_unreadable_frame_costs_its_boxes_only(self, tree):
        entry = tree.add("a_0")
        (entry.frames / "000002.jpg").write_bytes((entry.frames / "000002.jpg").read_bytes()[:300])
        result = encode_clip(entry, EncodeOptions(dataset=DEMO))
        assert boxes_of(members(result.data))[:, 0].tolist() == [1, 3, 4]
        assert result.cleaned.rejected == {"frame unreadable": 1}

    @pytest.mark.parametrize(
        ("boxes", "reason"),
        [
            ([], "no box left"),
            ([[99, 2, 0.95, 1, 1, 9, 9]], "no box left"),
            ([[1, 2, 0.95, 100, 1, 200, 9]], "no box left"),
            ([[1, 2, 0.95, 9, 1, 1, 9]], "no box left"),
            ([[1, 2, float("nan"), 1, 1, 9, 9]], "no box left"),
        ],
    )
    def test_clips_without_a_usable_box_are_dropped(self, tree, boxes: list[list[float]], reason: str):
        result = encode_clip(tree.add("a_0", boxes=boxes), EncodeOptions(dataset=DEMO))
        assert (result.cleaned.dropped, result.bad, result.data) == (reason, None, b"")

    @pytest.mark.parametrize(
        ("wave", "rate", "bad"),
        [
            (np.zeros(0), 11_025, "sound has no samples"),
            (np.zeros(100), 11_025, "sound is silent"),
            (np.ones(100), 44_100, "sound has 44100 samples per second, not 11025"),
            (np.float32([0.1, np.nan]), 11_025, "sound has values that are not finite"),
        ],
    )
    def test_sounds_that_cannot_be_used(self, tree, wave: np.ndarray, rate: int, bad: str):
        result = encode_clip(tree.add("a_0", wave=wave, rate=rate), EncodeOptions(dataset=DEMO))
        assert (result.bad, result.data) == (bad, b"")

    def test_broken_files_are_named(self, tree):
        def bad() -> str | None:
            return encode_clip(entry, EncodeOptions(dataset=DEMO)).bad

        entry = tree.add("a_0", num_frames=1)
        entry.audio.write_bytes(b"RIFF")
        assert bad() == "sound cannot be decoded"
        entry.audio.unlink()
        assert bad() == "sound missing"
        np.save(entry.detections, np.zeros((2, 6)))
        assert bad() == "detections have shape (2, 6), not (D, 7)"
        np.save(entry.detections, np.array([None]), allow_pickle=True)
        assert "pickled objects" in bad()
        entry.detections.unlink()
        assert bad() == "detections missing"
        (entry.frames / "000001.jpg").unlink()
        assert bad() == "no frames"
        entry = tree.add("b_0", num_frames=1)
        (entry.frames / "000001.jpg").write_bytes(b"JPEG")
        assert bad() == "no frame with a box is readable"


class TestShards:
    def test_a_plain_webdataset_reads_them(self, full_tree, tmp_path: Path):
        manifest, _ = pack(full_tree.entries, tmp_path / "out", options())
        urls = [str(manifest.folder / shard.name) for shard in manifest.shards if shard.name.startswith("train-")]
        assert len(urls) > 1
        read = list(webdataset.WebDataset(urls, shardshuffle=False).decode("pil"))
        clips = manifest.of_split("train")
        assert [sample["__key__"] for sample in read] == [clip.key for clip in clips]
        for sample, clip in zip(read, clips):
            assert sample["json"]["instrument"] == clip.instrument
            assert sample["npy"].shape == (clip.num_boxes, 7)
            assert sample["000001.jpg"].size == (64, 48)
            samples, rate = soundfile.read(io.BytesIO(sample["flac"]))
            assert (len(samples), rate) == (clip.num_samples, manifest.sample_rate)

    def test_the_manifest_tells_where_a_clip_lies(self, full_tree, tmp_path: Path):
        manifest, report = pack(full_tree.entries, tmp_path / "out", options())
        assert read_manifest(tmp_path / "out") == manifest
        assert Counter(clip.split for clip in manifest.clips) == {"train": 12, "val": 6, "test": 6}
        assert {clip.key for clip in manifest.clips} == {entry.key for entry in full_tree.entries}
        for clip in manifest.clips:
            assert manifest.shard_path(clip).name.startswith(f"{clip.split}-0000")
            metadata = json.loads(members(clip_bytes(manifest, clip))["json"])
            assert metadata["clip"] == clip.key
            assert metadata["video"] == clip.video == clip.key[:-2]
        assert (report.num_clips, report.num_kept) == (24, 24)
        assert manifest.info["report"] == report.counts()
        names = {shard.name for shard in manifest.shards}
        others = {"manifest.json", "manifest.columns", "pack_report.json"}
        assert {path.name for path in manifest.folder.iterdir()} == names | others

    def test_shards_close_at_the_target_size(self, full_tree, tmp_path: Path):
        manifest, _ = pack(full_tree.entries, tmp_path / "out", options(shard_mb=0.04))
        largest = max(clip.size for clip in manifest.clips)
        sizes = [shard.num_bytes for shard in manifest.shards if shard.name.startswith("train")]
        assert all(40_000 <= size <= 40_000 + largest + 1024 for size in sizes[:-1])
        pack(full_tree.entries, tmp_path / "one", options(shard_mb=100))
        assert len(list((tmp_path / "one").glob("*.tar"))) == 3

    def test_same_input_same_bytes(self, full_tree, tmp_path: Path, read_folder):
        pack(full_tree.entries, tmp_path / "a", options())
        os.utime(full_tree.entries[0].audio, (1, 1))
        pack(full_tree.entries[::-1], tmp_path / "b", options(), jobs=2)
        assert read_folder(tmp_path / "a") == read_folder(tmp_path / "b")
        pack(full_tree.entries, tmp_path / "c", dataclasses.replace(options(), seed=1))
        assert read_folder(tmp_path / "a") != read_folder(tmp_path / "c")

    def test_dropped_and_broken_clips_are_reported(self, full_tree, tmp_path: Path):
        full_tree.entries[0].audio.unlink()
        np.save(full_tree.entries[1].detections, np.zeros((0, 7)))
        manifest, report = pack(full_tree.entries, tmp_path / "out", options())
        names = [entry.clip for entry in full_tree.entries]
        base = {"instrument": "acoustic_guitar", "split": "train"}
        assert report.bad == [{"clip": names[0], **base, "reason": "sound missing"}]
        assert report.dropped == [{"clip": names[1], **base, "reason": "no box left"}]
        assert {clip.key for clip in manifest.clips} == set(names[2:])
        assert json.loads((tmp_path / "out" / "pack_report.json").read_text())["bad"] == report.bad

    def test_the_manifest_says_how_clips_and_detections_came_about(self, full_tree, tmp_path: Path):
        manifest, _ = pack(full_tree.entries, tmp_path / "a", options())
        assert manifest.info["source"] == {}
        (full_tree.root / "clips.json").write_text('{"options": {"seconds": 10}, "resampling": "a way"}')
        detector = {"min_score": 0.3, "classes": {str(n): name for n, name in load_dataset("demo").classes.items()}}
        (full_tree.root / "detect_options.json").write_text(json.dumps(detector))
        manifest, _ = pack(full_tree.entries, tmp_path / "b", options())
        recorded = {"clips": {"seconds": 10, "resampling": "a way"}, "detector": detector}
        assert manifest.info["source"] == recorded

    def test_dots_in_names_become_part_of_the_key(self, tree, tmp_path: Path):
        tree.add("a.b_0")
        manifest, _ = pack(tree.entries, tmp_path / "out", options())
        assert manifest.clips[0].key == "a-b_0"
        assert json.loads(members(clip_bytes(manifest, manifest.clips[0]))["json"])["clip"] == "a.b_0"


class TestMix:
    def test_every_segment_has_all_instruments(self):
        sizes = {"cello": 200, "erhu": 100, "tuba": 50}
        entries = [
            Entry("train", Path(name, f"{name}_{i}.wav"), Path(), Path()) for name, n in sizes.items() for i in range(n)
        ]
        order = mixed_order(entries, seed=0)
        assert sorted(order, key=str) == sorted(entries, key=str)
        for start in range(0, 350, 35):
            counts = Counter(entry.instrument for entry in order[start : start + 35])
            assert abs(counts["cello"] - 20) <= 2
            assert abs(counts["erhu"] - 10) <= 2
            assert abs(counts["tuba"] - 5) <= 2
        assert order != mixed_order(entries, seed=1)
        assert [e.clip for e in order if e.instrument == "tuba"] != [e.clip for e in entries if e.instrument == "tuba"]


class TestResume:
    def test_goes_on_after_the_last_whole_shard(self, full_tree, tmp_path: Path, read_folder, monkeypatch):
        pack(full_tree.entries, tmp_path / "whole", options())
        encoded_clips: list[str] = []

        def encode_until(limit: int):
            def encode(entry: Entry, options: EncodeOptions):
                if len(encoded_clips) == limit:
                    raise KeyboardInterrupt
                encoded_clips.append(entry.clip)
                return encode_clip(entry, options)

            return encode

        out = tmp_path / "out"
        for limit in (9, 15):
            monkeypatch.setattr(shards.pack, "encode_clip", encode_until(limit))
            with pytest.raises(KeyboardInterrupt):
                pack(full_tree.entries, out, options())
            assert not (out / "manifest.json").exists()
            assert not list(out.rglob("*.tmp"))
        monkeypatch.setattr(shards.pack, "encode_clip", encode_until(1000))
        pack(full_tree.entries, out, options())
        assert read_folder(out) == read_folder(tmp_path / "whole")
        # of each stopped run, the clips of its unfinished shard were encoded again, and no others
        assert 24 < len(encoded_clips) < 24 + 2 * 6

    def test_survives_sigkill(self, full_tree, tmp_path: Path, read_folder):
        """A killed program leaves whole shards and no manifest, its ranks end, and the next run completes it."""
        pack(full_tree.entries, tmp_path / "whole", options(shard_mb=0.001))
        out = tmp_path / "out"
        program = (
            "import sys; from pathlib import Path; from shards.entries import read_index; import shards.pack as p\n"
            "from shards.datasets import load_dataset; from shards.encode import EncodeOptions\n"
            "if __name__ == '__main__':\n"
            "    o = p.PackOptions(EncodeOptions(dataset=load_dataset('demo')), 0.001, max_bad_fraction=0.5)\n"
            "    p.pack(read_index(sys.argv[1]), Path(sys.argv[2]), o, jobs=2)\n"
        )
        (tmp_path / "program.py").write_text(program)
        command = [sys.executable, str(tmp_path / "program.py"), str(full_tree.root), str(out)]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        process = subprocess.Popen(command, env=environment, start_new_session=True)
        try:
            deadline = time.monotonic() + 20
            while not list(out.glob("*.tar")) and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.005)
            process.kill()
            process.wait()
            while _group_lives(process.pid) and time.monotonic() < deadline:
                time.sleep(0.02)
            assert not _group_lives(process.pid)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        assert list(out.glob("*.tar"))
        pack(full_tree.entries, out, options(shard_mb=0.001))
        assert read_folder(out) == read_folder(tmp_path / "whole")

    def test_a_complete_folder_is_left_as_it_is(self, full_tree, tmp_path: Path, monkeypatch):
        first = pack(full_tree.entries, tmp_path / "out", options())
        monkeypatch.setattr(shards.pack, "encode_clip", None)
        assert pack(full_tree.entries, tmp_path / "out", options()) == first

    def test_other_options_do_not_mix_in(self, full_tree, tmp_path: Path, monkeypatch):
        pack(full_tree.entries, tmp_path / "out", options())
        with pytest.raises(ValueError, match="holds other shards"):
            pack(full_tree.entries, tmp_path / "out", options(audio_format="wav"))

        class Stop(Exception):
            pass

        def stop(*_):
            raise Stop

        monkeypatch.setattr(shards.pack, "write_manifest", stop)
        with pytest.raises(Stop):
            pack(full_tree.entries, tmp_path / "new", options())
        with pytest.raises(ValueError, match="unfinished run with other clips or options"):
            pack(full_tree.entries[1:], tmp_path / "new", options())

    def test_shards_of_another_run_are_not_left_among_the_new_ones(self, full_tree, tmp_path: Path, read_folder):
        out = tmp_path / "out"
        pack(full_tree.entries, out, options())
        (out / "manifest.json").unlink()
        before = read_folder(out)
        with pytest.raises(ValueError, match=r"not of this run \(test-000000\.tar, 7 in all\); remove them"):
            pack(full_tree.entries, out, options(shard_mb=100))
        for number in range(2):
            pack_part(full_tree.entries, out, Part(number, 2), options(shard_mb=100))
        with pytest.raises(ValueError, match="not of this run"):
            join_parts(full_tree.entries, out, 2, options(shard_mb=100))
        assert {name: content for name, content in read_folder(out).items() if "/" not in name} == before
        for path in out.glob("*.tar"):
            path.unlink()
        _, report = join_parts(full_tree.entries, out, 2, options(shard_mb=100))
        assert report.num_kept == 24
        assert {path.name for path in out.glob("*.tar")} == {shard.name for shard in read_manifest(out).shards}
        (out / "pack_report.json").write_text("{")
        with pytest.raises(ValueError, match="remove it: nothing depends on it"):
            join_parts(full_tree.entries, out, 2, options(shard_mb=100))
        (out / "pack_report.json").unlink()
        join_parts(full_tree.entries, out, 2, options(shard_mb=100))

    def test_a_finished_shard_that_vanished_is_packed_again(self, full_tree, tmp_path: Path, read_folder, monkeypatch):
        pack(full_tree.entries, tmp_path / "whole", options())
        monkeypatch.setattr(shards.pack, "write_manifest", lambda manifest: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pack(full_tree.entries, tmp_path / "out", options())
        monkeypatch.undo()
        (tmp_path / "out" / "train-000001.tar").unlink()
        pack(full_tree.entries, tmp_path / "out", options())
        assert read_folder(tmp_path / "out") == read_folder(tmp_path / "whole")

    def test_a_full_disk(self, full_tree, tmp_path: Path, read_folder, monkeypatch):
        pack(full_tree.entries, tmp_path / "whole", options())
        real_fsync, calls = os.fsync, []

        def fsync(descriptor: int) -> None:
            calls.append(descriptor)
            if len(calls) == 3:  # first shard, its record, second shard
                raise OSError(28, "No space left on device")
            real_fsync(descriptor)

        monkeypatch.setattr(os, "fsync", fsync)
        with pytest.raises(ValueError, match=r"cannot write .*train-000001.tar: No space left on device; make room"):
            pack(full_tree.entries, tmp_path / "out", options())
        assert [path.name for path in (tmp_path / "out").glob("*.tar")] == ["train-000000.tar"]
        assert not list((tmp_path / "out").rglob("*.tmp"))
        monkeypatch.undo()
        pack(full_tree.entries, tmp_path / "out", options())
        assert read_folder(tmp_path / "out") == read_folder(tmp_path / "whole")

    def test_a_file_that_may_not_grow(self, full_tree, tmp_path: Path):
        """The operating system refuses in the middle of a shard: no manifest, no half shard, one clear line."""
        program = (
            "import resource, signal, sys; from pathlib import Path; from shards.entries import read_index\n"
            "from shards.pack import PackOptions, pack; from shards.encode import EncodeOptions\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))\n"
            "try:\n"
            "    pack(read_index(sys.argv[1]), Path(sys.argv[2]), PackOptions(EncodeOptions(clean='none')))\n"
            "except ValueError as error:\n"
            "    print(error)\n"
        )
        command = [sys.executable, "-c", program, str(full_tree.root), str(tmp_path / "out")]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert "train-000000.tar: File too large; make room and start again" in result.stdout
        assert result.stderr == ""
        assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


def test_sounds_that_are_too_loud_are_named(tree, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Cut off at full scale where that can be heard; left out where they cannot be sounds."""
    wave = 0.5 * np.sin(np.arange(3000) * 0.2)
    for name, scale in (("fine_0", 1.0), ("loud_0", 4.0), ("numbers_0", 32_768.0)):
        tree.add(name, wave=(scale * wave).astype(np.float32))
    tree.write_index()
    options = ["--dataset", "demo", "--jobs", "1", "--max-bad-fraction", "0.5"]
    assert main(["data", "pack", str(tree.root), "--out", str(tmp_path / "out"), *options]) == 0
    printed = capsys.readouterr()
    assert "sounds cut off at full scale: 1" in printed.out
    assert "clarinet/loud_0: 2000 of 3000 samples beyond full scale are cut off (peak 2.00)" in printed.err
    assert "clarinet/numbers_0: sound is up to 100,000 times full scale" in printed.err
    report = json.loads((tmp_path / "out" / "pack_report.json").read_text())
    assert [item["clip"] for item in report["clipped"]] == ["loud_0"]
    assert read_manifest(tmp_path / "out").info["report"]["sounds_clipped"] == 1
    assert Report.read(tmp_path / "out" / "pack_report.json").to_dict() == report


class TestErrors:
    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"audio_format": "mp3"}, "--audio-format 'mp3': choose flac or wav"),
            ({"clean": "musik"}, "'musik' is unknown"),
            ({"jpeg_quality": 101}, "--jpeg-quality 101"),
            ({"longest_side": -1}, "--longest-side -1"),
            ({"shard_mb": 0}, "--shard-mb 0"),
            ({"shard_mb": float("nan")}, "--shard-mb nan"),
        ],
    )
    def test_options_out_of_range(self, tree, tmp_path: Path, changed: dict, message: str):
        tree.add("a_0")
        with pytest.raises(ValueError, match=message):
            pack(tree.entries, tmp_path / "out", options(**changed))
        assert not (tmp_path / "out").exists()

    def test_an_instrument_without_a_class(self, tree, tmp_path: Path):
        tree.add("a_0")
        with pytest.raises(ValueError, match="which detector class shows clarinet"):
            pack(tree.entries, tmp_path / "out", PackOptions(EncodeOptions(dataset=Dataset())))

    def test_two_clips_of_one_name(self, tree, tmp_path: Path):
        tree.add("a_0", "clarinet")
        tree.add("a_0", "saxophone")
        with pytest.raises(ValueError, match="two clips are named 'a_0'"):
            pack(tree.entries, tmp_path / "out", options())

    def test_nothing_left(self, tree, tmp_path: Path):
        tree.add("a_0", boxes=[])
        with pytest.raises(ValueError, match=r"no clip is left to pack \(no box left: 1\); correct"):
            pack(tree.entries, tmp_path / "out", options())

    def test_too_many_broken_clips(self, full_tree, tmp_path: Path):
        for entry in full_tree.entries[:3]:
            entry.audio.unlink()
        with pytest.raises(ValueError, match=r"3 of 24 clips have broken files, more than --max-bad-fraction 0.1"):
            pack(full_tree.entries, tmp_path / "out", options(max_bad_fraction=0.1))
        manifest, _ = pack(full_tree.entries, tmp_path / "out", options(max_bad_fraction=0.2))
        assert len(manifest.clips) == 21


def _group_lives(group: int) -> bool:
    """Whether a process of the group still runs (ended ones that nobody has waited for do not count)."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            return True
    return False
