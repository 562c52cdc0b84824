"""Pictures as a player shows them, for both commands: turned, mirrored, of any pixel shape, of changing size."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from ialcms.inference.frames import Frames, frame_at
from ialcms.media.pictures import oriented
from shards import video as clips
from shards.segments import Segment, Wanted
from tests.support.media import Recording, corner_pixels, corners, join, set_display_matrix, write_media

MATRICES = {
    "upright": ((1, 0, 0, 1), "RGB."),
    "quarter to the right": ((0, 1, -1, 0), "BR.G"),
    "half": ((-1, 0, 0, -1), ".BGR"),
    "quarter to the left": ((0, -1, 1, 0), "G.RB"),
    "mirrored": ((-1, 0, 0, 1), "GR.B"),
    "upside down": ((1, 0, 0, -1), "B.RG"),
    "mirrored, to the left": ((0, 1, 1, 0), "RBG."),
    "mirrored, to the right": ((0, -1, -1, 0), ".GBR"),
}


def seen_by_separate(path: Path, at_s: float = 0.0) -> np.ndarray:
    return frame_at(path, at_s).numpy()


def seen_by_clips(path: Path, seconds: int = 2) -> list[np.ndarray]:
    """The first clip's pictures, one a second."""
    wanted = Wanted(None, seconds, seconds - 0.5)
    encoded: list[np.ndarray] = []
    next(iter(clips.FrameReader(path, wanted, 1, encode=lambda image: encoded.append(np.asarray(image)) or b"")))
    return encoded


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("pixel_ratio", [None, Fraction(2)], ids=["square", "wide pixels"])
def test_which_way_up(tmp_path: Path, name: str, pixel_ratio: Fraction | None) -> None:
    matrix, expected = MATRICES[name]
    path = set_display_matrix(write_media(tmp_path / "a.mp4", Recording(2, pixel_ratio=pixel_ratio)), *matrix)
    height, width = (48, 64 if pixel_ratio is None else 128)
    shape = (width, height, 3) if matrix[0] == 0 else (height, width, 3)
    for seen in (seen_by_separate(path), seen_by_separate(path, 1.5), seen_by_clips(path)[0]):
        assert (corners(seen), seen.shape) == (expected, shape)


def test_a_box_on_what_a_player_shows_hits_the_same_position(tmp_path: Path) -> None:
    """The left of a mirrored picture is the right of the coded one."""
    path = set_display_matrix(write_media(tmp_path / "a.mp4", Recording(1)), -1, 0, 0, 1)
    green = frame_at(path, 0.0)[2:12, 2:16].float().mean((0, 1))
    assert green[1] > 200
    assert green[0] < 60


@pytest.mark.parametrize("matrix", [(0, 0, 0, 0), (7, 0, 0, 7), (5, -2, 2, 5)])
def test_other_matrices_are_rounded_to_the_nearest(matrix: tuple[int, int, int, int]) -> None:
    pixels = torch.arange(24).view(2, 4, 3)
    torch.testing.assert_close(oriented(pixels, matrix), pixels)


@pytest.mark.parametrize(
    ("ratio", "shape"),
    [
        (Fraction(4, 3), (48, 85, 3)),
        (Fraction(16, 11), (48, 93, 3)),
        (Fraction(1, 2), (96, 64, 3)),  # nothing is lost
        (Fraction(1), (48, 64, 3)),
        (Fraction(50), (48, 64, 3)),  # of a damaged head
    ],
)
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_square_pixels(tmp_path: Path, ratio: Fraction, shape: tuple[int, ...], name: str) -> None:
    path = write_media(tmp_path / name, Recording(2, pixel_ratio=ratio))
    for seen in (seen_by_separate(path), seen_by_clips(path)[0]):
        assert (corners(seen), seen.shape) == ("RGB.", shape)


def test_what_the_container_says_of_the_pixels_counts(tmp_path: Path) -> None:
    path = write_media(tmp_path / "a.mp4", Recording(1, pixel_ratio=Fraction(4, 3)))
    content = bytearray(path.read_bytes())
    struct.pack_into(">II", content, content.find(b"pasp") + 4, 2, 1)
    path.write_bytes(content)
    assert seen_by_separate(path).shape == (48, 128, 3)


@pytest.mark.parametrize(
    ("first", "second", "shapes"),
    [
        ({"size": (128, 96)}, {"size": (64, 48)}, ((96, 128, 3), (48, 64, 3))),
        ({"size": (64, 48)}, {"size": (128, 96)}, ((48, 64, 3), (96, 128, 3))),
        ({"size": (64, 48)}, {"size": (48, 64)}, ((48, 64, 3), (64, 48, 3))),
        ({"pixel_ratio": Fraction(4, 3)}, {}, ((48, 85, 3), (48, 64, 3))),
        ({}, {"pixel_ratio": Fraction(3, 4)}, ((48, 64, 3), (64, 64, 3))),
    ],
)
def test_pictures_that_change_on_the_way(tmp_path: Path, first: dict, second: dict, shapes: tuple) -> None:
    path = join(tmp_path / "call.mp4", Recording(2, **first), Recording(2, **second))
    frames = list(Frames(path))
    assert [round(5 * second_s) for second_s, _ in frames] == list(range(20))
    for (second_s, frame), number in zip(frames, range(20)):
        assert (corners(frame.numpy()), tuple(frame.shape)) == ("RGB.", shapes[number // 10]), second_s
    assert [seen.shape for seen in seen_by_clips(path, 4)] == [shapes[0], shapes[0], shapes[1], shapes[1]]


@pytest.mark.parametrize("name", ["a.ts", "a.mkv", "a.mp4", "a.flv"])
@pytest.mark.parametrize("key_frames_s", [1, 20])
def test_a_later_place_is_found_with_and_without_key_frames(tmp_path: Path, name: str, key_frames_s: int) -> None:
    """To seek in a transport stream leads to where nothing can be decoded."""
    path = write_media(tmp_path / name, Recording(8, key_frames_s=key_frames_s))
    frames = Frames(path, 6.1)
    first_s, frame = next(frames)
    assert (first_s, corners(frame.numpy())) == (pytest.approx(6.0, abs=0.03), "RGB.")
    assert next(frames)[0] == pytest.approx(6.2, abs=0.03)
    reader = clips.FrameReader(path, Wanted(Segment(5, 5.0), 2, 1.5), 4, encode=lambda image: image.tobytes())
    number, encoded = next(iter(reader))
    assert (number, len(encoded), reader.problems) == (5, 8, ())


def test_the_helper_knows_its_corners() -> None:
    assert corners(corner_pixels(64, 48)) == "RGB."
