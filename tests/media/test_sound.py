"""Sound as `ialcms separate` and `ialcms data clips` read it: the same files, the same times."""

from __future__ import annotations

import textwrap
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from ialcms.inference.sound import SoundInfo, measure_sound, read_blocks
from ialcms.media.mix import Mixer, SoundFormat, SoundKind
from shards.segments import Segment, Wanted
from shards.video import SegmentSounds, read_sound
from tests.support import python
from tests.support.media import Recording, join, pitches, set_channel_labels, write_media

MODEL_RATE = 11_025


def heard(path: Path) -> tuple[SoundInfo, torch.Tensor]:
    """What `separate` reads: (C, n)."""
    info = measure_sound(path, MODEL_RATE)
    wave = torch.cat(list(read_blocks(path, info)), 1)
    assert wave.shape == (info.num_channels, info.num_samples)
    return info, wave


def clip_sounds(path: Path, seconds: int) -> SegmentSounds:
    """What `data clips` reads."""
    return read_sound(path, Wanted(None, seconds, seconds - 0.5), MODEL_RATE)


def clip_pitches(path: Path, seconds: int) -> dict[int, list[int]]:
    """Of each clip, the pitch of its seconds."""
    return pitches_of(clip_sounds(path, seconds))


def pitches_of(sounds: SegmentSounds) -> dict[int, list[int]]:
    return {number: pitches(wave / 32_768, MODEL_RATE) for number, wave in sounds.waves.items()}


class TestChangingKinds:
    @pytest.mark.parametrize(
        "kinds",
        [
            ({"layout": "stereo"}, {"layout": "mono"}),
            ({"layout": "mono"}, {"layout": "stereo"}),
            ({"sample_rate": 48_000}, {"sample_rate": 44_100}),
            ({"sample_rate": 44_100}, {"sample_rate": 48_000}),
            ({}, {"layout": "5.1"}, {}),
            ({"layout": "5.1"}, {"layout": "mono", "sample_rate": 32_000}),
            ({"sound_codec": "libmp3lame"}, {"sound_codec": "libmp3lame", "sample_rate": 32_000, "layout": "mono"}),
            ({"sound_codec": "mp2"}, {"sound_codec": "mp2", "layout": "mono"}),
            ({"sound_codec": "ac3", "layout": "5.1"}, {"sound_codec": "ac3"}),
        ],
        ids=lambda kinds: ", ".join("/".join(map(str, kind.values())) or "stereo" for kind in kinds),
    )
    def test_every_part_has_its_pitch_and_time(self, tmp_path: Path, kinds: tuple[dict, ...]) -> None:
        path = join(tmp_path / "live.mp4", *(Recording(4, **kind) for kind in kinds))
        info, wave = heard(path)
        assert str(info.damage) == ""
        assert info.num_channels == 2
        assert info.sample_rate == kinds[0].get("sample_rate", 48_000)
        assert info.seconds == pytest.approx(4 * len(kinds), abs=0.1)
        expected = [4, 5, 6, 7] * len(kinds)
        assert [pitches(channel, info.sample_rate) for channel in wave.numpy()] == [expected, expected]
        sounds = clip_sounds(path, 4)
        assert pitches_of(sounds) == {number: [4, 5, 6, 7] for number in range(len(kinds))}
        assert sounds.problems == ()

    def test_one_channel_is_as_loud_among_two(self, tmp_path: Path) -> None:
        path = join(tmp_path / "live.ts", Recording(3), Recording(3, layout="mono"), Recording(3))
        info, wave = heard(path)
        seconds = wave[:, : 9 * info.sample_rate].view(2, 9, -1)[..., 9_000:-9_000]
        # at its beginning the encoder is not sure of itself
        np.testing.assert_allclose(seconds[:, [1, 2, 4, 5, 7, 8]].abs().amax(2), 0.3, atol=0.02)

    def test_joined_mp3_files(self, tmp_path: Path) -> None:
        parts = [{"layout": "mono"}, {}, {"sample_rate": 44_100}, {"layout": "mono", "sample_rate": 32_000}]
        content = b""
        for number, part in enumerate(parts):
            made = Recording(3, video_codec=None, sound_codec="libmp3lame", **part)
            content += write_media(tmp_path / f"{number}.mp3", made).read_bytes()
        (tmp_path / "song.mp3").write_bytes(content)
        info, wave = heard(tmp_path / "song.mp3")
        assert info.num_channels == 2
        assert info.seconds == pytest.approx(12, abs=0.5)
        found = pitches(wave[0].numpy(), info.sample_rate)
        # each file brings some hundredths of silence with it, so that the seconds drift
        assert np.abs(np.array(found[:12]) - [4, 5, 6] * 4).max() <= 1

    def test_another_codec_is_no_silent_loss(self, tmp_path: Path) -> None:
        path = join(tmp_path / "live.ts", Recording(8), Recording(4, sound_codec="mp2"))
        info, wave = heard(path)
        assert pitches(wave[0].numpy(), info.sample_rate)[:4] == [4, 5, 6, 7]
        assert info.damage.packets > 100
        assert info.damage.first_s == pytest.approx(8, abs=0.2)
        assert info.damage.breaks_off_s == pytest.approx(8, abs=0.2)
        sounds = clip_sounds(path, 4)
        assert pitches_of(sounds) == {0: [4, 5, 6, 7], 1: [8, 9, 10, 11]}
        assert sounds.problems == ("sound breaks off at 8.0 s of 12.0 s",)


class TestTime:
    @pytest.mark.parametrize("name", ["v.mkv", "v.mp4", "v.ts", "v.flv"])
    def test_silence_in_holes(self, tmp_path: Path, name: str) -> None:
        path = write_media(tmp_path / name, Recording(5, sample_rate=44_100, holes=((2, 2.0), (4, 3.0))))
        info, wave = heard(path)
        assert info.seconds == pytest.approx(10, abs=0.1)
        assert pitches(wave[1].numpy(), info.sample_rate)[:10] == [4, 5, 0, 0, 6, 7, 0, 0, 0, 8]
        assert (info.damage.holes, info.damage.first_hole_s) == (2, pytest.approx(2, abs=0.1))
        assert info.damage.hole_s == pytest.approx(5, abs=0.2)
        assert clip_pitches(path, 2) == {0: [4, 5], 2: [6, 7]}

    def test_sound_that_begins_later_than_the_pictures(self, tmp_path: Path) -> None:
        path = write_media(tmp_path / "v.mkv", Recording(4, holes=((0, 2.0),)))
        info, wave = heard(path)
        assert pitches(wave[0].numpy(), info.sample_rate) == [0, 0, 4, 5, 6, 7]
        assert not info.damage
        assert clip_pitches(path, 2) == {1: [4, 5], 2: [6, 7]}

    def test_a_hole_in_sound_alone(self, tmp_path: Path) -> None:
        made = Recording(4, video_codec=None, sound_codec="flac", layout="mono", holes=((1, 1.5),))
        info, wave = heard(write_media(tmp_path / "song.mkv", made))
        assert info.num_channels == 1
        assert info.seconds == pytest.approx(5.5, abs=0.01)
        expected = np.zeros(round(0.9 * 48_000))
        np.testing.assert_array_equal(wave[0, round(1.5 * 48_000) : round(2.4 * 48_000)], expected)

    @pytest.mark.parametrize("container", ["mpegts", "mpeg", "avi"])
    def test_time_stamps_that_begin_anew(self, tmp_path: Path, container: str) -> None:
        parts = [Recording(4, sound_codec="mp2", layout=layout) for layout in ("stereo", "mono", "stereo")]
        path = join(tmp_path / "live.mp4", *parts, container=container, anew=True)
        info, wave = heard(path)
        assert pitches(wave[0].numpy(), info.sample_rate) == [4, 5, 6, 7] * 3
        assert info.seconds == pytest.approx(12, abs=0.1)
        if container != "avi":  # whose time stamps are counted
            expected = ["time stamps begin anew at 4", "time stamps begin anew at 8"]
            assert [jump.partition(".")[0] for jump in info.damage.jumps] == expected
        sounds = clip_sounds(path, 4)
        assert pitches_of(sounds) == {number: [4, 5, 6, 7] for number in range(3)}
        assert sounds.problems == info.damage.jumps
        # a later position is found by reading, not by its time stamp
        segment = Wanted(Segment(5, 5.0), 2.0, 1.5)
        assert pitches(read_sound(path, segment, MODEL_RATE).waves[5] / 32_768, MODEL_RATE) == [5, 6]

    def test_what_ffmpeg_does_not_find_is_named(self, tmp_path: Path) -> None:
        """It reads two joined Matroska files, and not the third."""
        path = join(tmp_path / "live.mkv", *[Recording(4)] * 3, container="matroska", anew=True)
        info, wave = heard(path)
        assert pitches(wave[0].numpy(), info.sample_rate) == [4, 5, 6, 7] * 2
        assert path.stat().st_size * 0.3 < info.damage.unread_bytes < path.stat().st_size * 0.4
        assert list(clip_sounds(path, 4).problems) == [
            "time stamps begin anew at 4.0 s",
            f"the file's last {info.damage.unread_bytes} bytes cannot be read",
        ]

    @pytest.mark.parametrize("earlier_s", [1.0, 0.4])
    def test_time_stamps_that_overlap(self, tmp_path: Path, earlier_s: float) -> None:
        path = join(tmp_path / "live.ts", Recording(4), Recording(4, start_s=-earlier_s))
        info, wave = heard(path)
        assert pitches(wave[0].numpy(), info.sample_rate) == [4, 5, 6, 7] * 2
        assert info.damage.jumps == ("time stamps begin anew at 4.0 s",)
        assert clip_pitches(path, 4) == {0: [4, 5, 6, 7], 1: [4, 5, 6, 7]}

    @pytest.mark.parametrize(
        ("name", "start_s"), [("v.mkv", -3.0), ("v.ts", -3.0), ("v.mkv", 900.0), ("v.ts", 900.0), ("v.mp4", 900.0)]
    )
    def test_files_that_do_not_begin_at_zero(self, tmp_path: Path, name: str, start_s: float) -> None:
        path = write_media(tmp_path / name, Recording(4, start_s=start_s))
        info, wave = heard(path)
        assert info.seconds == pytest.approx(4, abs=0.1)
        assert pitches(wave[0].numpy(), info.sample_rate)[:4] == [4, 5, 6, 7]
        assert clip_pitches(path, 2) == {0: [4, 5], 1: [6, 7]}

    def test_a_jump_of_hours_is_no_hole(self, tmp_path: Path) -> None:
        path = join(tmp_path / "live.ts", Recording(4), Recording(4, start_s=9_000.0))
        info, wave = heard(path)
        assert pitches(wave[0].numpy(), info.sample_rate) == [4, 5, 6, 7] * 2
        assert info.damage.jumps == ("time stamps jump from 4.0 s to 9004.0 s",)

    def test_long_silence_comes_in_blocks(self, tmp_path: Path) -> None:
        path = write_media(tmp_path / "v.mkv", Recording(2, video_codec=None, layout="mono", holes=((1, 60.0),)))
        info = measure_sound(path, MODEL_RATE)
        assert info.seconds == pytest.approx(62, abs=0.1)
        assert max(block.shape[1] for block in read_blocks(path, info)) <= 65_536


class TestBreakingOff:
    @pytest.mark.parametrize(
        ("name", "codec"), [("a.wav", "pcm_s16le"), ("a.flac", "flac"), ("a.mp3", "libmp3lame"), ("a.mkv", "aac")]
    )
    def test_a_file_that_is_cut_short_is_named(self, tmp_path: Path, name: str, codec: str) -> None:
        path = write_media(tmp_path / name, Recording(8, video_codec=None, sound_codec=codec))
        info, _ = heard(path)
        assert info.damage.breaks_off_s is None
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        info, wave = heard(path)
        assert info.damage.breaks_off_s == pytest.approx(info.seconds, abs=0.05)
        assert info.damage.declared_s == pytest.approx(8, abs=0.1)
        assert pitches(wave[0].numpy(), info.sample_rate)[:3] == [4, 5, 6]

    def test_a_guess_from_the_size_is_no_length(self, tmp_path: Path) -> None:
        """Of files that do not declare their length, FFmpeg guesses it by their first packets."""
        made = Recording(3, video_codec=None, sound_codec="libmp3lame")
        quiet = Recording(3, video_codec=None, sound_codec="libmp3lame", layout="mono", sample_rate=16_000)
        parts = [write_media(tmp_path / f"{number}.mp3", part) for number, part in enumerate((quiet, made))]
        (tmp_path / "song.mp3").write_bytes(b"".join(part.read_bytes() for part in parts))
        info, _ = heard(tmp_path / "song.mp3")
        assert info.seconds == pytest.approx(6, abs=0.3)
        assert info.damage.breaks_off_s is None


def frame_of(layout: str, levels: list[float], rate: int = 48_000) -> av.AudioFrame:
    """A second of constant channels."""
    wave = np.tile(np.array(levels, np.float32), (rate, 1)).reshape(1, -1)
    frame = av.AudioFrame.from_ndarray(wave, "flt", layout)
    frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
    return frame


def mixed(frame: av.AudioFrame, wanted: SoundFormat) -> torch.Tensor:
    mixer = Mixer(SoundKind.of(frame), wanted)
    return torch.cat([*mixer(frame), *mixer(None)], 1)


class TestLayouts:
    @pytest.mark.parametrize(
        ("layout", "levels", "stereo", "mono"),
        [
            ("mono", [0.5], (0.5, 0.5), 0.5),
            ("stereo", [0.2, 0.4], (0.2, 0.4), 0.3),
            ("ambisonic 1", [0.4, 0.2, 0.9, 0.9], (0.3, 0.1), 0.4),  # a little more from the left
            ("ambisonic 1+stereo", [0.4, 0.2, 0.9, 0.9, 0.1, 0.1], (0.3, 0.1), 0.4),
            ("ambisonic 3", [0.4, -0.2, *[0.9] * 14], (0.1, 0.3), 0.4),
            ("binaural", [0.2, 0.4], (0.2, 0.4), 0.3),
            ("FLC+FRC", [0.2, 0.4], (0.2, 0.4), 0.3),
            ("BL+BR", [0.2, 0.4], (0.2, 0.4), 0.3),
            ("2C", [0.2, 0.4], (0.2, 0.4), 0.3),
            ("9C", [0.9, *[0.0] * 8], (0.1, 0.1), 0.1),
            ("16C", [*[0.0] * 15, 0.8], (0.05, 0.05), 0.05),
        ],
    )
    @pytest.mark.parametrize("rate", [48_000, 44_100])
    def test_every_layout_is_mixed(
        self, layout: str, levels: list[float], stereo: tuple[float, float], mono: float, rate: int
    ) -> None:
        inner = slice(rate // 10, rate // 2)
        two = mixed(frame_of(layout, levels), SoundFormat(rate, 2))
        np.testing.assert_allclose(two[:, inner].mean(1), stereo, atol=1e-3)
        one = mixed(frame_of(layout, levels), SoundFormat(rate, 1, never_clips=True))
        np.testing.assert_allclose(one[:, inner].mean(1), [mono], atol=1e-3)
        assert one.shape[1] == pytest.approx(rate, abs=40)

    def test_surround_by_ffmpegs_rules(self) -> None:
        levels = [0.1, 0.2, 0.3, 0.0, 0.1, 0.2]  # left, right, centre, low, sides
        root = 0.5**0.5
        two = mixed(frame_of("5.1", levels), SoundFormat(48_000, 2))
        np.testing.assert_allclose(two[:, 100], [0.1 + root * 0.4, 0.2 + root * 0.5], atol=1e-5)
        # four channels without positions count as front left, right, centre and back centre
        four = mixed(frame_of("4C", [0.1, 0.2, 0.3, 0.4]), SoundFormat(48_000, 2))
        named = mixed(frame_of("4.0", [0.1, 0.2, 0.3, 0.4]), SoundFormat(48_000, 2))
        np.testing.assert_allclose(four, named, atol=1e-6)

    def test_a_sum_that_never_clips(self) -> None:
        full = mixed(frame_of("7.1", [0.9] * 8), SoundFormat(48_000, 1, never_clips=True))
        assert 0.5 < full.abs().max() <= 1

    def test_what_cannot_be_mixed_is_named(self) -> None:
        kind = SoundKind("fltp", "8 channels (nonsense)", 0, 48_000)
        with pytest.raises(ValueError, match=r"layout '8 channels \(nonsense\)' at 48000 Hz cannot be mixed to stereo"):
            Mixer(kind, SoundFormat(48_000, 2))

    def test_ambisonics_of_a_file(self, tmp_path: Path) -> None:
        path = tmp_path / "sphere.mkv"
        with av.open(str(path), "w") as output:
            stream = output.add_stream("libopus", rate=48_000, layout="ambisonic 1", options={"mapping_family": "2"})
            time = np.arange(2 * 48_000) / 48_000
            tone = 0.3 * np.sin(2 * np.pi * 500 * time)
            wave = np.stack([tone, tone, 0 * tone, 0 * tone], 1).astype(np.float32)  # all of it from the left
            for first in range(0, len(wave), 960):
                part = np.ascontiguousarray(wave[first : first + 960].reshape(1, -1))
                frame = av.AudioFrame.from_ndarray(part, "flt", "ambisonic 1")
                frame.sample_rate, frame.pts, frame.time_base = 48_000, first, Fraction(1, 48_000)
                output.mux(stream.encode(frame))
            output.mux(stream.encode(None))
        _, wave_read = heard(path)
        inner = wave_read[:, 4_800:90_000].abs().amax(1)
        np.testing.assert_allclose(inner, [0.3, 0.0], atol=0.02)
        sounds = read_sound(path, Wanted(None, 1.0, 0.9), MODEL_RATE)
        assert np.abs(sounds.waves[0][1_000:-1_000] / 32_768).max() == pytest.approx(0.3, abs=0.02)

    @pytest.mark.parametrize("labels", [(1, 1, 1, 1), (1, 2, 300, 301)])
    def test_a_list_of_positions_of_its_own(self, tmp_path: Path, labels: tuple[int, ...]) -> None:
        """PyAV frees such a list twice: the process would end without a word."""
        path = write_media(tmp_path / "camera.mov", Recording(2, layout="quad", sound_codec="pcm_s16le"))
        set_channel_labels(path, labels)
        program = """
            import gc, pathlib, sys
            import av
            from ialcms.media.container import keep_layout
            from tests.media.test_sound import MODEL_RATE, Wanted, heard, read_sound
            for _ in range(3):
                info, wave = heard(pathlib.Path(sys.argv[1]))
                clips = read_sound(pathlib.Path(sys.argv[1]), Wanted(None, 1.0, 0.9), MODEL_RATE)
                gc.collect()
            print(info.num_channels, wave.shape[1], sorted(clips.waves))
            with av.open(sys.argv[1]) as container:  # as of a decoder that makes such a list itself
                kept = {keep_layout(frame.layout) for frame in container.decode(audio=0)}
            gc.collect()
            print(len(kept))
        """
        result = python("-c", textwrap.dedent(program), str(path))
        assert (result.returncode, result.stdout) == (0, "2 96000 [0, 1]\n1\n"), result.stderr
