"""The demo's video of two instruments: both pictures side by side, both sounds, and boxes where the instruments are."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from ialcms.demo.dataset import make_dataset
from ialcms.demo.duet import make_duet
from ialcms.demo.instruments import BY_NAME
from ialcms.demo.scene import FRAMES_PER_SECOND
from ialcms.inference import Box
from shards.entries import Entry, read_index

PAIR = ("violin", "tuba")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> tuple[Entry, Entry]:
    """The test clips of both instruments."""
    tree = make_dataset(tmp_path_factory.mktemp("demo") / "tree", 3, 1, jobs=1, instruments=PAIR, show_progress=False)
    entries = read_index(tree)
    left, right = (next(e for e in entries if e.split == "test" and e.instrument == name) for name in PAIR)
    return left, right


@pytest.fixture(scope="module")
def duet(clips: tuple[Entry, Entry], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Box]]:
    path = tmp_path_factory.mktemp("duet") / "new" / "duet.mp4"
    return path, make_duet(clips, PAIR, path)


def picture_of(entry: Entry, number: int) -> np.ndarray:
    return np.asarray(Image.open(sorted(entry.frames.iterdir())[number]).convert("RGB")).astype(float)


def test_both_pictures_side_by_side(duet: tuple[Path, list[Box]], clips: tuple[Entry, Entry]) -> None:
    with av.open(str(duet[0])) as container:
        frames = [frame.to_ndarray(format="rgb24").astype(float) for frame in container.decode(video=0)]
    assert len(frames) == len(list(clips[0].frames.iterdir()))
    for number in (0, len(frames) // 2):
        expected = np.concatenate([picture_of(entry, number) for entry in clips], axis=1)
        assert frames[number].shape == expected.shape
        assert np.abs(frames[number] - expected).mean() < 8  # of 255: the codec is lossy


def test_both_sounds(duet: tuple[Path, list[Box]], clips: tuple[Entry, Entry]) -> None:
    with av.open(str(duet[0])) as container:
        rate = container.streams.audio[0].rate
        sound = np.concatenate([frame.to_ndarray().mean(0) for frame in container.decode(audio=0)])
    waves = [soundfile.read(entry.audio, dtype="float32")[0] for entry in clips]
    seconds = len(waves[0]) / 11_025
    assert len(sound) / rate == pytest.approx(seconds, abs=0.2)

    def spectrum(wave: np.ndarray, of_rate: int) -> np.ndarray:
        """Energy in bands of 20 Hz below 4 kHz, of the length 1."""
        energy = np.abs(np.fft.rfft(wave)) ** 2
        bands = (np.arange(len(energy)) * of_rate / len(wave) / 20).astype(int)
        total = np.bincount(bands, energy)[:200]
        return np.asarray(total / np.linalg.norm(total))

    found = spectrum(sound, rate)
    assert found @ spectrum(waves[0] + waves[1], 11_025) > 0.99
    for wave in waves:
        assert found @ spectrum(wave, 11_025) < 0.97


def test_boxes_where_the_detector_saw_them(duet: tuple[Path, list[Box]], clips: tuple[Entry, Entry]) -> None:
    _, boxes = duet
    width, height = Image.open(next(clips[0].frames.iterdir())).size
    assert [box.name for box in boxes] == list(PAIR)
    for index, (box, entry) in enumerate(zip(boxes, clips)):
        assert index * width <= box.x1 < box.x2 <= (index + 1) * width
        assert 0 <= box.y1 < box.y2 <= height
        rows = np.load(entry.detections)
        of_class = rows[rows[:, 1] == BY_NAME[entry.instrument].class_id]
        frame = sorted(int(path.stem) for path in entry.frames.iterdir())[int(box.at_s * FRAMES_PER_SECOND)]
        most_confident = of_class[of_class[:, 2].argmax()]
        assert most_confident[0] == frame
        assert np.allclose(most_confident[3:], [box.x1 - index * width, box.y1, box.x2 - index * width, box.y2])
