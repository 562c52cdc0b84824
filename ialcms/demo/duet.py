"""A video of two instruments side by side, made of two test clips of the prepared tree."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

from ialcms.demo.instruments import BY_NAME
from ialcms.demo.scene import FRAMES_PER_SECOND
from ialcms.demo.video_files import KINDS, write_video
from ialcms.inference import Box
from ialcms.pictures import decode_picture
from ialcms.reading.arrays import read_array
from shards.entries import Entry

KIND = dataclasses.replace(KINDS[0], frames_per_second=Fraction(FRAMES_PER_SECOND))  # as many frames as there are


def make_duet(entries: Sequence[Entry], instruments: tuple[str, str], path: Path) -> list[Box]:
    """Write the first test clips of two instruments as one mp4; returns a box of each player.

    entries: of the demo's tree. The sounds are added up; each box is the most confident one of its clip's class.
    """
    left, right = (_first_test_clip(entries, name) for name in instruments)
    pictures = [_pictures(entry.frames) for entry in (left, right)]
    width, height = pictures[0][0].size
    frames = []
    for pair in zip(*pictures):
        both = Image.new("RGB", (2 * width, height))
        for index, picture in enumerate(pair):
            both.paste(picture, (index * width, 0))
        frames.append(both)
    waves = [soundfile.read(entry.audio, dtype="float32")[0] for entry in (left, right)]
    length = min(map(len, waves))
    write_video(path, frames, np.clip(waves[0][:length] + waves[1][:length], -1, 1), kind=KIND)
    numbers = [int(frame.stem) for frame in sorted(left.frames.iterdir())]
    return [_box(entry, index * width, numbers) for index, entry in enumerate((left, right))]


def _first_test_clip(entries: Sequence[Entry], instrument: str) -> Entry:
    return next(entry for entry in entries if entry.split == "test" and entry.instrument == instrument)


def _pictures(folder: Path) -> list[Image.Image]:
    return [decode_picture(path.read_bytes()) for path in sorted(folder.iterdir())]


def _box(entry: Entry, offset: int, numbers: list[int]) -> Box:
    rows = read_array(entry.detections)
    of_class = rows[rows[:, 1] == BY_NAME[entry.instrument].class_id]
    frame, _, _, x1, y1, x2, y2 = of_class[of_class[:, 2].argmax()].tolist()
    at_s = (numbers.index(int(frame)) + 0.5) / FRAMES_PER_SECOND  # in the middle of the time that it is on the screen
    return Box(x1=x1 + offset, y1=y1, x2=x2 + offset, y2=y2, at_s=at_s, name=entry.instrument)
