"""Reading clips: what comes out, and what is said when something is wrong."""

from __future__ import annotations

import io
import tarfile
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from ialcms.data.clip_reader import BadClip, LoadedClip, ReadBuffer, read_clip
from ialcms.data.clip_store import ClipStore
from ialcms.data.manifest import Manifest, read_manifest
from tests.support.data import RATE, clip_members, write_shards


def npy(rows: object, dtype: str = "float32") -> bytes:
    file = io.BytesIO()
    np.save(file, np.array(rows, dtype=dtype), allow_pickle=True)
    return file.getvalue()


def sound(wave: np.ndarray, rate: int = RATE, subtype: str = "PCM_16") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format="WAV", subtype=subtype)
    return file.getvalue()


@pytest.mark.parametrize("index", [0, 1, 29, 59])
def test_a_clip_is_what_was_packed(shards: Manifest, index: int) -> None:
    clip = read_clip(shards, index)
    members = clip_members(shards.clips[index].key, index % 5, index, "wav" if index % 3 == 0 else "flac")
    key = shards.clips[index].key
    expected, _ = soundfile.read(
        io.BytesIO(members.get(f"{key}.flac", members.get(f"{key}.wav", b""))), dtype="float32"
    )
    assert np.array_equal(clip.window(0, len(expected)), expected)
    assert np.array_equal(clip.detections, np.load(io.BytesIO(members[f"{key}.npy"])))
    assert clip.frames == {3: members[f"{key}.000003.jpg"], 17: members[f"{key}.000017.jpg"]}
    assert clip.wave.dtype == np.int16


def loaded(wave: np.ndarray, picture: Image.Image, boxes: list[list[float]], kind: str = "PNG") -> LoadedClip:
    file = io.BytesIO()
    picture.save(file, kind, quality=95)
    return LoadedClip(
        "clip x in y", wave, np.array([[8, 1, 0.9, *box] for box in boxes], "float32"), {8: file.getvalue()}
    )


def test_windows_are_cut_and_padded() -> None:
    wave = np.arange(10, dtype=np.int16) * 1000
    clip = loaded(wave, Image.new("RGB", (4, 4)), [])
    assert np.array_equal(clip.window(2, 5), np.arange(2, 7, dtype=np.float32) * 1000 / 32768)
    padded = clip.window(0, 13)
    assert np.array_equal(padded[:10], wave.astype(np.float32) / 32768)
    assert not padded[10:].any()
    assert clip.window(3, 4).dtype == np.float32


class TestPictures:
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 255, (90, 120, 3), dtype=np.uint8)).resize((120, 90), Image.Resampling.BOX)

    def test_a_box_is_cut_out_and_resized(self) -> None:
        clip = loaded(np.zeros(1, np.int16), self.noise, [[10, 20, 70, 80]])
        picture = clip.picture(0, 40)
        assert picture.shape == (3, 40, 40)
        assert picture.dtype == np.uint8
        reference = np.asarray(self.noise.crop((10, 20, 70, 80)).resize((40, 40), Image.Resampling.BILINEAR))
        # at the rim the filter sees the picture around the box
        assert np.abs(picture.astype(int) - reference.transpose(2, 0, 1))[:, 2:-2, 2:-2].max() <= 1

    def test_fractional_box_upscaled(self) -> None:
        ramp = Image.fromarray(np.repeat(np.arange(100, dtype=np.uint8)[None, :, None], 50, axis=0).repeat(3, axis=2))
        picture = loaded(np.zeros(1, np.int16), ramp, [[20.5, 10, 60.5, 50]]).picture(0, 80)
        # column 8 of 80 over 40 pixels from 20.5 on: its centre lies at 20.5 + 8.5 / 2 = 24.75, pixel centres at .5
        assert picture[0, 30, 8] == pytest.approx(24.25, abs=1)
        assert picture[2, 30, 71] == pytest.approx(24.25 + 63 / 2, abs=1)

    def test_boxes_are_cut_at_the_picture(self) -> None:
        clip = loaded(np.zeros(1, np.int16), self.noise, [[-30, -5, 60, 200], [0, 0, 60, 90]])
        assert np.array_equal(clip.picture(0, 32), clip.picture(1, 32))

    def test_big_jpegs_are_decoded_small(self) -> None:
        smooth = self.noise.resize((24, 18)).resize((960, 720), Image.Resampling.BICUBIC)
        boxes = [[100.0, 50.0, 800.0, 700.0]]
        small = loaded(np.zeros(1, np.int16), smooth, boxes, "JPEG").picture(0, 80)
        full = loaded(np.zeros(1, np.int16), smooth, boxes, "PNG").picture(0, 80)
        assert np.abs(small.astype(int) - full).mean() < 2

    @pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
    def test_other_colours(self, mode: str) -> None:
        kind = "JPEG" if mode == "CMYK" else "PNG"
        picture = loaded(np.zeros(1, np.int16), self.noise.convert(mode), [[0, 0, 90, 90]], kind).picture(0, 20)
        assert picture.shape == (3, 20, 20)

    @pytest.mark.parametrize("box", [[5, 5, 5, 20], [30, 5, 10, 20], [200, 5, 220, 20], [5, 5, 5.4, 20]])
    def test_empty_box(self, box: list[float]) -> None:
        with pytest.raises(BadClip, match="clip x in y: frame 8, row 0 of its detections: the box is empty"):
            loaded(np.zeros(1, np.int16), self.noise, [box]).picture(0, 20)

    def test_missing_frame(self) -> None:
        clip = loaded(np.zeros(1, np.int16), self.noise, [[5, 5, 50, 20]])
        with pytest.raises(BadClip, match="row 0 of its detections names frame 9, which it does not have"):
            replace(clip, detections=clip.detections + np.eye(1, 7)).picture(0, 20)

    @pytest.mark.parametrize("damage", [lambda raw: raw[:500], lambda raw: b"", lambda raw: b"no picture"])
    def test_broken_picture(self, damage) -> None:  # type: ignore[no-untyped-def]
        clip = loaded(np.zeros(1, np.int16), self.noise, [[5, 5, 50, 20]], "JPEG")
        with pytest.raises(BadClip, match="clip x in y: frame 8, row 0 of its detections: the frame cannot be decoded"):
            replace(clip, frames={8: damage(clip.frames[8])}).picture(0, 20)


@pytest.mark.parametrize(
    ("replacement", "message"),
    [
        ({"flac": b"fLaC and nothing more"}, "its sound cannot be decoded"),
        ({"flac": None}, r"has no sound \(.flac or .wav\)"),
        ({"flac": None, "wav": sound(np.zeros(100))}, "its sound has 100 samples in 1 channels at 1000 Hz"),
        ({"flac": None, "wav": sound(np.zeros((280, 2)))}, "in 2 channels"),
        ({"flac": None, "wav": sound(np.zeros(280), rate=2_000)}, "at 2000 Hz"),
        ({"flac": None, "wav": sound(np.full(280, np.nan), subtype="FLOAT")}, "values that are not numbers"),
        ({"npy": None}, r"has no detections \(.npy\)"),
        ({"npy": npy([[3, 1, 0.9, 1, 2, 3]])}, r"its detections are float32 \(1, 6\)"),
        ({"npy": npy(np.ones((2, 7)))}, r"the manifest says float \(3, 7\)"),
        ({"npy": npy(np.full((3, 7), np.nan))}, "values that are not numbers"),
        ({"npy": npy(np.ones((3, 7)), "int64")}, "its detections are int64"),
        ({"npy": npy([[{}] * 7] * 3, "object")}, "its detections cannot be read"),
        ({"npy": npy(np.ones((3, 7)))[:150]}, "its detections cannot be read"),
    ],
)
def test_bad_content(tmp_path: Path, replacement: dict[str, bytes | None], message: str) -> None:
    manifest = write_shards(tmp_path, [5], replace={"drum_001": replacement})
    read_clip(manifest, 0)
    with pytest.raises(BadClip, match=f"^clip drum_001 in {tmp_path}/clips-000.tar.*{message}") as raised:
        read_clip(manifest, 1)
    assert "\n" not in str(raised.value)


def test_samples_of_more_than_16_bits_are_kept(tmp_path: Path) -> None:
    wave = np.linspace(-0.9, 0.9, 280, dtype=np.float32)
    manifest = write_shards(tmp_path, [5], replace={"drum_001": {"flac": None, "wav": sound(wave, subtype="FLOAT")}})
    assert np.array_equal(read_clip(manifest, 1).window(0, 280), wave)


class TestShards:
    def test_damaged_bytes(self, tmp_path: Path) -> None:
        manifest = write_shards(tmp_path, [5])
        path = tmp_path / "clips-000.tar"
        raw = bytearray(path.read_bytes())
        raw[manifest.clips[2].offset + 600] ^= 1
        path.write_bytes(raw)
        with pytest.raises(BadClip, match=r"^clip flute_002 in .*clips-000.tar is damaged: its checksum"):
            read_clip(manifest, 2)
        read_clip(manifest, 3)

    def test_truncated_after_the_start(self, tmp_path: Path) -> None:
        manifest = write_shards(tmp_path, [5])
        path = tmp_path / "clips-000.tar"
        path.write_bytes(path.read_bytes()[: manifest.clips[4].offset + 1_000])
        read_clip(manifest, 3)
        with pytest.raises(
            ValueError, match=r"^shard .*clips-000.tar ends at byte .*inside clip tuba_004.*cut off"
        ) as raised:
            read_clip(manifest, 4)
        assert not isinstance(raised.value, BadClip)

    def test_truncated_before_the_start(self, tmp_path: Path) -> None:
        write_shards(tmp_path, [5])
        path = tmp_path / "clips-000.tar"
        path.write_bytes(path.read_bytes()[:5_000])
        with pytest.raises(ValueError, match=r"clips-000.tar has 5000 bytes, the manifest says"):
            read_manifest(tmp_path)

    def test_missing(self, tmp_path: Path) -> None:
        manifest = write_shards(tmp_path, [5, 5])
        (tmp_path / "clips-001.tar").unlink()
        read_clip(manifest, 0)
        with pytest.raises(ValueError, match=r"^shard .*clips-001.tar is missing") as raised:
            read_clip(manifest, 7)
        assert not isinstance(raised.value, BadClip)

    def test_another_shard_of_the_same_size(self, tmp_path: Path) -> None:
        manifest = write_shards(tmp_path / "a", [5, 5])
        first, second = (tmp_path / "a" / f"clips-00{n}.tar" for n in (0, 1))
        second.write_bytes(first.read_bytes().ljust(second.stat().st_size, b"\0"))
        with pytest.raises(
            ValueError, match=r"clips-001.tar has 'bell_000.* where the manifest has clip bell_005: it changed"
        ) as raised:
            read_clip(manifest, 5)
        assert not isinstance(raised.value, BadClip)

    def test_not_a_tar(self, tmp_path: Path) -> None:
        manifest = write_shards(tmp_path, [5])
        path = tmp_path / "clips-000.tar"
        path.write_bytes(np.random.default_rng(0).bytes(path.stat().st_size))
        with pytest.raises(
            ValueError, match=r"^shard .*clips-000.tar is not the tar.*clip bell_000 at byte 0"
        ) as raised:
            read_clip(manifest, 0)
        assert not isinstance(raised.value, BadClip)


@pytest.mark.parametrize("index", [0, 1])  # wav, flac
def test_parts_of_a_clip(shards: Manifest, index: int) -> None:
    whole, buffer = read_clip(shards, index), ReadBuffer()
    length = len(whole.wave)
    for first, count in [(0, 50), (37, 100), (length - 20, 100), (0, 0), (0, 10_000)]:
        part = read_clip(shards, index, rows=(0,), samples=(first, count), buffer=buffer)
        assert np.array_equal(part.wave, whole.wave[first : first + count])
        assert part.frames == {3: whole.frames[3]}
        assert np.array_equal(part.detections, whole.detections)
    assert read_clip(shards, index, rows=()).frames == {}


def test_a_buffer_does_not_mix_clips(shards: Manifest) -> None:
    buffer = ReadBuffer()
    clips = [read_clip(shards, index, buffer=buffer) for index in (3, 40, 7)]
    for index, clip in zip((3, 40, 7), clips):
        alone = read_clip(shards, index)
        assert clip.frames == alone.frames
        assert np.array_equal(clip.wave, alone.wave)


def test_a_sound_that_breaks_off(tmp_path: Path) -> None:
    flac = clip_members("drum_001", 1, 1)["drum_001.flac"]
    manifest = write_shards(tmp_path, [5], replace={"drum_001": {"flac": flac[:-150]}})
    with pytest.raises(
        BadClip, match=r"^clip drum_001 in .*its sound (ends after \d+ of 280 samples|cannot be decoded)"
    ):
        read_clip(manifest, 1)


def test_long_names_and_folders_in_a_tar(tmp_path: Path) -> None:
    """Headers that the quick reader leaves to tarfile."""
    manifest = write_shards(tmp_path, [5])
    clip, path = manifest.clips[2], tmp_path / "clips-000.tar"
    members = {f"folder/{name}": data for name, data in clip_members(clip.key, 2, 2).items()}
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1.5  # a time that takes an extended header
            archive.addfile(info, io.BytesIO(data))
        raw = content.getvalue()[: archive.offset]
    path.write_bytes(raw)
    changed = replace(clip, offset=0, size=len(raw), crc32=zlib.crc32(raw))
    other = replace(manifest, clips=(changed,))
    assert read_clip(other, 0).frames == {
        3: members[f"folder/{clip.key}.000003.jpg"],
        17: members[f"folder/{clip.key}.000017.jpg"],
    }


class TestStore:
    def test_reads_once_while_in_a_window(self, shards: Manifest) -> None:
        store = ClipStore(shards, limit=100, resize=20)
        store.move_window(0, range(10))
        store.move_window(1, range(8, 20))
        for _ in range(3):
            for index in range(20):
                store.get(0 if index < 10 else 1, index, (0, 1))
        assert store.num_reads == store.num_clips == 20
        store.move_window(0, range(5, 15))
        assert store.num_clips == 15
        store.move_window(1, range(30, 32))
        assert store.num_clips == 5
        clips = [read_clip(shards, index) for index in range(5, 10)]
        sizes = [clip.wave.nbytes + clip.detections.nbytes + sum(map(len, clip.frames.values())) for clip in clips]
        assert store.num_bytes == sum(sizes)

    def test_never_holds_more_than_its_limit(self, shards: Manifest) -> None:
        store = ClipStore(shards, limit=4, resize=20)
        store.move_window(0, range(20))
        for index in [0, 1, 2, 3, 0, 4, 0]:
            store.get(0, index, (1,))
            assert store.num_clips <= 4
        assert store.num_reads == 5  # clip 0 was in use and stayed, clip 1 had to go

    def test_reads_a_bad_clip_once(self, tmp_path: Path) -> None:
        store = ClipStore(write_shards(tmp_path, [5], replace={"drum_001": {"flac": b""}}), limit=4, resize=20)
        for _ in range(3):
            with pytest.raises(BadClip, match="drum_001"):
                store.get(0, 1, (0,))
        assert store.num_reads == 1

    def test_decodes_a_picture_once(self, shards: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
        store, decoded = ClipStore(shards, limit=4, resize=20), []
        picture = LoadedClip.picture
        monkeypatch.setattr(LoadedClip, "picture", lambda self, *args: decoded.append(args) or picture(self, *args))
        for _ in range(3):
            cached = store.get(0, 7, (0, 2))
            for row in (2, 0):
                assert np.array_equal(cached.picture(row), picture(read_clip(shards, 7), row, 20))
        assert decoded == [(2, 20), (0, 20)]
        assert cached.clip.frames == {}  # nothing is kept twice
        assert cached.num_bytes == cached.clip.wave.nbytes + cached.clip.detections.nbytes + 2 * 3 * 20 * 20

    def test_lanes_with_pictures_of_their_own(self, shards: Manifest) -> None:
        store = ClipStore(shards, limit=9, resize=20)
        for lane, rows in ((0, (0,)), (1, (2,)), (2, (0,))):
            store.move_window(lane, [7])
            assert np.array_equal(store.get(lane, 7, rows).picture(rows[0]), read_clip(shards, 7).picture(rows[0], 20))
        assert store.num_reads == 2  # once more for the other frame
        cached = store.get(0, 7, (0,))
        assert set(cached.pictures) == {0, 2}
        store.move_window(1, [8])
        assert set(cached.pictures) == {0}
        store.get(0, 7, (1,)).picture(1)  # the lane's next pass
        assert set(cached.pictures) == {0, 1}  # lane 2 is still there
        for lane in (0, 2):
            store.move_window(lane, [])
        assert store.num_clips == store.num_bytes == 0

    def test_a_bad_picture_leaves_the_others(self, tmp_path: Path) -> None:
        manifest = write_shards(tmp_path, [5], replace={"drum_001": {"000017.jpg": b"broken"}})
        cached = ClipStore(manifest, limit=4, resize=20).get(0, 1, (0, 1, 2))
        for _ in range(2):
            for row in (1, 2):
                with pytest.raises(BadClip, match=f"frame 17, row {row} of its detections: the frame cannot be dec"):
                    cached.picture(row)
            assert cached.picture(0).shape == (3, 20, 20)
