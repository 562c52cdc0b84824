"""The pictures that guide the separator: boxes and clicks in a video's frames, or whole pictures.

An object is seen in several frames, so that its masks can be averaged over them (`ProtocolConfig.pictures`).

Shapes: H x W frames in pixels, P pictures of an object, S the side of the network's pictures.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ialcms.config import DataConfig
from ialcms.inference.frames import frame_at
from ialcms.media.pictures import Frame
from ialcms.pictures import PICTURE_FORMATS, decode_picture

_CLICK_SIDE = 0.5  # of the frame's shorter side: the square around a click
_NUMBER = r"-?\d+(?:\.\d+)?"
Region = tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels


@dataclass(frozen=True)
class Box:
    """An object in the frame on the screen at `at_s` seconds, in pixels of that frame as a player shows it."""

    x1: float
    y1: float
    x2: float
    y2: float
    at_s: float = 0.0
    name: str = ""

    @classmethod
    def parse(cls, text: str) -> Box:
        """From [NAME=]X1,Y1,X2,Y2[@SECONDS]."""
        parsed = _parse(text, 4, "[NAME=]X1,Y1,X2,Y2[@SECONDS], like violin=20,30,200,280@2.5")
        x1, y1, x2, y2 = parsed.numbers
        return cls(x1, y1, x2, y2, at_s=parsed.at_s, name=parsed.name)


@dataclass(frozen=True)
class Click:
    """A point on an object in the frame on the screen at `at_s` seconds: stands for a square around it."""

    x: float
    y: float
    at_s: float = 0.0
    name: str = ""

    @classmethod
    def parse(cls, text: str) -> Click:
        """From [NAME=]X,Y[@SECONDS]."""
        parsed = _parse(text, 2, "[NAME=]X,Y[@SECONDS], like violin=110,150@2.5")
        x, y = parsed.numbers
        return cls(x, y, at_s=parsed.at_s, name=parsed.name)


@dataclass(frozen=True)
class SoundObject:
    """What one stem belongs to."""

    name: str
    pictures: Tensor  # (P, 3, S, S) uint8, what the network sees; the one that was asked for comes first
    region: Region | None  # of the first picture in a frame of the video; None: of a picture by itself
    frame_size: tuple[int, int] = (0, 0)  # (H, W) of that frame


@dataclass(frozen=True)
class Cutting:
    """A picture for the network, and where it was cut out."""

    picture: Tensor  # (3, S, S) uint8
    region: Region


def object_in_video(source: Path, boxes: Sequence[Box | Click], data: DataConfig) -> SoundObject:
    """An object by its boxes in some frames. ValueError where the first one is not in the video.

    Of the others, those count that have an area in a frame of the first one's size.
    """
    first = boxes[0]
    frame = frame_at(source, first.at_s)
    cutting = cut_out(frame, first, data)
    pictures = [cutting.picture]
    for box in boxes[1:]:
        try:
            other = frame_at(source, box.at_s)
            if other.shape == frame.shape:
                pictures.append(cut_out(other, box, data).picture)
        except ValueError:  # the picture ends before the sound, or a box of a detector lies at the edge
            continue
    return SoundObject(first.name, torch.stack(pictures), cutting.region, frame_size=(frame.shape[0], frame.shape[1]))


def spread_over(box: Box | Click, seconds: float, count: int) -> list[Box | Click]:
    """A box, and the same one at `count - 1` other times, spread evenly over the video."""
    times = [(n + 0.5) * seconds / max(count - 1, 1) for n in range(count - 1)]
    return [box, *(dataclasses.replace(box, at_s=time_s) for time_s in times)]


def cut_out(frame: Frame, box: Box | Click, data: DataConfig) -> Cutting:
    """Cut an object out as training does: resized to `image_resize` squared, its centre of `image_crop` squared.

    ValueError for a box without an area inside the frame.
    """
    height, width = frame.shape[:2]
    if isinstance(box, Click):
        box = _around(box, width, height)
    x1, x2 = (min(max(x, 0.0), float(width)) for x in (box.x1, box.x2))
    y1, y2 = (min(max(y, 0.0), float(height)) for y in (box.y1, box.y2))
    if not (x2 - x1 >= 1 and y2 - y1 >= 1):  # NaN, too
        given = f"{box.x1:g},{box.y1:g},{box.x2:g},{box.y2:g}"
        raise ValueError(
            f"the box {given} has no area inside the frame of {width} x {height} pixels; "
            "give its left, top, right and bottom edge in pixels of the video"
        )
    offset = (data.image_resize - data.image_crop) // 2
    centre = slice(offset, offset + data.image_crop)
    whole = resize(frame, (data.image_resize, data.image_resize), (x1, y1, x2, y2))
    dx, dy = (side * offset / data.image_resize for side in (x2 - x1, y2 - y1))
    return Cutting(whole[centre, centre].permute(2, 0, 1).contiguous(), (x1 + dx, y1 + dy, x2 - dx, y2 - dy))


def object_of_picture(path: Path, data: DataConfig) -> SoundObject:
    """A whole picture (JPEG, PNG or WebP) as an object, named like its file; ValueError where it cannot be read."""
    if not path.is_file():
        raise ValueError(f"picture {path} does not exist")
    try:
        image = decode_picture(path.read_bytes(), PICTURE_FORMATS)
    except OSError as error:
        raise ValueError(f"picture {path} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ValueError(f"picture {path} cannot be read: {error}") from error
    frame = torch.from_numpy(np.array(image))
    found = cut_out(frame, Box(0, 0, image.width, image.height), data)
    return SoundObject(path.stem, found.picture.unsqueeze(0), None)


def resize(frame: Frame, size: tuple[int, int], region: Region) -> Frame:
    """A region of a frame, resized to size = (height, width) as Pillow does for the pictures of training."""
    height, width = size
    resized = Image.fromarray(frame.numpy()).resize((width, height), Image.Resampling.BILINEAR, box=region)
    return torch.from_numpy(np.array(resized))


def _around(click: Click, width: int, height: int) -> Box:
    """The square around a click, moved into the frame."""
    if not (0 <= click.x < width and 0 <= click.y < height):
        raise ValueError(f"the click {click.x:g},{click.y:g} is outside the frame of {width} x {height} pixels")
    side = _CLICK_SIDE * min(width, height)
    x1 = min(max(click.x - side / 2, 0.0), width - side)
    y1 = min(max(click.y - side / 2, 0.0), height - side)
    return Box(x1, y1, x1 + side, y1 + side, at_s=click.at_s, name=click.name)


@dataclass(frozen=True)
class _Parsed:
    name: str
    numbers: list[float]
    at_s: float


def _parse(text: str, count: int, form: str) -> _Parsed:
    """[NAME=] `count` numbers [@SECONDS]. form: for the message of the ValueError."""
    found = re.fullmatch(
        rf"(?:(?P<name>[^=@,]+)=)?(?P<numbers>{_NUMBER}(?:,{_NUMBER}){{{count - 1}}})(?:@(?P<at>{_NUMBER}))?",
        text.strip(),
    )
    if found is None:
        raise ValueError(f"'{text}' is not of the form {form}")
    numbers = [float(number) for number in found["numbers"].split(",")]
    return _Parsed((found["name"] or "").strip(), numbers, float(found["at"] or 0.0))
