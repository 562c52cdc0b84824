"""Pictures of every kind that people have, made in the test."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

# how a picture is stored that its EXIF orientation turns upright
STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def corners_picture(width: int = 60, height: int = 40) -> np.ndarray:
    """(height, width, 3): red upper left, green upper right, blue lower left."""
    pixels = np.full((height, width, 3), 60, np.uint8)
    pixels[: height // 3, : width // 3] = (255, 0, 0)
    pixels[: height // 3, -(width // 3) :] = (0, 255, 0)
    pixels[-(height // 3) :, : width // 3] = (0, 0, 255)
    return pixels


def corners(pixels: np.ndarray) -> str:
    """The colours in the four corners, row by row: "RGB." as `corners_picture` is made."""
    names = {(True, False, False): "R", (False, True, False): "G", (False, False, True): "B"}
    height, width = pixels.shape[:2]
    positions = [(y, x) for y in (4, height - 5) for x in (4, width - 5)]
    return "".join(names.get(tuple(bool(colour > 140) for colour in pixels[position]), ".") for position in positions)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def turned(orientation: int, kind: str = "JPEG", width: int = 60, height: int = 40) -> bytes:
    """`corners_picture` as a camera stores it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(corners_picture(width, height))
    if orientation in STORED:
        stored = stored.transpose(STORED[orientation])
    return encoded(stored, kind, exif=exif, quality=95)


def png(depth: int, colour_type: int, rows: bytes, width: int, height: int = 1) -> bytes:
    """A PNG of any depth; rows with their filter bytes."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    )
