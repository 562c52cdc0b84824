"""The pictures of a file as a player shows them: upright, mirrored where it says so, with square pixels.

Shapes: H x W frames in pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import av
import torch
from torch import Tensor

from ialcms.media.decode import Decoded, Decoder

Frame = Tensor  # (H, W, 3) uint8


class DisplayMatrix(NamedTuple):
    """x' = a x + c y, y' = b x + d y."""

    a: int
    b: int
    c: int
    d: int


_FLATTEST = 8  # pixels: flatter ones come from a damaged header
_UPRIGHT = DisplayMatrix(1, 0, 0, 1)


@dataclass(frozen=True)
class Shown:
    """A frame as it was coded, and what a player does with it. `picture` makes the picture: not all are looked at."""

    time_s: float  # on the file's time line
    end_s: float  # when it is over, if no other one comes before
    frame: av.VideoFrame
    pixel_ratio: Fraction  # width to height of its pixels

    def picture(self) -> Frame:
        frame, size = self.frame, _square_size(self.frame, self.pixel_ratio)
        if size == (frame.width, frame.height):
            rgb = frame.reformat(format="rgb24")
        else:
            rgb = frame.reformat(*size, format="rgb24", interpolation="BICUBIC")
        plane = rgb.planes[0]
        rows = torch.frombuffer(plane, dtype=torch.uint8).view(rgb.height, plane.line_size)
        pixels = rows[:, : 3 * rgb.width].reshape(rgb.height, rgb.width, 3)
        return oriented(pixels, display_matrix(frame)).contiguous()


def read_shown(decoder: Decoder) -> Iterator[Shown]:
    """The frames of a video in order. decoder: of a stream of pictures."""
    stream = decoder.stream
    assert isinstance(stream, av.VideoStream)
    coded, guessed = stream.codec_context.sample_aspect_ratio, stream.sample_aspect_ratio
    # the guess is what the container says, or else what the first picture says: later pictures may say something else
    of_container = guessed if guessed and guessed != coded else None
    usual_s = float(1 / (stream.average_rate or 25))
    for decoded in decoder:
        if decoded.time_s is None:
            continue
        ratio = _pixel_ratio(of_container or decoded.pixel_ratio)
        yield Shown(decoded.time_s, decoded.time_s + _duration_s(decoded, usual_s), decoded.frame, pixel_ratio=ratio)


def oriented(pixels: Tensor, matrix: DisplayMatrix) -> Tensor:
    """Rotate and mirror a picture (H, W, ...) by a display matrix."""
    a, b, c, d = matrix
    if abs(b) + abs(c) > abs(a) + abs(d):
        pixels, a, d = pixels.transpose(0, 1), c, b
    flipped = [axis for axis, sign in ((0, d), (1, a)) if sign < 0]
    return pixels.flip(flipped) if flipped else pixels


def display_matrix(frame: av.VideoFrame) -> DisplayMatrix:
    """What a player multiplies a frame's coordinates with (FFmpeg's display matrix without its shift)."""
    try:
        found: Any = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # of data that PyAV has no name for
        return _of_rotation(frame.rotation)
    if found is None:
        return _UPRIGHT
    values = memoryview(bytes(found)).cast("i")
    return DisplayMatrix(values[0], values[1], values[3], values[4])  # in rows of three


def _of_rotation(degrees: int) -> DisplayMatrix:
    """The matrix of a rotation to the left by a multiple of 90 degrees."""
    quarters = ((1, 0, 0, 1), (0, -1, 1, 0), (-1, 0, 0, -1), (0, 1, -1, 0))
    return DisplayMatrix(*quarters[round(degrees / 90) % 4])


def _pixel_ratio(ratio: Fraction | None) -> Fraction:
    if not ratio or not Fraction(1, _FLATTEST) <= ratio <= _FLATTEST:
        return Fraction(1)
    return ratio


def _square_size(frame: av.VideoFrame, ratio: Fraction) -> tuple[int, int]:
    """(width, height) with square pixels. As in browsers, one side grows and none shrinks: nothing is lost."""
    if ratio >= 1:
        return round(frame.width * ratio), frame.height
    return frame.width, round(frame.height / ratio)


def _duration_s(decoded: Decoded, usual_s: float) -> float:
    frame = decoded.frame
    return float(frame.duration * frame.time_base) if frame.duration and frame.time_base else usual_s
