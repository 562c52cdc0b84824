"""A small prepared tree: sounds, frames and detections of a few clips."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

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
        soundfile.write(audio, wave, rate, subtype="FLOAT" if wave.dtype == np.float32 else "PCM_16")
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


@pytest.fixture
def read_folder() -> Callable[[Path], dict[str, bytes]]:
    """Reads all files of a folder: name -> content."""

    def read(folder: Path) -> dict[str, bytes]:
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    return read
