"""The pictures that guide the separator: boxes and clicks in a video's frames, whole pictures, detections.

Shapes: H x W frames in pixels, K objects, S the side of the network's pictures.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ialcms.config import DataConfig
from ialcms.inference.sound import open_media
from ialcms.media.container import picture_stream
from ialcms.media.decode import Damage, seek
from ialcms.media.pictures import Frame, Shown, read_shown
from ialcms.media.time_line import LONGEST_HOLE_S, TimeLine
from ialcms.pictures import PICTURE_FORMATS, decode_picture

_CLICK_SIDE = 0.5  # of the frame's shorter side: the square around a click
_DETECTION_FRAMES = 24  # looked at for instruments, evenly over the video
_END_S = 1.0  # behind a video's last frame: the sound may be a little longer than the picture
_NUMBER = r"-?\d+(?:\.\d+)?"


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
        name, numbers, at_s = _parse(text, 4, "[NAME=]X1,Y1,X2,Y2[@SECONDS], like violin=20,30,200,280@2.5")
        x1, y1, x2, y2 = numbers
        return cls(x1, y1, x2, y2, at_s, name)


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
        name, numbers, at_s = _parse(text, 2, "[NAME=]X,Y[@SECONDS], like violin=110,150@2.5")
        x, y = numbers
        return cls(x, y, at_s, name)


@dataclass(frozen=True)
class SoundObject:
    """What one stem belongs to."""

    name: str
    picture: Tensor  # (3, S, S) uint8, what the network sees
    place: tuple[float, float, float, float] | None  # of that picture in a frame of the video; None: one by itself
    frame_size: tuple[int, int] = (0, 0)  # (H, W) of that frame


def object_in_frame(frame: Frame, box: Box | Click, data: DataConfig) -> SoundObject:
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
    margin = (data.image_resize - data.image_crop) / 2 / data.image_resize
    dx, dy = margin * (x2 - x1), margin * (y2 - y1)
    place = (x1 + dx, y1 + dy, x2 - dx, y2 - dy)
    picture = resize(frame, (data.image_crop, data.image_crop), place)
    return SoundObject(box.name, picture.permute(2, 0, 1), place, (height, width))


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
    width, height = image.size
    frame = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(height, width, 3)
    found = object_in_frame(frame, Box(0, 0, width, height, name=path.stem), data)
    return SoundObject(found.name, found.picture, None)


def resize(frame: Frame, size: tuple[int, int], box: tuple[float, float, float, float]) -> Frame:
    """A part of a frame, x1, y1, x2, y2 in pixels and fractions of them, resized to size = (height, width).

    Triangle filter as wide as the shrinking asks, like Pillow's BILINEAR, which cuts out the pictures for training.
    """
    height, width = size
    rows = _triangles(frame.shape[0], height, box[1], box[3])
    columns = _triangles(frame.shape[1], width, box[0], box[2])
    resized = torch.einsum("yh,hwc,xw->yxc", rows, frame.float(), columns)
    return resized.round().clamp(0, 255).to(torch.uint8)


def _triangles(inputs: int, outputs: int, begin: float, end: float) -> Tensor:
    """(outputs, inputs): weights of the input pixels in each output pixel."""
    scale = (end - begin) / outputs
    centre = begin + (torch.arange(outputs, dtype=torch.float64) + 0.5) * scale
    distance = (torch.arange(inputs, dtype=torch.float64) + 0.5 - centre[:, None]).abs() / max(scale, 1.0)
    weight = (1 - distance).clamp(min=0)
    return (weight / weight.sum(1, keepdim=True)).float()


def has_pictures(path: Path) -> bool:
    """Whether a file has a video stream (a cover picture is none)."""
    with open_media(path) as container:
        return picture_stream(container) is not None


def read_frames(path: Path, from_s: float = 0.0, damage: Damage | None = None) -> Iterator[tuple[float, Frame]]:
    """(time since the beginning of the file, frame) from the frame on the screen at `from_s` on, in order.

    Frames are as a player shows them (see `ialcms.media.pictures`); where the video changes its size, so do they.
    Packets that cannot be decoded are left out and counted in `damage`.
    """
    damage = Damage() if damage is None else damage
    with open_media(path) as container:
        stream = picture_stream(container)
        assert stream is not None
        line, end_s = TimeLine(container, LONGEST_HOLE_S), 0.0
        seek(container, path, from_s, from_s, LONGEST_HOLE_S)
        before: Shown | None = None
        for shown in read_shown(container, stream, line, damage):
            end_s = max(end_s, shown.end_s)
            if shown.time_s <= from_s:
                before = shown
                continue
            if before is not None:
                yield before.time_s, before.picture()
                before = None
            yield shown.time_s, shown.picture()
        if before is not None:
            yield before.time_s, before.picture()
        damage.end(container, stream, line, end_s)


def frame_at(path: Path, at_s: float) -> Frame:
    """The frame on the screen at a time; ValueError where the video does not reach it."""
    if at_s < 0:
        raise ValueError(f"a box at {at_s:g} s: give seconds since the beginning of the video")
    frames = read_frames(path, at_s)
    time_s, frame = next(frames, (None, None))
    if frame is None and at_s == 0:
        raise ValueError(f"no picture of {path} can be decoded; get the file again, or give --pictures")
    if frame is None or time_s is None or (at_s - time_s > _last_frame_s(path) and next(frames, None) is None):
        raise ValueError(f"{path} has no frame at {at_s:g} s; give an earlier time")
    return frame


def _last_frame_s(path: Path) -> float:
    """How long a video's last frame stays on the screen."""
    with open_media(path) as container:
        stream = picture_stream(container)
        assert stream is not None
        return max(_END_S, float(1 / stream.average_rate) if stream.average_rate else 0.0)


def detect_objects(path: Path, weights: Path, seconds: float, min_score: float, device: str) -> list[Box]:
    """The surest box of every class that a detector of `ialcms data detect` sees in frames all over the video.

    ValueError with what to do where there is none.
    """
    try:
        from shards.detect import detect_frames
        from shards.detector import load_detector
    except ModuleNotFoundError as error:
        raise ValueError(
            f"a detector needs packages that are not here ({error.name}): install the project whole, or show the "
            "instruments with --boxes or --click"
        ) from error

    detector = load_detector(weights)
    model = detector.model.eval().to(device)
    times = [(n + 0.5) * seconds / _DETECTION_FRAMES for n in range(_DETECTION_FRAMES)]
    best: dict[str, tuple[float, Box]] = {}
    for at_s in times:
        shown = next(read_frames(path, at_s), None)
        if shown is None:
            break
        time_s, frame = max(shown[0], 0.0), shown[1]
        picture = frame.permute(2, 0, 1).float() / 255
        for _, label, score, x1, y1, x2, y2 in detect_frames(model, [(0, picture)], device, batch=1).tolist():
            name = detector.classes[int(label) - 1]
            if score >= min_score and (name not in best or score > best[name][0]):
                best[name] = (score, Box(x1, y1, x2, y2, time_s, name))
    if not best:
        raise ValueError(
            f"the detector {weights} sees nothing in {path} with a confidence of {min_score:g} or more; "
            "lower --min-score, or show the instruments yourself with --boxes or --click"
        )
    return [box for _, box in sorted(best.values(), key=lambda scored: -scored[0])]


def _around(click: Click, width: int, height: int) -> Box:
    """The square around a click, moved into the frame."""
    if not (0 <= click.x < width and 0 <= click.y < height):
        raise ValueError(f"the click {click.x:g},{click.y:g} is outside the frame of {width} x {height} pixels")
    side = _CLICK_SIDE * min(width, height)
    x1 = min(max(click.x - side / 2, 0.0), width - side)
    y1 = min(max(click.y - side / 2, 0.0), height - side)
    return Box(x1, y1, x1 + side, y1 + side, click.at_s, click.name)


def _parse(text: str, count: int, form: str) -> tuple[str, list[float], float]:
    found = re.fullmatch(
        rf"(?:(?P<name>[^=@,]+)=)?(?P<numbers>{_NUMBER}(?:,{_NUMBER}){{{count - 1}}})(?:@(?P<at>{_NUMBER}))?",
        text.strip(),
    )
    if found is None:
        raise ValueError(f"'{text}' is not of the form {form}")
    numbers: Sequence[float] = [float(number) for number in found["numbers"].split(",")]
    return (found["name"] or "").strip(), list(numbers), float(found["at"] or 0.0)
