"""One's own video: stems of any rate and length, boxes, clicks, pictures, videos, and what is wrong with the input."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from ialcms.cli import main
from ialcms.config import PUBLISHED, Config, ProtocolConfig
from ialcms.evaluation.masking import stem_gains, stem_masks
from ialcms.evaluation.windows import window_starts
from ialcms.inference import Box, Click, Separation, separate_file
from ialcms.inference.detection import detect_objects
from ialcms.inference.frames import Frames, frame_at
from ialcms.inference.objects import cut_out, object_of_picture
from ialcms.inference.sound import SoundInfo, measure_sound, read_blocks
from ialcms.inference.stems import BEST, StemMaker, _picture_weights
from ialcms.models import Separator
from ialcms.runs import checkpoint
from ialcms.runs.run_folder import RunFolder
from ialcms.runs.separators import find_checkpoint
from tests.evaluation.test_windows import separate_recording
from tests.support.evaluation import RATE, evaluation_config, make_separator, make_small_run
from tests.support.pictures import STORED, corners, turned

BOXES = [Box(2, 2, 30, 30, name="bell"), Box(34, 10, 62, 44, at_s=1.0, name="harp")]


def noise(channels: int, count: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal((channels, count))).astype(np.float32)


@pytest.fixture(scope="module")
def config() -> Config:
    return evaluation_config()


@pytest.fixture(scope="module")
def separator(config: Config) -> Separator:
    return make_separator(config)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return make_small_run(tmp_path_factory.mktemp("separate"))


def pictures(count: int, each: int = 1) -> torch.Tensor:
    """(count, each, 3, 16, 16); those of an object differ by a little noise."""
    generator = torch.Generator().manual_seed(5)
    first = torch.randint(0, 248, (count, 1, 3, 16, 16), generator=generator, dtype=torch.uint8)
    others = first + torch.randint(0, 8, (count, each - 1, 3, 16, 16), generator=generator, dtype=torch.uint8)
    return torch.cat([first, others], dim=1)


@dataclasses.dataclass(frozen=True)
class Made:
    stems: np.ndarray  # (K, C, n)
    maker: StemMaker
    gains: np.ndarray  # (K,)


def make_stems(
    separator: Separator, config: Config, wave: np.ndarray, *, rate: int = RATE, block: int = 77, **options: Any
) -> Made:
    """All pieces together; checks that the original comes out as it went in."""
    info = SoundInfo(rate, *wave.shape)
    options = {"pictures": pictures(2), **options}
    maker = StemMaker(separator, config, options.pop("pictures"), info=info, **options)
    blocks = torch.from_numpy(wave).split(block, dim=1)
    pieces = list(maker(lambda: iter(blocks)))
    np.testing.assert_array_equal(torch.cat([piece.original for piece in pieces], dim=1), wave)
    assert pieces[-1].windows_done == maker.num_windows
    stems = torch.cat([piece.stems for piece in pieces], dim=2).numpy()
    return Made(stems, maker, maker.measure_gains(blocks).numpy())


class TestStems:
    def test_plain_masks_give_what_evaluation_does_at_the_level_of_the_mix(
        self, separator: Separator, config: Config
    ) -> None:
        wave = noise(1, 310)
        made = make_stems(separator, config, wave, protocol=PUBLISHED)
        mix = torch.from_numpy(wave[0])
        expected = separate_recording(separator, mix, pictures(2)[:, 0], config, hop=310).estimates
        gains = stem_gains(expected @ expected.T, expected @ mix, PUBLISHED)
        np.testing.assert_allclose(made.gains, gains, rtol=1e-4)
        np.testing.assert_allclose(made.stems[:, 0], gains[:, None] * expected, atol=2e-6)

    def test_a_filter_shares_the_mix_out_among_stems_and_remainder(self, separator: Separator, config: Config) -> None:
        """By its definition, in one window; masks are means over an object's pictures."""
        wave, objects = noise(1, 310), pictures(2, each=3)
        made = make_stems(separator, config, wave, pictures=objects, protocol=ProtocolConfig(pictures=3))
        front = separator.spectrogram
        with torch.inference_mode():
            spectrum = front.stft(torch.from_numpy(wave))
            visual, _ = separator.visual(objects.flatten(0, 1))
            masks = front.to_linear(separator.separate(spectrum, visual, visual, (2, 3)).mask[0].mean(dim=1))
            masks = stem_masks(masks, torch.from_numpy(made.gains), BEST)
            expected = front.istft(masks * spectrum, 310)
        assert 0 < float(masks.sum(0).max()) <= 1
        np.testing.assert_allclose(made.stems[:, 0], expected, atol=2e-6)

    @pytest.mark.parametrize("protocol", [BEST, PUBLISHED], ids=["best", "published"])
    def test_windows_fade_into_each_other(self, separator: Separator, config: Config, protocol: ProtocolConfig) -> None:
        """Weighted means of the windows, taken one by one; best: the weights rise and fall and never jump."""
        wave = noise(1, 800)
        made = make_stems(separator, config, wave, protocol=protocol)
        fade = np.ones(310)
        if protocol == BEST:
            fade = np.maximum(np.sin(np.pi * (np.arange(310) + 0.5) / 310) ** 2, 1e-3)
        total, weight = np.zeros((2, 800)), np.zeros(800)
        for start in window_starts(800, 310, 155):
            part = wave[:, start : start + 310]
            maker = StemMaker(separator, config, pictures(2), info=SoundInfo(RATE, 1, 310), protocol=protocol)
            maker.measure_gains = lambda _: torch.from_numpy(made.gains)  # type: ignore[method-assign]
            (piece,) = maker(lambda part=part: [torch.from_numpy(part)])
            total[:, start : start + 310] += fade * piece.stems[:, 0].numpy()
            weight[start : start + 310] += fade
        np.testing.assert_allclose(made.stems[:, 0], total / weight, atol=5e-6)

    @pytest.mark.parametrize("num_samples", [200, 310, 311, 465, 2000])
    def test_batches_and_blocks_change_nothing(self, separator: Separator, config: Config, num_samples: int) -> None:
        wave = noise(2, num_samples)
        few, many = (
            make_stems(separator, config, wave, pictures=pictures(3), batch_windows=batch, block=block).stems
            for batch, block in ((1, 13), (16, 5000))
        )
        assert few.shape == (3, 2, num_samples)
        np.testing.assert_allclose(few, many, atol=2e-6)

    @pytest.mark.parametrize("rate", [2000, 4410, 4800])
    def test_at_a_higher_rate_the_same_masks_apply(self, separator: Separator, config: Config, rate: int) -> None:
        """A sound without anything above the network's range: its stems are the network's, at another rate."""
        high, low = (
            make_stems(separator, config, tones(sample_rate), rate=sample_rate).stems[:, 0]
            for sample_rate in (rate, RATE)
        )
        time, low_time = np.arange(rate) / rate, np.arange(RATE) / RATE
        inner = slice(50, -50)
        for high_stem, low_stem in zip(high, low):
            error = np.abs(np.interp(low_time, time, high_stem) - low_stem)[inner].max() / np.abs(low_stem).max()
            assert error < 0.1

    def test_above_the_networks_range(self, separator: Separator, config: Config) -> None:
        """A tone at 1.5 kHz beside noise: shared out as the octave below is, or all left over."""
        rate = 4_000
        time = np.arange(rate) / rate
        wave = (noise(1, rate) + 0.2 * np.sin(2 * np.pi * 1500 * time)).astype(np.float32)

        def tones_of(above: str) -> list[float]:
            """How much of the tone each stem has."""
            stems = make_stems(separator, config, wave, rate=rate, above=above).stems[:, 0]
            return [float(2 * np.abs(np.mean(stem * np.exp(-2j * np.pi * 1500 * time))) / 0.2) for stem in stems]

        assert min(tones_of("share")) > 0.05
        assert sum(tones_of("share")) < 1.05
        assert max(tones_of("remainder")) < 0.01

    def test_channels_keep_their_positions(self, separator: Separator, config: Config) -> None:
        """What plays on the left only stays there; both channels get the same masks."""
        wave = noise(2, 700)
        wave[1] = 0
        stems = make_stems(separator, config, wave).stems
        assert np.abs(stems[:, 0]).max() > 0.01
        assert np.abs(stems[:, 1]).max() == 0

    def test_pictures_that_are_not_like_the_first_one_do_not_count(self) -> None:
        """As where the camera has moved; features by hand."""
        features = torch.zeros(2, 3, 4, 1, 1)
        features[:, :, 0] = torch.tensor([1.0, 3.0, 0.1]).view(1, 3, 1, 1)
        features[0, 2, 1] = 1.0
        torch.testing.assert_close(_picture_weights(features), torch.tensor([[1 / 2, 1 / 2, 0], [1 / 3, 1 / 3, 1 / 3]]))

    def test_silence_in_the_middle(self, separator: Separator, config: Config) -> None:
        wave = noise(1, 1500)
        wave[:, 400:1100] = 0
        stems = make_stems(separator, config, wave).stems
        assert np.isfinite(stems).all()
        assert np.abs(stems[:, 0, 700:800]).max() < 1e-6

    def test_localisation_over_time(self, separator: Separator, config: Config) -> None:
        maker = make_stems(separator, config, noise(1, 620)).maker
        assert [window.second for window in maker.localisation] == pytest.approx([0.155, 0.31, 0.465])
        assert all(window.maps.shape == (2, 2, 2) for window in maker.localisation)

    def test_a_rate_that_no_filter_leads_from(self, separator: Separator, config: Config) -> None:
        with pytest.raises(ValueError, match="leads from 44101 to 1000 Hz; resample the sound to 48000 Hz first"):
            StemMaker(separator, config, pictures(1), info=SoundInfo(44_101, 1, 100))

    def test_memory_does_not_grow_with_the_length(self, separator: Separator, config: Config) -> None:
        """Pieces are handed on as they are finished, the sound is read as it is needed."""
        maker = StemMaker(separator, config, pictures(2), info=SoundInfo(RATE, 1, 50_000), batch_windows=4)
        read = 0

        def blocks() -> Iterator[torch.Tensor]:
            nonlocal read
            read = 0
            for number in range(500):
                read += 100
                yield torch.from_numpy(noise(1, 100, number))

        written = 0
        for piece in maker(blocks):
            written += piece.stems.shape[2]
            assert read - written < 3 * 310 + 5 * 155  # four windows in a batch
        assert written == 50_000


def tones(rate: int) -> np.ndarray:
    """(1, rate): forty tones between 20 and 400 Hz, one second."""
    rng = np.random.default_rng(3)
    time = np.arange(rate) / rate
    wave = np.zeros(rate)
    for frequency, loudness, phase in zip(rng.uniform(20, 400, 40), rng.uniform(0.02, 0.06, 40), rng.uniform(0, 6, 40)):
        wave += loudness * np.sin(2 * np.pi * frequency * time + phase)
    return wave[None].astype(np.float32)


def write_video(
    path: Path,
    seconds: float = 2.0,
    rate: int = 4_000,
    layout: str = "stereo",
    sound: bool = True,
    audio_codec: str = "pcm_f32le",
    loudness: float = 0.1,
    size: tuple[int, int] = (64, 48),
    video_codec: tuple[str, str] = ("mpeg4", "yuv420p"),
    frame_rate: Fraction = Fraction(10),
) -> Path:
    """Frames of noise whose grey rises with time; a tone that starts at one second, over soft noise."""
    with av.open(str(path), "w") as container:
        video = container.add_stream(video_codec[0], rate=frame_rate)
        video.width, video.height, video.pix_fmt, video.bit_rate = *size, video_codec[1], 5_000_000
        audio = container.add_stream(audio_codec, rate=rate, layout=layout) if sound else None
        for number in range(round(frame_rate * seconds)):
            pixels = np.full((size[1], size[0], 3), 20 + 4 * number, np.uint8)
            pixels[8:24, 8:24] = (200, 60, 60)
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
            frame.pts = number
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio is not None:
            channels = 1 if layout == "mono" else 2
            count = round(seconds * rate)
            time = np.arange(count) / rate
            wave = loudness * (noise(channels, count) + (time > 1) * np.sin(2 * np.pi * 300 * time))
            encode(container, audio, wave, layout, rate)
    return path


def encode(
    container: av.container.OutputContainer, stream: av.AudioStream, wave: np.ndarray, layout: str, rate: int
) -> None:
    """wave: (channels, samples)."""
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave.T.astype(np.float32).reshape(1, -1)), "flt", layout)
    frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
    resampler = av.AudioResampler(stream.codec_context.format, layout, rate, stream.frame_size or None)
    for part in [*resampler.resample(frame), *resampler.resample(None)]:
        container.mux(stream.encode(part))
    container.mux(stream.encode(None))


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "duet.mkv")


@pytest.fixture(scope="module")
def separated(run: RunFolder, video: Path, tmp_path_factory: pytest.TempPathFactory) -> Separation:
    return separate_file(video, run.path, BOXES, out=tmp_path_factory.mktemp("out") / "stems")


class TestVideo:
    def test_stems_and_remainder_add_up_to_the_original(self, separated: Separation, video: Path) -> None:
        assert [path.name for path in separated.stems] == ["1-bell.wav", "2-harp.wav"]
        stems = [soundfile.read(path, always_2d=True) for path in (*separated.stems, separated.remainder)]
        assert all(rate == 4_000 for _, rate in stems)
        info = measure_sound(video, RATE)
        original = torch.cat(list(read_blocks(video, info)), dim=1).numpy().T
        assert original.shape == (8_000, 2)
        np.testing.assert_allclose(sum(stem for stem, _ in stems), original, atol=1e-6)
        assert all(np.abs(stem).max() > 0.001 for stem, _ in stems)
        assert soundfile.info(separated.stems[0]).subtype == "FLOAT"

    def test_videos_show_and_play_their_object(self, separated: Separation, video: Path) -> None:
        assert [path.name for path in separated.videos] == ["1-bell.mp4", "2-harp.mp4"]
        for path, stem_path, box in zip(separated.videos, separated.stems, BOXES):
            shown = list(Frames(path))
            assert len(shown) == 20
            np.testing.assert_allclose([second for second, _ in shown], np.arange(20) / 10, atol=0.01)
            changed = np.abs(
                np.stack([frame for _, frame in shown]).astype(int) - np.stack([frame for _, frame in Frames(video)])
            ).max(axis=(0, 3))
            inside = np.zeros((48, 64), bool)
            inside[round(box.y1) : round(box.y2), round(box.x1) : round(box.x2)] = True
            assert changed[inside].max() > 60  # heat map and frame
            assert np.median(changed[~inside]) < 12  # the codec's noise
            info = measure_sound(path, RATE)
            assert info.seconds == pytest.approx(2.0, abs=0.1)
            stem, rate = soundfile.read(stem_path)
            played = torch.cat(list(read_blocks(path, info)), dim=1).numpy()
            onset, expected = (np.argmax(np.abs(x) > 0.5 * np.abs(x).max()) / r
                               for x, r in ((played[0], info.sample_rate), (stem[:, 0], rate)))  # fmt: skip
            assert onset == pytest.approx(expected, abs=0.08)  # in time with the picture

    def test_record(self, separated: Separation, video: Path, run: RunFolder) -> None:
        record = json.loads((separated.remainder.parent / "separation.json").read_text())
        assert record["source"] == str(video)
        assert record["step"] == 7
        assert [entry["name"] for entry in record["objects"]] == ["1-bell", "2-harp"]
        left = {path.name for path in separated.remainder.parent.iterdir()}
        stems = {"1-bell.wav", "2-harp.wav", "remainder.wav", "1-bell.mp4", "2-harp.mp4"}
        assert left == {*stems, "separation.json", "listen.html"}

    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("mono.mkv", {"layout": "mono", "rate": 1_000}),
            ("odd.mkv", {"rate": 44_099, "seconds": 1.2}),  # no rate that a filter of a sensible size leads from
            ("aac.mp4", {"rate": 44_100, "audio_codec": "aac", "size": (66, 50)}),
            ("short.mkv", {"seconds": 0.2}),
        ],
    )
    def test_formats(self, run: RunFolder, tmp_path: Path, name: str, options: dict) -> None:
        source = write_video(tmp_path / name, **options)
        result = separate_file(source, run.path, [Box(0, 0, 20, 20)], out=tmp_path / "out")
        stem, rate = soundfile.read(result.stems[0], always_2d=True)
        assert rate == {44_099: 48_000}.get(options.get("rate", 4_000), options.get("rate", 4_000))
        assert len(stem) / rate == pytest.approx(options.get("seconds", 2.0), abs=0.06)
        assert stem.shape[1] == (1 if options.get("layout") == "mono" else 2)
        assert len(list(Frames(result.videos[0]))) == round(10 * options.get("seconds", 2.0))

    def test_sound_with_pictures(self, run: RunFolder, tmp_path: Path) -> None:
        soundfile.write(tmp_path / "song.wav", noise(2, 6_000).T, 4_000)
        for number, name in enumerate(("bell.png", "bell.jpg")):
            Image.fromarray(np.full((40, 30, 3), 90 * number, np.uint8)).save(tmp_path / name)
        result = separate_file(
            tmp_path / "song.wav",
            run.path,
            pictures=[tmp_path / "bell.png", tmp_path / "bell.jpg"],
            out=tmp_path / "out",
        )
        assert [path.name for path in result.stems] == ["1-bell.wav", "2-bell.wav"]
        shown = list(Frames(result.videos[1]))
        assert len(shown) == 12  # 1.5 s

    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
    @pytest.mark.parametrize("orientation", STORED)
    def test_pictures_stand_upright(self, config: Config, tmp_path: Path, kind: str, orientation: int) -> None:
        (tmp_path / "a.jpg").write_bytes(turned(orientation, kind, 90, 60))
        data = dataclasses.replace(config.data, image_resize=80, image_crop=80)
        seen = object_of_picture(tmp_path / "a.jpg", data).pictures[0].permute(1, 2, 0).numpy()
        assert corners(seen) == "RGB."

    def test_sounds_only(self, run: RunFolder, video: Path, tmp_path: Path) -> None:
        result = separate_file(video, run.path, BOXES, out=tmp_path / "out", videos=False)
        assert result.videos == ()
        assert not list((tmp_path / "out").glob("*.mp4"))

    def test_command_line(
        self, run: RunFolder, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        values = ["--checkpoint", str(run.path), "--out", str(tmp_path / "out"), "--no-videos", "--device", "cpu"]
        assert (
            main(["separate", str(video), *values, "--boxes", "a=-2,2,30,30", "5,5,40,40@1.2", "--click", "9,9"]) == 0
        )
        printed = capsys.readouterr().out.split()
        assert [Path(line).name for line in printed] == ["1-a.wav", "2-object.wav", "3-object.wav", "remainder.wav"]

    def test_the_published_protocol(self, run: RunFolder, video: Path, separated: Separation, tmp_path: Path) -> None:
        """Another sound, one picture; stems and remainder still sum to the original."""
        values = ["--checkpoint", str(run.path), "--out", str(tmp_path / "out"), "--no-videos", "--device", "cpu"]
        boxes = ["--boxes", "bell=2,2,30,30", "harp=34,10,62,44@1"]
        assert main(["separate", str(video), *values, *boxes, "--protocol", "published"]) == 0
        published, best = (
            [soundfile.read(folder / path.name, always_2d=True)[0] for path in (*separated.stems, separated.remainder)]
            for folder in (tmp_path / "out", separated.remainder.parent)
        )
        np.testing.assert_allclose(sum(published), sum(best), atol=1e-6)
        assert np.abs(published[0] - best[0]).max() > 1e-3
        records = [
            json.loads((folder / "separation.json").read_text())
            for folder in (tmp_path / "out", separated.remainder.parent)
        ]
        assert [record["protocol"]["masks"] for record in records] == ["plain", "wiener"]
        assert [[entry["pictures"] for entry in record["objects"]] for record in records] == [[1, 1], [7, 7]]

    def test_files_of_an_earlier_separation_are_removed(self, run: RunFolder, video: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        separate_file(video, run.path, BOXES, out=out)
        (out / "mine.wav").write_text("mine")
        (out / "2-harp.wav").rename(out / "3-harp.wav")  # not by this name in the record
        separate_file(out / "1-bell.mp4", run.path, [Box(2, 2, 30, 30, name="drum")], out=out, videos=False)
        left = {path.name for path in out.iterdir()}
        assert left == {"1-bell.mp4", "1-drum.wav", "remainder.wav", "separation.json", "mine.wav", "3-harp.wav"}


def overwrite(path: Path, begin: int, count: int) -> Path:
    content = bytearray(path.read_bytes())
    content[begin : begin + count] = np.random.default_rng(1).bytes(count)
    path.write_bytes(content)
    return path


class TestDamage:
    @pytest.mark.parametrize(("name", "codec"), [("song.mp3", "mp3"), ("song.m4a", "aac")])
    def test_a_damaged_sound_is_read_to_its_end(
        self, run: RunFolder, tmp_path: Path, name: str, codec: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        Image.fromarray(np.full((40, 30, 3), 90, np.uint8)).save(tmp_path / "bell.png")
        source = write_sound(tmp_path / name, codec, seconds=4.0)
        whole = measure_sound(source, RATE)
        overwrite(source, source.stat().st_size // 4, 600)
        separate_file(source, run.path, pictures=[tmp_path / "bell.png"], out=tmp_path / "out", videos=False)
        record = json.loads((tmp_path / "out" / "separation.json").read_text())
        assert record["seconds"] == pytest.approx(whole.seconds, abs=0.06)
        assert 1 <= record["damaged"]["sound"]["packets"] <= 6
        assert record["damaged"]["sound"]["first_s"] == pytest.approx(1.0, abs=0.2)
        assert record["damaged"]["pictures"]["packets"] == 0
        assert [r.message for r in caplog.records if f"{source} is not whole: damaged packets" in r.message]

    def test_nothing_is_left(self, tmp_path: Path) -> None:
        source = write_sound(tmp_path / "song.m4a", "aac", 1.0)
        begin = source.read_bytes().index(b"mdat") + 4
        overwrite(source, begin, source.read_bytes().index(b"moov") - 4 - begin)
        with pytest.raises(
            ValueError, match=r"nothing can be heard in .*song.m4a \(damaged packets: \d+, the first at"
        ):
            measure_sound(source, RATE)

    def test_a_damaged_frame_is_left_out(self, tmp_path: Path) -> None:
        source = write_video(tmp_path / "duet.mov", video_codec=("png", "rgb24"))
        begin = -1
        for _ in range(10):
            begin = source.read_bytes().index(b"IHDR", begin + 1)
        overwrite(source, begin, 12)
        frames = Frames(source)
        times = [second for second, _ in frames]
        assert times == pytest.approx([n / 10 for n in range(20) if n != 9], abs=0.002)
        assert frames.damage.packets == 1


def write_sound(path: Path, codec: str, seconds: float, layout: str = "stereo", rate: int = 44_100) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        encode(container, stream, noise(1 if layout == "mono" else 2, round(seconds * rate)), layout, rate)
    return path


class TestObjects:
    def test_the_picture_is_cut_as_in_training(self, config: Config) -> None:
        frame = np.random.default_rng(0).integers(0, 255, (100, 120, 3), dtype=np.uint8)
        found = cut_out(torch.from_numpy(frame), Box(20, 10, 100, 90), config.data)
        assert found.picture.shape == (3, 16, 16)
        assert found.region == pytest.approx((28, 18, 92, 82))  # the inner 16 of 20
        whole = Image.fromarray(frame).resize((16, 16), Image.Resampling.BILINEAR, box=(28, 18, 92, 82))
        np.testing.assert_allclose(
            found.picture, np.asarray(whole).transpose(2, 0, 1), atol=1
        )  # rounded once, not twice

    def test_a_box_is_cut_at_the_frames_edge(self, config: Config) -> None:
        frame = torch.zeros(50, 60, 3, dtype=torch.uint8)
        inside = cut_out(frame, Box(40, 20, 60, 50), config.data)
        assert cut_out(frame, Box(40, 20, 900, 70), config.data).region == inside.region

    def test_clicks_stand_for_squares_in_the_frame(self, config: Config) -> None:
        frame = torch.zeros(40, 60, 3, dtype=torch.uint8)
        assert cut_out(frame, Click(30, 20), config.data).region == pytest.approx((22, 12, 38, 28))
        assert cut_out(frame, Click(0, 39), config.data).region == pytest.approx((2, 22, 18, 38))

    def test_frames_by_their_time(self, video: Path) -> None:
        for at_s, number in ((0.0, 0), (0.95, 9), (1.0, 10), (1.95, 19), (2.5, 19)):
            grey = frame_at(video, at_s)[40:, 40:].float().mean()
            assert grey == pytest.approx(20 + 4 * number, abs=3), at_s

    def test_a_frame_stays_on_the_screen_until_the_next(self, tmp_path: Path) -> None:
        slow = write_video(tmp_path / "slow.mkv", seconds=20.0, frame_rate=Fraction(1, 5), rate=RATE)
        for at_s, number in ((0.0, 0), (2.5, 0), (5.0, 1), (14.9, 2), (19.0, 3)):
            assert frame_at(slow, at_s)[40:, 40:].float().mean() == pytest.approx(20 + 4 * number, abs=1.5), at_s
        with pytest.raises(ValueError, match="has no frame at 21 s"):
            frame_at(slow, 21.0)

    @pytest.mark.parametrize(
        ("kind", "text", "expected"),
        [
            (Box, "1,2,3,4", Box(1, 2, 3, 4)),
            (Box, "my violin=1.5,2,3,4@12.25", Box(1.5, 2, 3, 4, 12.25, "my violin")),
            (Click, "7,8", Click(7, 8)),
            (Click, "x=7,8@1", Click(7, 8, 1.0, "x")),
        ],
    )
    def test_text_forms(self, kind: type, text: str, expected: object) -> None:
        assert kind.parse(text) == expected

    @pytest.mark.parametrize("text", ["1,2,3", "a,b,c,d", "1,2,3,4@", "=1,2,3,4", "1 2 3 4", ""])
    def test_text_of_no_form(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"is not of the form \[NAME=\]X1,Y1,X2,Y2\[@SECONDS\]"):
            Box.parse(text)

    def test_a_detector_finds_the_surest_box_of_each_class(
        self, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from shards.detector import build_detector, save_detector

        save_detector(build_detector("small", ["Violin", "Flute"]), tmp_path / "weights.pt")
        grey_of = {"Violin": 60, "Flute": 90}

        def fake(model: object, frames: list, device: str, batch: int) -> np.ndarray:
            """Surer the nearer the frame's grey is to the class's."""
            rows = []
            for number, picture in frames:
                grey = float(picture[:, 40:, 40:].mean()) * 255
                for label, name in enumerate(("Violin", "Flute"), start=1):
                    rows.append([number, label, 0.99 - abs(grey - grey_of[name]) / 200, 1, 2, 30, 40])
            return np.array(rows, np.float32)

        monkeypatch.setattr("ialcms.inference.detection.detect_frames", fake)

        def detect(min_score: float, count: int = 1) -> list[list[Box]]:
            weights = tmp_path / "weights.pt"
            return detect_objects(video, weights, 2.0, min_score=min_score, device="cpu", count=count)

        found = detect(0.9)
        assert {box.name for (box,) in found} == {"Violin", "Flute"}
        for (box,) in found:
            assert box.at_s == pytest.approx(round(box.at_s, 1), abs=1e-6)  # of the frame that was looked at
            grey = frame_at(video, box.at_s)[40:, 40:].float().mean()
            assert grey == pytest.approx(grey_of[box.name], abs=4)
        with pytest.raises(ValueError, match=r"sees nothing .* lower --min-score, or show .* with --boxes or --click"):
            detect(0.999)
        for box, *others in detect(0.5, count=4):
            assert [box] in found  # the surest one comes first
            assert [int(other.at_s / 2 * 3) for other in others] in ([0, 1, 2], [0, 1], [0, 2], [1, 2])
            assert box not in others


class TestFaults:
    def fails(self, source: Path, run: RunFolder, tmp_path: Path, message: str, **options: object) -> None:
        with pytest.raises(ValueError, match=message):
            separate_file(source, run.path, out=tmp_path / "out", **options)  # type: ignore[arg-type]
        assert not list((tmp_path / "out").glob("*"))

    def test_no_sound(self, run: RunFolder, tmp_path: Path) -> None:
        source = write_video(tmp_path / "mute.mkv", sound=False)
        self.fails(source, run, tmp_path, "has no sound", objects=BOXES)

    def test_out_is_a_file(self, run: RunFolder, video: Path, tmp_path: Path) -> None:
        (tmp_path / "out").write_text("mine")
        self.fails(video, run, tmp_path, "out is a file; give a folder for the stems", objects=BOXES)
        assert (tmp_path / "out").read_text() == "mine"

    def test_silence(self, run: RunFolder, tmp_path: Path) -> None:
        source = write_video(tmp_path / "silent.mkv", loudness=0.0)
        self.fails(source, run, tmp_path, "is silent; there is nothing to separate", objects=BOXES)

    def test_numbers_that_are_none(self, run: RunFolder, tmp_path: Path) -> None:
        wave = noise(1, 1000)[0]
        wave[100] = np.nan
        soundfile.write(tmp_path / "nan.wav", wave, RATE, subtype="FLOAT")
        Image.fromarray(np.zeros((40, 30, 3), np.uint8)).save(tmp_path / "a.png")
        self.fails(
            tmp_path / "nan.wav", run, tmp_path, "holds values that are no numbers", pictures=[tmp_path / "a.png"]
        )

    def test_whole_numbers_stored_as_floats(self, run: RunFolder, tmp_path: Path) -> None:
        soundfile.write(tmp_path / "a.wav", 32_768 * noise(2, 1000).T, RATE, subtype="FLOAT")
        Image.fromarray(np.zeros((40, 30, 3), np.uint8)).save(tmp_path / "a.png")
        message = "is up to 100,000 times full scale.*divide them by 32768"
        self.fails(tmp_path / "a.wav", run, tmp_path, message, pictures=[tmp_path / "a.png"])

    @pytest.mark.parametrize(
        ("left", "right", "warning"),
        [
            (1.0, 1.0, ""),
            (1.0, -1.0, "cancel each other: the network hears their mean"),
            (1.0, -0.98, "cancel each other"),
            (1.0, -0.5, ""),
            (9.0, 5.0, "goes beyond full scale at"),
        ],
    )
    def test_levels_that_one_would_not_expect(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, left: float, right: float, warning: str
    ) -> None:
        wave = noise(1, 3000)[0] * 2
        soundfile.write(tmp_path / "a.wav", np.stack([left * wave, right * wave], 1), RATE, subtype="FLOAT")
        measure_sound(tmp_path / "a.wav", RATE)
        assert warning in caplog.text
        assert bool(caplog.text) == bool(warning)

    def test_sound_without_pictures(self, run: RunFolder, tmp_path: Path) -> None:
        soundfile.write(tmp_path / "song.wav", noise(1, 1000)[0], RATE)
        self.fails(tmp_path / "song.wav", run, tmp_path, "give one per instrument with --pictures")

    def test_nothing_said(self, run: RunFolder, video: Path, tmp_path: Path) -> None:
        self.fails(
            video, run, tmp_path, "say where the instruments are in .*: --boxes or --click for each, or --detector"
        )
        self.fails(
            video,
            run,
            tmp_path,
            "boxes or clicks and pictures are given; one of them",
            objects=BOXES,
            pictures=["a.png"],
        )

    @pytest.mark.parametrize(
        ("box", "message"),
        [
            (Box(5, 5, 5, 30), "has no area inside the frame of 64 x 48 pixels"),
            (Box(30, 5, 10, 30), "has no area"),
            (Box(70, 5, 90, 30), "has no area"),
            (Box(float("nan"), 5, 9, 30), "has no area"),
            (Box(5, 5, 9, float("inf"), at_s=60.0), "has no frame at 60 s"),
            (Box(5, 5, 30, 30, at_s=60.0), "has no frame at 60 s; give an earlier time"),
            (Box(5, 5, 30, 30, at_s=-1.0), "give seconds since the beginning"),
            (Click(64, 5), "the click 64,5 is outside the frame of 64 x 48 pixels"),
        ],
    )
    def test_boxes(self, run: RunFolder, video: Path, tmp_path: Path, box: Box | Click, message: str) -> None:
        self.fails(video, run, tmp_path, message, objects=[box])

    def test_files(self, run: RunFolder, video: Path, tmp_path: Path) -> None:
        self.fails(tmp_path / "none.mp4", run, tmp_path, "none.mp4 does not exist", objects=BOXES)
        (tmp_path / "text.mp4").write_text("no video")
        self.fails(tmp_path / "text.mp4", run, tmp_path, "cannot be read as video or sound", objects=BOXES)
        self.fails(video, run, tmp_path, "picture none.png does not exist", pictures=["none.png"])
        self.fails(video, run, tmp_path, "cannot be read", pictures=[tmp_path / "text.mp4"])

    def test_no_run_and_a_checkpoint_of_another_version(self, run: RunFolder, video: Path, tmp_path: Path) -> None:
        self.fails(video, RunFolder(tmp_path), tmp_path, "is no run's folder", objects=BOXES)
        other = RunFolder(tmp_path / "run")
        other.create(run.read_config(), 1)
        self.fails(video, other, tmp_path, "there is no best checkpoint in", objects=BOXES)
        source = find_checkpoint(run.path)
        target = other.checkpoints / source.name
        target.mkdir(parents=True)
        (target / "state.pt").write_bytes((source / "state.pt").read_bytes())
        meta = json.loads((source / "meta.json").read_text())
        (target / "meta.json").write_text(json.dumps(checkpoint.sealed(meta | {"version": 99})))
        self.fails(video, other, tmp_path, "99, this program reads", objects=BOXES)

    def test_a_failure_leaves_no_half_files(
        self, run: RunFolder, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        original = StemMaker._separate

        def broken(self: StemMaker, starts: list[int], *rest: torch.Tensor) -> Iterator[torch.Tensor]:
            if starts[0] > 0:
                raise ValueError("the disk is full")
            yield from original(self, starts, *rest)

        monkeypatch.setattr(StemMaker, "_separate", broken)
        self.fails(video, run, tmp_path, "the disk is full", objects=BOXES, batch_windows=4)
