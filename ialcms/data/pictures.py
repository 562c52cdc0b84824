"""From a compressed frame to the square picture of an object."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate
from torchvision.io import ImageReadMode, decode_jpeg

# What the decoders raise for damaged pictures; SyntaxError is Pillow's word for a broken PNG.
DECODING_ERRORS = (OSError, SyntaxError, ValueError, RuntimeError, Image.DecompressionBombError)


class EmptyBox(Exception):
    """Less than a pixel of a box lies in its picture."""


def object_picture(content: bytes, box: Sequence[float], resize: int, crop: int, top: int, left: int) -> np.ndarray:
    """(3, crop, crop) uint8: a box of a picture, resized to `resize` squared, and a square cut out of that.

    content: a JPEG, PNG or other file. box: x1, y1, x2, y2 in its pixels; it ends at whole pixels and where the picture
    ends. The same on every processor: the resampling is in whole numbers. Raises EmptyBox and DECODING_ERRORS.
    """
    picture, width, height = _decode(content, box, resize)
    x1, x2 = _span(box[0], box[2], width, picture.shape[2] / width)
    y1, y2 = _span(box[1], box[3], height, picture.shape[1] / height)
    square = interpolate(picture[None, :, y1:y2, x1:x2], size=(resize, resize), mode="bilinear", antialias=True)
    return square[0, :, top : top + crop, left : left + crop].numpy()


def _decode(content: bytes, box: Sequence[float], resize: int) -> tuple[torch.Tensor, int, int]:
    """Picture (3, H, W) uint8, and the width and height that it has in the file."""
    if content.startswith(b"\xff\xd8") and min(box[2] - box[0], box[3] - box[1]) < 2 * resize:
        picture = decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8), ImageReadMode.RGB)
        return picture, picture.shape[2], picture.shape[1]
    image: Image.Image = Image.open(io.BytesIO(content))
    width, height = image.size
    # Pillow decodes a JPEG at 1/2, 1/4 or 1/8 of the size: enough as long as the box keeps `resize` pixels
    sides = [end - start for start, end in (_cut(box[0], box[2], width), _cut(box[1], box[3], height))]
    shrink = min(sides) / resize
    if shrink >= 2:
        image.draft("RGB", (int(width / shrink), int(height / shrink)))
    pixels = np.array(image if image.mode == "RGB" else image.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1), width, height


def _cut(start: float, end: float, length: int) -> tuple[float, float]:
    return min(max(start, 0.0), length), min(max(end, 0.0), length)


def _span(start: float, end: float, length: int, scale: float) -> tuple[int, int]:
    """First pixel and the one behind the last, along one side of a picture that was decoded at `scale`."""
    start, end = _cut(start, end, length)
    if not end - start >= 1:
        raise EmptyBox
    first = round(start * scale)
    return first, max(round(end * scale), first + 1)
