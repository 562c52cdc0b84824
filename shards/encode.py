"""One clip of the prepared tree -> its bytes in a shard.

The bytes depend on the input files and the options alone: no time, user or order of a directory enters.
"""

from __future__ import annotations

import io
import json
import tarfile
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray
from PIL import Image

from ialcms.pictures import BadPicture, open_picture, to_rgb, upright
from shards.clean import (
    FRAME,
    X1,
    X2,
    Y1,
    Y2,
    Cleaned,
    Detections,
    clean_clip,
    is_box,
    read_detections,
    spans_a_pixel,
)
from shards.datasets import Dataset
from shards.entries import Entry, list_frames
from shards.waves import read_sound
from shards.waves import read_wave as read_wave

AUDIO_FORMATS = ("flac", "wav")

_TOO_SMALL = "smaller than a pixel"


@dataclass(frozen=True)
class EncodeOptions:
    """How clips are stored in shards."""

    audio_format: str = "flac"
    sample_rate: int = 11_025  # that the sounds have; clips of another rate are refused
    crops_only: bool = False  # store each kept box's picture instead of whole frames
    longest_side: int = 0  # pixels; larger pictures are scaled down to it; 0: as they are
    jpeg_quality: int = 90
    clean: str = "music"  # cleaning rule
    dataset: Dataset = field(default_factory=Dataset)


@dataclass(frozen=True)
class EncodedClip:
    """A clip's bytes and what the manifest says of it; or, without bytes, why there are none."""

    entry: Entry
    data: bytes = b""  # tar headers and contents of all members
    num_samples: int = 0
    num_boxes: int = 0
    crc32: int = 0
    cleaned: Cleaned | None = None  # None when the clip broke before it could be cleaned
    bad: str | None = None  # what is broken about its files
    clipped: str | None = None  # how much of its sound was cut off


class Pictures:
    """The JPEGs of a clip and the boxes in pixels of these."""

    def __init__(self, options: EncodeOptions) -> None:
        self._options = options
        self.files: dict[int, bytes] = {}  # by the number in the member's name
        self.boxes: list[Detections] = []
        self.source_frames: list[int] = []  # per picture, the number of the frame that it comes from
        self.rejected: Counter[str] = Counter()  # boxes, by rule
        self.num_unreadable = 0  # frames

    def add(self, number: int, raw: bytes, boxes: Detections) -> None:
        """A frame, as the bytes of its file, and its boxes: the whole picture or the boxes' crops."""
        try:
            image = upright(open_picture(raw))
        except BadPicture:
            self.rejected["frame unreadable"] += len(boxes)
            self.num_unreadable += 1
            return
        boxes = _cut_off(boxes, image.size)
        boxes = self._keep(boxes, is_box(boxes), "outside the frame")
        if self._options.crops_only:
            self._add_crops(number, image, boxes)
        else:
            self._add_frame(number, image, raw, boxes=boxes)

    def _add_crops(self, number: int, image: Image.Image, boxes: Detections) -> None:
        boxes = self._keep(boxes, spans_a_pixel(boxes), _TOO_SMALL)
        for box in boxes:
            left, top = np.floor(box[[X1, Y1]]).astype(int).tolist()
            right, bottom = np.ceil(box[[X2, Y2]]).astype(int).tolist()
            crop = image.crop((left, top, right, bottom))
            size = scaled_size(crop.size, self._options.longest_side)
            row = len(self.files)  # crops are numbered by row: a frame can have several
            self.files[row] = encode_jpeg(crop, size, self._options.jpeg_quality)
            box[FRAME] = row
            box[[X1, Y1]], box[[X2, Y2]] = 0, size
            self.source_frames.append(number)
        self.boxes.append(boxes)

    def _add_frame(self, number: int, image: Image.Image, raw: bytes, boxes: Detections) -> None:
        """number: of the frame. raw: its file, which is kept where nothing has to be changed. boxes: those in it."""
        size = scaled_size(image.size, self._options.longest_side)
        boxes[:, [X1, X2]] *= size[0] / image.width
        boxes[:, [Y1, Y2]] *= size[1] / image.height
        boxes = _cut_off(boxes, size)  # rounding can carry a box over the edge
        boxes = self._keep(boxes, spans_a_pixel(boxes), _TOO_SMALL)
        if not len(boxes):
            return
        if image.format == "JPEG" and image.mode == "RGB" and size == image.size:
            self.files[number] = raw  # encoding it again would cost time and quality
        else:
            self.files[number] = encode_jpeg(image, size, self._options.jpeg_quality)
        self.source_frames.append(number)
        self.boxes.append(boxes)

    def _keep(self, boxes: Detections, kept: NDArray[np.bool_], rule: str) -> Detections:
        self.rejected[rule] += int((~kept).sum())
        return boxes[kept]


def encode_clip(entry: Entry, options: EncodeOptions) -> EncodedClip:
    """Clean and encode a clip. Broken input does not raise: the result says what is wrong."""
    try:
        frames = list_frames(entry.frames)
        boxes = read_detections(entry.detections)
        cleaned = clean_clip(
            boxes, frames, entry.instrument, video=entry.video, rule=options.clean, dataset=options.dataset
        )
        if cleaned.dropped is not None:
            return EncodedClip(entry, cleaned=cleaned)
        sound = read_sound(entry.audio, options.sample_rate)
        pictures = encode_pictures(frames, cleaned.boxes, options)
    except ValueError as error:
        return EncodedClip(entry, bad=str(error))
    except OSError as error:
        return EncodedClip(entry, bad=f"a file cannot be read: {error.strerror}")
    boxes = np.concatenate([cleaned.boxes[:0], *pictures.boxes])
    dropped = None if len(boxes) else "no box left"
    cleaned = Cleaned(boxes, dict(Counter(cleaned.rejected) + pictures.rejected), dropped)
    if not len(boxes):
        bad = "no frame with a box is readable" if pictures.num_unreadable else None
        return EncodedClip(entry, cleaned=cleaned, bad=bad)
    metadata = {
        "clip": entry.clip,
        "instrument": entry.instrument,
        "video": entry.video,
        "split": entry.split,
        "sample_rate": options.sample_rate,
        "num_samples": len(sound.wave),
        "num_boxes": len(boxes),
        "pictures": "crops" if options.crops_only else "frames",
        "source_frames": pictures.source_frames,
    }
    members = [(options.audio_format, encode_audio(sound.wave, options.sample_rate, options.audio_format))]
    members += [(f"{number:06d}.jpg", picture) for number, picture in pictures.files.items()]
    members += [("npy", encode_array(boxes)), ("json", json.dumps(metadata).encode())]
    data = b"".join(tar_member(f"{entry.key}.{extension}", content) for extension, content in members)
    return EncodedClip(
        entry,
        data,
        num_samples=len(sound.wave),
        num_boxes=len(boxes),
        crc32=zlib.crc32(data),
        cleaned=cleaned,
        clipped=sound.clipped,
    )


def tar_member(name: str, content: bytes) -> bytes:
    """A member of a plain (ustar) archive: header and content, padded to whole blocks."""
    header = tarfile.TarInfo(name)
    header.size = len(content)
    header.mode = 0o444
    padding = -len(content) % tarfile.BLOCKSIZE
    return header.tobuf(tarfile.USTAR_FORMAT) + content + bytes(padding)


def encode_audio(wave: NDArray[np.int16], sample_rate: int, audio_format: str) -> bytes:
    """16-bit mono samples as a sound file. audio_format: flac or wav."""
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, sample_rate, format=audio_format.upper(), subtype="PCM_16")
    return buffer.getvalue()


def encode_array(values: NDArray[Any]) -> bytes:
    """An array as a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()


def encode_pictures(frames: dict[int, Path], boxes: Detections, options: EncodeOptions) -> Pictures:
    """The frames that `boxes` (sorted by frame) name, or the boxes' crops, as upright JPEGs.

    Boxes are cut off at the frame's edges, and rejected when less than a pixel is left of them; unreadable frames are
    counted.
    """
    pictures = Pictures(options)
    for number in np.unique(boxes[:, FRAME]).astype(int).tolist():
        pictures.add(number, frames[number].read_bytes(), boxes[boxes[:, FRAME] == number])
    return pictures


def scaled_size(size: tuple[int, int], longest_side: int) -> tuple[int, int]:
    """(width, height) that a picture has when it may not be larger than `longest_side` (0: any)."""
    longest = max(size)
    if not longest_side or longest <= longest_side:
        return size
    width, height = (max(1, round(side * longest_side / longest)) for side in size)
    return width, height


def encode_jpeg(image: Image.Image, size: tuple[int, int], quality: int) -> bytes:
    """A picture, resized to (width, height), as a JPEG file. quality: as of libjpeg, 1 to 100."""
    image = to_rgb(image)
    if image.size != size:
        image = image.resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _cut_off(boxes: Detections, size: tuple[int, int]) -> Detections:
    """The boxes, clipped at the edges of a picture (width, height)."""
    boxes = boxes.copy()
    boxes[:, [X1, X2]] = boxes[:, [X1, X2]].clip(0, size[0])
    boxes[:, [Y1, Y2]] = boxes[:, [Y1, Y2]].clip(0, size[1])
    return boxes
