from __future__ import annotations

import contextlib
import json
import random
import re
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

import shards.clips
from ialcms.media.sound import working_rate
from shards.clips import ClipOptions, Video, VideoResult, cut_video, cut_videos, videos_of_folders, videos_of_list
from shards.index import scan_tree
from shards.segments import Segment
from shards.video_lists import Listed

OPTIONS = ClipOptions(seconds=5, min_seconds=4.5)


def cut(path: Path, tree: Path, options: ClipOptions = OPTIONS, segment: Segment | None = None):
    return cut_video(Video(path, "cello", path.stem, segment), tree, options)


def sound_of(tree: Path, clip: str) -> np.ndarray:
    wave, rate = soundfile.read(tree / "solo_audio_resample" / "cello" / f"{clip}.wav")
    assert rate == 11_025
    assert wave.ndim == 1
    return wave


def frames_of(tree: Path, clip: str) -> list[np.ndarray]:
    folder = tree / "solo_extract" / "cello" / clip
    paths = sorted(folder.iterdir())
    assert [path.name for path in paths] == [f"{number:06d}.jpg" for number in range(1, len(paths) + 1)]
    return [np.asarray(Image.open(path)).astype(float) for path in paths]


def times_of(frames: list[np.ndarray]) -> np.ndarray:
    """When the frames were on the screen, in seconds, from their grey (good to about 0.1 s)."""
    return np.array([frame[8:-8, 8:24].mean() / 20 for frame in frames])


def loudness(wave: np.ndarray, second: int) -> float:
    return float(np.abs(wave[second * 11_025 + 2000 : (second + 1) * 11_025 - 2000]).max())


def pitch_hz(wave: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(wave))
    return float(np.fft.rfftfreq(len(wave), 1 / 11_025)[spectrum.argmax()])


class TestFormats:
    @pytest.mark.parametrize(
        ("name", "made"),
        [
            ("plain.mp4", {}),
            ("h264.mp4", {"video_codec": "libx264"}),
            ("film.mkv", {"fps": Fraction(24_000, 1001), "rate": 32_000}),
            ("web.webm", {"video_codec": "libvpx", "audio_codec": "libopus", "rate": 48_000}),
            ("surround.mkv", {"layout": "5.1", "rate": 48_000}),
            ("mono.mp4", {"layout": "mono", "fps": 10, "rate": 22_050}),
            ("odd.mkv", {"audio_codec": "pcm_s16le", "rate": 44_099, "fps": 7}),
        ],
    )
    def test_sound_and_pictures_keep_time_pitch_and_loudness(self, make_video, tmp_path: Path, name: str, made: dict):
        result = cut(make_video(tmp_path / name, **made), tmp_path)
        stem = Path(name).stem
        assert (result.clips, result.problem) == ([f"{stem}_0", f"{stem}_1"], None)
        for number, clip in enumerate(result.clips):
            wave = sound_of(tmp_path, clip)
            assert len(wave) == 55_125
            assert pitch_hz(wave) == pytest.approx(440, abs=0.5)
            loud = [loudness(wave, second) for second in range(5)]
            odd = [(5 * number + second) % 2 == 1 for second in range(5)]
            np.testing.assert_allclose(loud, np.where(odd, 0.4, 0.1), atol=0.03)
            frames = frames_of(tmp_path, clip)
            assert len(frames) == 40
            assert frames[0].shape == (48, 64, 3)
            frame_s = 1 / float(made.get("fps", 25))
            late_s = np.arange(40) / 8 + 5 * number - times_of(frames)
            assert late_s.min() > -0.12
            assert late_s.max() < frame_s + 0.12

    def test_filters_of_odd_rates_stay_small(self):
        assert [working_rate(rate, 11_025) for rate in (44_100, 48_000, 32_000, 44_099)] == [
            44_100,
            48_000,
            32_000,
            48_000,
        ]

    def test_variable_frame_rate(self, make_video, tmp_path: Path):
        """A picture stays on the screen until the next one comes, be that seconds later."""
        path = make_video(tmp_path / "v.mkv", times_s=np.array([0, 0.5, 3.0, 3.1, 3.2, 9.0, 11.9]))
        assert cut(path, tmp_path).clips == ["v_0", "v_1"]
        times = times_of(frames_of(tmp_path, "v_0"))
        np.testing.assert_allclose(times[[0, 3]], 0, atol=0.12)
        np.testing.assert_allclose(times[[4, 23]], 0.5, atol=0.12)
        np.testing.assert_allclose(times[[26, 39]], 3.2, atol=0.12)
        np.testing.assert_allclose(times_of(frames_of(tmp_path, "v_1"))[[0, 31, 32, 39]], [3.2, 3.2, 9, 9], atol=0.12)

    @pytest.mark.parametrize("rotation", [90, 180, -90])
    def test_rotated_videos_stand_upright(self, make_video, tmp_path: Path, rotation: int):
        cut(make_video(tmp_path / "r.mp4", rotation=rotation, seconds=6), tmp_path)
        plain = np.zeros((48, 64), np.float64)
        plain[:24, 32:] = 255
        expected = np.rot90(plain, rotation // 90)
        frame = frames_of(tmp_path, "r_0")[0][..., 0]
        assert frame.shape == expected.shape
        assert np.abs(frame - expected).mean() < 12

    def test_frames_can_be_scaled_down(self, make_video, tmp_path: Path):
        cut(make_video(tmp_path / "s.mp4", seconds=6), tmp_path, ClipOptions(5, 4.5, longest_side=32))
        assert frames_of(tmp_path, "s_0")[0].shape == (24, 32, 3)


class TestSegments:
    def test_start_where_they_should(self, make_video, tmp_path: Path):
        path = make_video(tmp_path / "v.mp4")
        for segment in (Segment(6, 6.0), Segment(1, 1.5)):
            result = cut(path, tmp_path, segment=segment)
            assert (result.clips, result.problem) == ([f"v_{segment.number}"], None)
        np.testing.assert_allclose(times_of(frames_of(tmp_path, "v_6"))[[0, 8]], [6, 7], atol=0.12)
        np.testing.assert_allclose(times_of(frames_of(tmp_path, "v_1"))[[0, 8]], [1.5, 2.5], atol=0.12)
        assert loudness(sound_of(tmp_path, "v_6"), 0) == pytest.approx(0.1, abs=0.03)
        assert loudness(sound_of(tmp_path, "v_6"), 1) == pytest.approx(0.4, abs=0.03)

    def test_those_past_the_end_are_named(self, make_video, tmp_path: Path):
        result = cut(make_video(tmp_path / "v.mp4"), tmp_path, segment=Segment(9, 9.0))
        assert result.clips == []
        assert result.problem == "has less than 4.5 s of sound and pictures from second 9 on"

    def test_a_little_short_is_filled_up(self, make_video, tmp_path: Path):
        assert cut(make_video(tmp_path / "v.mp4", seconds=4.8), tmp_path).clips == ["v_0"]
        assert len(frames_of(tmp_path, "v_0")) == 40
        assert np.abs(sound_of(tmp_path, "v_0")[-1000:]).max() == 0
        assert cut(make_video(tmp_path / "w.mp4", seconds=4.2), tmp_path).clips == []


class TestBroken:
    def problem(self, path: Path) -> str | None:
        result = cut(path, path.parent)
        assert result.clips == []
        return result.problem

    def test_what_is_wrong_is_said(self, make_video, tmp_path: Path):
        assert self.problem(make_video(tmp_path / "a.mp4", audio_codec=None)) == "no sound"
        assert self.problem(make_video(tmp_path / "b.mp4", video_codec=None)) == "no pictures"
        (tmp_path / "c.mp4").write_bytes(b"no video at all" * 100)
        assert "cannot be read (Invalid data" in (self.problem(tmp_path / "c.mp4") or "")
        (tmp_path / "d.mp4").write_bytes(b"")
        assert "cannot be read" in (self.problem(tmp_path / "d.mp4") or "")
        assert "cannot be read (No such file" in (self.problem(tmp_path / "e.mp4") or "")
        cut_off = make_video(tmp_path / "f.mp4")
        cut_off.write_bytes(cut_off.read_bytes()[:-5000])  # an mp4 file has its table at the end
        assert "cannot be read" in (self.problem(cut_off) or "")

    @pytest.mark.parametrize("name", ["v.mkv", "v.mp4"])
    def test_a_download_that_broke_off_gives_its_first_clips(self, make_video, tmp_path: Path, name: str):
        whole = make_video(tmp_path / "whole.mp4")
        path = remux(whole, tmp_path / name, movflags="faststart")
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.7)])
        result = cut(path, tmp_path)
        assert result.clips == ["v_0"]
        assert re.fullmatch(
            r"sound breaks off at 8\.\d s of 12\.\d s; video breaks off at 8\.\d s of 12\.\d s", result.problem
        )
        assert cut(path, tmp_path, segment=Segment(1, 1.0)).problem is None  # all of it is there
        assert "breaks off at 8" in cut(path, tmp_path, segment=Segment(6, 6.0)).problem

    @pytest.mark.parametrize("name", ["v.mkv", "v.mp4"])
    def test_a_damaged_middle_does_not_stop_the_job(self, make_video, tmp_path: Path, name: str):
        path = make_video(tmp_path / name)
        content = bytearray(path.read_bytes())
        content[len(content) // 2 : len(content) // 2 + 3000] = random.Random(0).randbytes(3000)
        path.write_bytes(content)
        result = cut(path, tmp_path)
        assert result.clips == ["v_0"]
        assert re.search(r"(sound|video) breaks off at [56]\.\d s of 12\.\d s", result.problem)

    def test_a_jump_of_the_time_stamps_makes_no_clips(self, make_video, tmp_path: Path):
        path = remux(make_video(tmp_path / "whole.mkv"), tmp_path / "v.mkv", jump_s=99_999)
        result = cut(path, tmp_path)
        assert result.clips == ["v_0", "v_20001"]  # from 0 to 5 s and from 100,005 to 100,010 s
        jump = "time stamps jump from 6.0 s to 100005.0 s"
        assert result.problem == f"sound: {jump}; video: {jump}"
        assert loudness(sound_of(tmp_path, "v_0"), 3) == pytest.approx(0.4, abs=0.03)
        np.testing.assert_allclose(times_of(frames_of(tmp_path, "v_20001"))[[0, 39]], [6, 10.9], atol=0.15)

    def test_a_gap_in_the_sound_is_no_silence(self, make_video, tmp_path: Path):
        path = remux(make_video(tmp_path / "whole.mkv"), tmp_path / "v.mkv", jump_s=3)
        result = cut(path, tmp_path)
        assert result.clips == ["v_0", "v_2"]
        assert result.problem == "sound: time stamps jump from 6.0 s to 9.0 s"

    def test_sound_that_begins_late(self, make_video, tmp_path: Path):
        whole = make_video(tmp_path / "whole.mkv")
        result = cut(remux(whole, tmp_path / "v.mkv", jump_s=2, from_s=0, kinds=("audio",)), tmp_path)
        assert (result.clips, result.problem) == (["v_1"], "sound begins at 2.0 s")
        result = cut(remux(whole, tmp_path / "w.mkv", jump_s=0.4, from_s=0, kinds=("audio",)), tmp_path)
        assert (result.clips, result.problem) == (["w_0", "w_1"], None)
        assert np.abs(sound_of(tmp_path, "w_0")[: int(0.35 * 11_025)]).max() < 0.01


def remux(
    source: Path,
    target: Path,
    jump_s: float = 0.0,
    from_s: float = 6.0,
    kinds: tuple[str, ...] = ("audio", "video"),
    **options: str,
) -> Path:
    """The same streams in a new file; what is later than `from_s` in streams of these kinds comes `jump_s` later."""
    with av.open(str(source)) as read, av.open(str(target), "w", options=options) as write:
        streams = {stream.index: write.add_stream_from_template(stream) for stream in read.streams}
        for packet in read.demux():
            if packet.dts is None:  # the end
                continue
            if packet.stream.type in kinds and packet.pts * packet.time_base >= from_s:
                packet.pts += int(jump_s / packet.time_base)
                packet.dts += int(jump_s / packet.time_base)
            packet.stream = streams[packet.stream.index]
            write.mux(packet)
    return target


@pytest.fixture(scope="module")
def folder(make_video, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    make_video(folder / "cello" / "one.mp4", seconds=11, fps=10)
    make_video(folder / "tuba" / "two.mkv", fps=10)
    (folder / "tuba" / "broken.mkv").write_bytes(b"?")
    (folder / "tuba" / "notes.txt").write_bytes(b"?")
    return folder


class TestJob:
    def test_a_folder_of_videos(self, folder: Path, tmp_path: Path, read_folder):
        videos = videos_of_folders(folder)
        assert [(video.instrument, video.name) for video in videos] == [
            ("cello", "one"), ("tuba", "broken"), ("tuba", "two"),
        ]  # fmt: skip
        for jobs in (1, 2):
            results = cut_videos(videos, tmp_path / str(jobs), OPTIONS, jobs)
            assert [result.clips for result in results] == [["one_0", "one_1"], [], ["two_0", "two_1"]]
        assert read_folder(tmp_path / "1") == read_folder(tmp_path / "2")
        report = json.loads((tmp_path / "1" / "clips.json").read_text())
        assert "torchaudio.functional.resample" in report["resampling"]
        assert report["options"]["sample_rate"] == 11_025
        assert [video["problem"] is None for video in report["videos"]] == [True, False, True]
        assert sorted(scan_tree_clips(tmp_path / "1")) == ["one_0", "one_1", "two_0", "two_1"]

    def test_finished_videos_are_not_cut_again(self, folder: Path, tmp_path: Path, read_folder, monkeypatch):
        videos = videos_of_folders(folder)
        cut_videos(videos, tmp_path / "whole", OPTIONS)
        done: list[str] = []
        real = shards.clips.cut_video

        def stop_at_two(video: Video, tree: Path, options: ClipOptions):
            if video.name == "two" and not done.count("two"):
                done.append("two")
                unfinished = tree / ".clips" / "unfinished" / "tuba" / "two_0"
                unfinished.mkdir(parents=True)
                (unfinished / "000077.jpg").touch()
                raise KeyboardInterrupt
            done.append(video.name)
            return real(video, tree, options)

        monkeypatch.setattr(shards.clips, "cut_video", stop_at_two)
        with pytest.raises(KeyboardInterrupt):
            cut_videos(videos, tmp_path / "tree", OPTIONS)
        assert not (tmp_path / "tree" / "clips.json").exists()
        cut_videos(videos, tmp_path / "tree", OPTIONS)
        assert done == ["one", "broken", "two", "broken", "two"]  # the broken one may have been repaired
        assert read_folder(tmp_path / "tree") == read_folder(tmp_path / "whole")

    def test_a_second_list_adds_to_the_report(self, folder: Path, tmp_path: Path):
        one = [Listed("one", "cello"), Listed("gone", "cello"), Listed("later", "tuba")]
        cut_videos(*list_and_missing(folder, one, tmp_path / "tree"))
        (folder / "tuba" / "later.mkv").write_bytes((folder / "tuba" / "two.mkv").read_bytes())
        try:
            cut_videos(*list_and_missing(folder, [Listed("two", "tuba"), Listed("later", "tuba")], tmp_path / "tree"))
        finally:
            (folder / "tuba" / "later.mkv").unlink()
        report = json.loads((tmp_path / "tree" / "clips.json").read_text())
        assert [video["video"] for video in report["videos"]] == ["one", "later", "two"]
        assert [entry["video"] for entry in report["missing"]] == ["gone"]
        (tmp_path / "tree" / "clips.json").write_text("{")
        with pytest.raises(ValueError, match=r"clips\.json is damaged; remove it"):
            cut_videos(*list_and_missing(folder, one, tmp_path / "tree"))

    def test_segments_of_one_video(self, make_video, tmp_path: Path, monkeypatch):
        """Each is finished, recalled and reported by itself, be they in files or lists of their own."""
        videos, tree = tmp_path / "videos", tmp_path / "tree"
        make_video(videos / "x_30.mp4", seconds=5, fps=10)
        make_video(videos / "x_60.mp4", seconds=5, fps=10)
        make_video(videos / "y.mp4", fps=10)
        one = [
            Listed("x", "cello", 30.0),
            Listed("x", "cello", 60.0),
            Listed("y", "cello", 1.0),
            Listed("y", "cello", 9.0),
        ]
        cut_videos(*list_and_missing(videos, one, tree))
        cut_videos(*list_and_missing(videos, [Listed("y", "cello", 6.0), Listed("y", "cello", 9.0)], tree))
        report = json.loads((tree / "clips.json").read_text())
        found = [(video["video"], video["segment"], video["clips"]) for video in report["videos"]]
        assert found == [
            ("x", 30, ["x_30"]), ("x", 60, ["x_60"]), ("y", 1, ["y_1"]), ("y", 6, ["y_6"]), ("y", 9, []),
        ]  # fmt: skip
        again = []
        monkeypatch.setattr(shards.clips, "cut_video", lambda video, *_: again.append(video) or VideoResult("", ""))
        with contextlib.suppress(ValueError):  # nothing gained
            cut_videos(*list_and_missing(videos, [*one, Listed("y", "cello", 6.0)], tree))
        assert [video.segment for video in again] == [Segment(9, 9.0)]  # the one with a problem

    def test_a_clip_that_is_cut_again_has_no_sound_before_it_is_whole(self, folder: Path, tmp_path: Path, monkeypatch):
        video = Video(folder / "cello" / "one.mp4", "cello", "one")
        cut_video(video, tmp_path, OPTIONS)
        monkeypatch.setattr(shutil, "rmtree", lambda path, **_: 1 / 0 if "solo_extract" in str(path) else None)
        sound = tmp_path / "solo_audio_resample" / "cello" / "one_0.wav"
        assert sound.is_file()
        with pytest.raises(ZeroDivisionError):
            cut_video(video, tmp_path, OPTIONS)
        assert not sound.exists()

    def test_other_options_do_not_mix_in(self, folder: Path, tmp_path: Path):
        cut_videos(videos_of_folders(folder), tmp_path / "tree", OPTIONS)
        with pytest.raises(ValueError, match="holds clips made with other options"):
            cut_videos(videos_of_folders(folder), tmp_path / "tree", ClipOptions(5, 4))

    def test_nothing_gained_is_an_error(self, folder: Path, tmp_path: Path):
        with pytest.raises(ValueError, match=r"none of the 3 videos gave a clip \(one: has less than 99 s"):
            cut_videos(videos_of_folders(folder), tmp_path / "tree", ClipOptions(100, 99))
        report = json.loads((tmp_path / "tree" / "clips.json").read_text())
        assert [video["problem"][:14] for video in report["videos"]] == [
            "has less than ",
            "cannot be read",
            "has less than ",
        ]

    def test_a_full_disk_stops_the_job(self, folder: Path, tmp_path: Path, monkeypatch):
        write = Path.write_bytes

        def full(path: Path, content: bytes) -> int:
            if path.suffix == ".jpg":
                raise OSError(28, "No space left on device")
            return write(path, content)

        monkeypatch.setattr(Path, "write_bytes", full)
        with pytest.raises(ValueError, match=r"cannot write .*one_0: No space left on device; make room"):
            cut_videos(videos_of_folders(folder), tmp_path / "tree", OPTIONS)
        assert not (tmp_path / "tree" / "solo_audio_resample").exists()

    @pytest.mark.parametrize(
        "changed", [{"min_seconds": 6}, {"min_seconds": 0}, {"jpeg_quality": 0}, {"longest_side": -1}]
    )
    def test_options_out_of_range(self, tmp_path: Path, changed: dict):
        with pytest.raises(ValueError, match="--"):
            cut_videos([], tmp_path / "tree", ClipOptions(**{"seconds": 5, "min_seconds": 4, **changed}))
        assert not (tmp_path / "tree").exists()


def list_and_missing(folder: Path, listed: list[Listed], tree: Path) -> tuple:
    """Arguments of `cut_videos`."""
    videos, missing = videos_of_list(folder, listed)
    return videos, tree, OPTIONS, 1, missing


def scan_tree_clips(tree: Path) -> list[str]:
    """Clips that have sound and frames."""
    (tree / "solo_detect").mkdir()
    with pytest.raises(ValueError, match="4 without detections"):
        scan_tree(tree)
    return [path.stem for path in tree.glob("solo_audio_resample/*/*.wav")]


class TestFinding:
    def files(self, folder: Path, *names: str) -> Path:
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
        return folder

    def test_folders_need_instruments(self, tmp_path: Path):
        with pytest.raises(ValueError, match="does not exist"):
            videos_of_folders(tmp_path / "none")
        with pytest.raises(ValueError, match="or give --list"):
            videos_of_folders(self.files(tmp_path, "a.mp4"))
        with pytest.raises(ValueError, match="two videos are named 'a'"):
            videos_of_folders(self.files(tmp_path, "cello/a.mp4", "tuba/a.MKV"))

    def test_listed_videos_by_name(self, tmp_path: Path):
        self.files(tmp_path, "x/-a_1.mp4", "A title [b].webm", "c_000030.mp4", "d_30.mp4", "e.mp4")
        listed = [
            Listed("-a_1", "cello"), Listed("b", "tuba"), Listed("c", "erhu", 30.0), Listed("d", "erhu", 30.0),
            Listed("e", "erhu", 7.0), Listed("e", "erhu", 40.0), Listed("gone", "cello"),
        ]  # fmt: skip
        videos, missing = videos_of_list(tmp_path, listed)
        assert videos == [
            Video(tmp_path / "x/-a_1.mp4", "cello", "-a_1"),
            Video(tmp_path / "A title [b].webm", "tuba", "b"),
            Video(tmp_path / "c_000030.mp4", "erhu", "c", Segment(30, 0.0)),
            Video(tmp_path / "d_30.mp4", "erhu", "d", Segment(30, 0.0)),
            Video(tmp_path / "e.mp4", "erhu", "e", Segment(7, 7.0)),
            Video(tmp_path / "e.mp4", "erhu", "e", Segment(40, 40.0)),
        ]
        assert missing == [listed[-1]]


@pytest.mark.parametrize("codec", ["pcm_f32le", "pcm_f64le"])
def test_whole_numbers_stored_as_floats_in_a_video(tmp_path: Path, codec: str) -> None:
    for scale, problem in (
        (32_768.0, "100% of the sound's samples are beyond full scale, which is 1 for floats; they may be whole"),
        (1.2, r"sound: \d\.\d% of the samples are beyond full scale and cut off"),
        (1.0, None),
    ):
        path = tmp_path / f"v{scale}.mkv"
        with av.open(str(path), "w") as container:
            video = container.add_stream("mpeg4", rate=5)
            video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
            sound = container.add_stream(codec, rate=8_000, layout="mono")
            wave = scale * np.sin(np.arange(80_000) * 0.3)
            wave[8_000:] *= 1.0 if scale > 2 else 0.5  # a loud beginning
            for number in range(50):
                container.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
                part = wave[1_600 * number : 1_600 * (number + 1)].reshape(1, -1)
                kind = ("flt", np.float32) if codec == "pcm_f32le" else ("dbl", np.float64)
                frame = av.AudioFrame.from_ndarray(part.astype(kind[1]), kind[0], "mono")
                frame.sample_rate, frame.pts = 8_000, 1_600 * number
                container.mux(sound.encode(frame))
            container.mux(video.encode())
            container.mux(sound.encode())
        result = cut_video(Video(path, "violin", f"v{scale}"), tmp_path / "tree", ClipOptions())
        assert (result.problem is None) == (problem is None)
        assert problem is None or re.search(problem, str(result.problem)), result.problem
        assert len(result.clips) == (0 if scale > 2 else 1)


@pytest.mark.parametrize(("name", "audio_codec"), [("a.mp4", "aac"), ("b.mp4", "libmp3lame"), ("c.avi", "libmp3lame")])
@pytest.mark.parametrize("kind", ["audio", "video"])
def test_a_damaged_first_packet_loses_no_video(
    tmp_path: Path, make_video: Callable[..., Path], name: str, audio_codec: str, kind: str
) -> None:
    path = make_video(tmp_path / name, audio_codec=audio_codec)
    with av.open(str(path)) as container:
        first = next(packet for packet in container.demux() if packet.stream.type == kind and packet.size)
        begin, size = first.pos, first.size
    content = bytearray(path.read_bytes())
    content[begin : begin + size] = np.random.default_rng(1).integers(0, 256, size, np.uint8).tobytes()
    path.write_bytes(content)
    result = cut_video(Video(path, "violin", "v"), tmp_path / "tree", ClipOptions())
    assert result.clips == ["v_0"]
    what = "sound" if kind == "audio" else "video"
    assert f"{what}: 1 damaged packets left out, the first at 0.0 s" in str(result.problem)
