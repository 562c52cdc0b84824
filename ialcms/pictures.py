"""Opening pictures: the only module that gives a file's bytes to Pillow.

Only the named formats are opened. Pillow knows fifty more, some of which it hands to other programs (EPS to
Ghostscript), and a file named .jpg may be any of them.
"""

from __future__ import annotations

import io
import re
import struct
import warnings
from collections.abc import Sequence

from PIL import Image, UnidentifiedImageError

FRAME_FORMATS = ("JPEG", "PNG")  # of prepared trees and shards, and of what a detector is trained on
PICTURE_FORMATS = ("JPEG", "PNG", "WEBP")  # of pictures that are given one by one
MAX_PIXELS = 89_478_485  # a quarter of a gigabyte as RGB; a small file can claim any size

_ORIENTATION = 0x0112  # the number of EXIF's entry
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_OTHER_FORMATS = {
    "HEIC": rb".{4}ftyp(hei|hev|mif1|msf1)",
    "AVIF": rb".{4}ftypavi",
    "GIF": rb"GIF8",
    "BMP": rb"BM",
    "TIFF": rb"II\*\0|MM\0\*",
    "EPS": rb"%!PS|\xc5\xd0\xd3\xc6",
    "WEBP": rb"RIFF.{4}WEBP",
}

# What Pillow raises for damaged pictures; SyntaxError is its word for a broken PNG.
_PILLOW_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # MAX_PIXELS refuses what it warns of
warnings.filterwarnings("ignore", module=r"PIL\.TiffImagePlugin")  # of EXIF that is damaged: it counts as none


class BadPicture(ValueError):
    """What is wrong with a picture, in one line and without the picture's name."""


def open_picture(content: bytes, formats: Sequence[str] = FRAME_FORMATS) -> Image.Image:
    """A picture as it is stored, of which only the header is read so far.

    Raises BadPicture for other formats, damaged headers and more than `MAX_PIXELS`.
    """
    try:
        image = Image.open(io.BytesIO(content), formats=list(formats))
    except _PILLOW_ERRORS as error:
        raise BadPicture(_reason(error, content, formats)) from error
    if image.width * image.height > MAX_PIXELS:
        raise BadPicture(
            f"it has {image.width} x {image.height} pixels, more than {MAX_PIXELS / 1e6:.0f} million; scale it down"
        )
    return image


def load_picture(image: Image.Image) -> Image.Image:
    """Decode what `open_picture` has opened. Raises BadPicture."""
    try:
        image.load()
    except _PILLOW_ERRORS as error:
        raise BadPicture(_line(error)) from error
    return image


def decode_picture(content: bytes, formats: Sequence[str] = FRAME_FORMATS) -> Image.Image:
    """A whole picture as RGB, upright. Raises BadPicture."""
    return to_rgb(upright(open_picture(content, formats)))


def upright(image: Image.Image) -> Image.Image:
    """The picture as its EXIF orientation wants it shown; the same object where it stands upright already.

    Raises BadPicture where it must be decoded and cannot be. An orientation that cannot be read counts as none.
    """
    load_picture(image)  # of a PNG, EXIF may come last
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except (*_PILLOW_ERRORS, KeyError, TypeError, IndexError, ZeroDivisionError):
        return image
    transposition = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if transposition is None else image.transpose(transposition)


def to_rgb(image: Image.Image) -> Image.Image:
    """The picture in RGB of 8 bits; the same object where it is that already. Raises BadPicture.

    Greys of 16 bits are scaled: Pillow's own conversion cuts them off at 255. Transparent pixels are shown on white.
    """
    load_picture(image)
    try:
        if image.mode == "RGB" and "transparency" not in image.info:
            return image
        if image.mode == "I" or image.mode.startswith("I;16"):
            image = image.point(lambda value: value * (1 / 257) + 0.5).convert("L")
        elif image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return image.convert("RGB")
    except _PILLOW_ERRORS as error:
        raise BadPicture(_line(error)) from error


def _reason(error: BaseException, content: bytes, formats: Sequence[str]) -> str:
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return f"it has more than {MAX_PIXELS / 1e6:.0f} million pixels; scale it down"
    if not isinstance(error, UnidentifiedImageError):
        return _line(error)
    wanted = " or ".join(", ".join(formats).rsplit(", ", 1))
    start = bytes(content[:16])
    found = (name for name, sign in _OTHER_FORMATS.items() if re.match(sign, start, re.DOTALL) and name not in formats)
    seems = next(found, None)
    return f"it is no whole {wanted}" if seems is None else f"it is {seems}, not {wanted}; convert it"


def _line(error: BaseException) -> str:
    """The error in one line, the same in every process."""
    return " ".join(re.sub(r"<[^>]* at 0x\w+>", "", str(error)).split()) or type(error).__name__
