"""From a compressed frame and a detected box to the picture of the object.

Pillow decodes JPEG with libjpeg-turbo, at 1/2, 1/4 or 1/8 of the size where the box is large enough, and resamples in
whole numbers: every machine gets the same pixels. (torchvision's decoder is no faster and cannot scale; see
benchmarks/loader.py.)
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from ialcms.pictures import BadPicture, open_picture, to_rgb


class BadClip(ValueError):
    """The content of one clip cannot be used; shard, manifest and the other clips are in order."""


def object_picture(frame: bytes, detection: np.ndarray, resize: int, where: str) -> np.ndarray:
    """(3, resize, resize) uint8: the box of a detection (7,), cut at the frame's edges and resized.

    where: frame, row and clip, for messages. Raises BadClip when the frame or the box cannot be used.
    """
    try:
        picture = open_picture(frame)
        width, height = picture.size
        x1, y1, x2, y2 = (float(value) for value in detection[3:])
        x1, x2 = (min(max(x, 0.0), width) for x in (x1, x2))
        y1, y2 = (min(max(y, 0.0), height) for y in (y1, y2))
        if not (x2 - x1 >= 1 and y2 - y1 >= 1):
            raise BadClip(f"{where}: the box is empty")
        # enough as long as the box keeps `resize` pixels
        shrink = min(x2 - x1, y2 - y1) / resize
        if shrink >= 2:
            picture.draft("RGB", (int(width / shrink), int(height / shrink)))
        picture = to_rgb(picture)
    except BadPicture as error:
        raise BadClip(f"{where}: the frame cannot be decoded ({error})") from error
    x_scale, y_scale = picture.width / width, picture.height / height
    box = (
        x1 * x_scale,
        y1 * y_scale,
        min(x2 * x_scale, picture.width),
        min(y2 * y_scale, picture.height),
    )
    pixels = np.asarray(picture.resize((resize, resize), Image.Resampling.BILINEAR, box=box))
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))
