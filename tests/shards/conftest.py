"""A small prepared tree: sounds, frames and detections of a few clips."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from shards.entries import Entry, write_index

INSTRUMENTS = ("acoustic_guitar", "clarinet", "saxophone")  # class ids 1, 2, 3 of the demo
WIDTH, HEIGHT = 64, 48


@dataclass
class TreeMaker:
    """Adds clips to a tree; `entries` are those added so far."""

    root: Path
    entries: list[Entry] = field(default_factory=list)

    def add(
        self,
        clip: str,
        instrument: str = "clarinet",
        split: str = "train",
        boxes: np.ndarray | list[list[float]] | None = None,
        wave: np.ndarray | None = None,
        rate: int = 11_025,
        num_frames: int = 4,
        suffix: str = ".jpg",
    ) -> Entry:
        number = len(self.entries)
        generator = np.random.default_rng(number)
        audio = self.root / "solo_audio_resample" / instrument / f"{clip}.wav"
        frames = self.root / "solo_extract" / instrument / clip
        detections = self.root / "solo_detect" / instrument / f"{clip}.npy"
        for folder in (audio.parent, frames, detections.parent):
            folder.mkdir(parents=True, exist_ok=True)
        if wave is None:
            wave = 0.3 * np.sin(np.arange(3000) * (0.05 + 0.01 * number)) + generator.normal(0, 0.01, 3000)
        subtype = "FLOAT" if wave.dtype == np.float32 else "PCM_16"
        soundfile.write(os.fsencode(audio), wave, rate, format="WAV", subtype=subtype)
        for frame in range(1, num_frames + 1):
            pixels = generator.integers(0, 255, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((WIDTH, HEIGHT)).save(frames / f"{frame:06d}{suffix}")
        if boxes is None:
            class_id = INSTRUMENTS.index(instrument) + 1
            boxes = [[frame, class_id, 0.95, 4, 6, 40, 30] for frame in range(1, num_frames + 1)]
        np.save(detections, np.asarray(boxes, np.float32).reshape(-1, 7))
        self.entries.append(Entry(split, audio, frames, detections))
        return self.entries[-1]

    def write_index(self) -> None:
        write_index(self.entries, self.root)


@pytest.fixture
def tree(tmp_path: Path) -> TreeMaker:
    """An empty tree."""
    return TreeMaker(tmp_path / "tree")


@pytest.fixture(scope="session")
def _template(tmp_path_factory: pytest.TempPathFactory) -> TreeMaker:
    tree = TreeMaker(tmp_path_factory.mktemp("template") / "tree")
    for instrument in INSTRUMENTS:
        for video in range(4):
            for part in range(2):
                split = ("train", "train", "val", "test")[video]
                tree.add(f"{instrument}-{video:03d}_{part}", instrument, split)
    tree.write_index()
    return tree


@pytest.fixture
def full_tree(_template: TreeMaker, tree: TreeMaker) -> TreeMaker:
    """Three instruments of four videos of two clips; the third video is for validation, the last for the test."""
    shutil.copytree(_template.root, tree.root)
    for entry in _template.entries:
        paths = (tree.root / path.relative_to(_template.root) for path in (entry.audio, entry.frames, entry.detections))
        tree.entries.append(Entry(entry.split, *paths))
    return tree


def _make_video(
    path: Path,
    seconds: float = 12.0,
    fps: int | Fraction = 25,
    times_s: np.ndarray | None = None,
    rotation: int = 0,
    video_codec: str | None = "mpeg4",
    audio_codec: str | None = "aac",
    rate: int = 44_100,
    layout: str = "stereo",
    tone_hz: float = 440.0,
) -> Path:
    """A real video file of 64 x 48 pixels: the left half is as grey as the second is late (20 levels a second), the
    upper right quarter white, the lower right black; every channel holds a tone that is loud in odd seconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    milliseconds = Fraction(1, 1000)
    with av.open(str(path), "w") as container:
        if video_codec:
            video = container.add_stream(video_codec, rate=fps, bit_rate=2_000_000)
            video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            video.codec_context.time_base = milliseconds
            if rotation:
                video.set_display_rotation(rotation)
        if audio_codec:
            audio = container.add_stream(audio_codec, rate=rate, layout=layout)
        if video_codec:
            for time_s in np.arange(0, seconds, float(1 / fps)) if times_s is None else times_s:
                pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
                pixels[:, : WIDTH // 2] = int(time_s * 20)
                pixels[: HEIGHT // 2, WIDTH // 2 :] = 255
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts, frame.time_base = round(time_s * 1000), milliseconds
                container.mux(video.encode(frame))
            container.mux(video.encode())
        if audio_codec:
            time_s = np.arange(int(seconds * rate)) / rate
            wave = np.float32(np.where(time_s % 2 < 1, 0.1, 0.4) * np.sin(2 * np.pi * tone_hz * time_s))
            to_codec = av.AudioResampler(audio.codec_context.format.name, layout, rate, audio.codec_context.frame_size)
            frame = av.AudioFrame.from_ndarray(np.tile(wave, (audio.codec_context.channels, 1)), "fltp", layout)
            frame.sample_rate = rate
            for piece in [*to_codec.resample(frame), *to_codec.resample(None)]:
                container.mux(audio.encode(piece))
            container.mux(audio.encode())
    return path


@pytest.fixture(scope="session")
def make_video() -> Callable[..., Path]:
    return _make_video


@pytest.fixture
def read_folder() -> Callable[[Path], dict[str, bytes]]:
    """Reads all files of a folder: name -> content."""

    def read(folder: Path) -> dict[str, bytes]:
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    return read
