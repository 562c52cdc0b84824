"""Opening pictures: every kind that people have comes out as one sees it, everything else is refused in one line."""

from __future__ import annotations

import ast
import os
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ialcms.data.object_pictures import BadClip, object_picture
from ialcms.pictures import FRAME_FORMATS, PICTURE_FORMATS, BadPicture, decode_picture, open_picture
from tests.support import ROOT
from tests.support.pictures import STORED, corners, corners_picture, encoded, png, turned

RAMP = np.linspace(0, 65_535, 64).astype(">u2")


@pytest.mark.parametrize("orientation", [1, *STORED])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_pictures_stand_upright(kind: str, orientation: int) -> None:
    image = decode_picture(turned(orientation, kind), PICTURE_FORMATS)
    assert image.size == (60, 40)
    assert corners(np.asarray(image)) == "RGB."


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_an_orientation_that_is_none(orientation: int) -> None:
    assert corners(np.asarray(decode_picture(turned(orientation)))) == "RGB."


@pytest.mark.filterwarnings("ignore")
def test_damaged_exif_counts_as_none() -> None:
    content = turned(6)
    at = content.index(b"Exif")
    upright = decode_picture(turned(6))
    for position in range(at + 6, at + 32):
        damaged = content[:position] + b"\xff" + content[position + 1 :]
        assert decode_picture(damaged).size in (upright.size, upright.size[::-1])


@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)], ids=["L", "RGB", "LA", "RGBA"])
def test_pictures_of_16_bits(colour_type: int, channels: int) -> None:
    pixels = np.repeat(RAMP[:, None], channels, axis=1)
    if channels in (2, 4):
        pixels[:, -1] = 65_535
    image = decode_picture(png(16, colour_type, b"\0" + pixels.tobytes(), 64))
    assert image.mode == "RGB"
    expected = np.asarray(RAMP, dtype=float)[None, :, None] / 257
    np.testing.assert_allclose(np.asarray(image), np.broadcast_to(expected, (1, 64, 3)), atol=1)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_greys_of_few_bits(depth: int) -> None:
    values = [0b00011011 >> shift & ((1 << depth) - 1) for shift in range(8 - depth, -1, -depth)]
    image = decode_picture(png(depth, 0, b"\0" + bytes([0b00011011]), 8 // depth))
    assert np.asarray(image)[0, :, 1].tolist() == [value * 255 // ((1 << depth) - 1) for value in values]


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("L", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("RGBA", "PNG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("RGBA", "WEBP")],
)
def test_other_modes(mode: str, kind: str) -> None:
    grey = Image.fromarray(np.tile(np.arange(0, 256, 8, dtype=np.uint8), (16, 1))).convert("RGB")
    image = decode_picture(encoded(grey.convert(mode), kind), PICTURE_FORMATS)
    assert image.mode == "RGB"
    tolerance = 48 if mode == "P" else 6  # a palette has few greys
    np.testing.assert_allclose(np.asarray(image, float), np.asarray(grey, float), atol=tolerance)


def test_transparent_pixels_are_white() -> None:
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([10, 20, 30] * 256)
    for content in (
        encoded(Image.new("LA", (4, 4), (10, 0)), "PNG"),
        encoded(Image.new("RGBA", (4, 4), (10, 20, 30, 0)), "PNG"),
        encoded(palette, "PNG", transparency=0),
    ):
        assert (np.asarray(decode_picture(content)) == 255).all()
    assert np.asarray(decode_picture(encoded(palette, "PNG")))[0, 0].tolist() == [10, 20, 30]


def test_pictures_of_two_in_one_are_the_first() -> None:
    """As some phones write them: Pillow's format is MPO."""
    first, second = Image.fromarray(corners_picture()), Image.new("RGB", (60, 40))
    content = encoded(first, "MPO", save_all=True, append_images=[second], quality=95)
    assert corners(np.asarray(decode_picture(content))) == "RGB."


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "EPS", "WEBP", "AVIF", "PPM", "ICO"])
def test_other_formats_are_refused(kind: str) -> None:
    content = encoded(Image.fromarray(corners_picture()), kind)
    with pytest.raises(BadPicture, match=r"not JPEG or PNG; convert it|no whole JPEG or PNG"):
        open_picture(content, FRAME_FORMATS)


def test_no_other_program_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "gs"
    script.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 90 90\n%%EndComments\n(a program) run\n%%EOF\n"
    with pytest.raises(BadClip, match=r"frame 1: the frame cannot be decoded \(it is EPS"):
        object_picture(eps, np.array([0, 1, 1, 10, 10, 60, 60], np.float32), 36, "frame 1")
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("side", [9_500, 20_000])
def test_a_picture_that_claims_to_be_huge(side: int) -> None:
    content = png(1, 0, bytes(100), side, side)
    with pytest.raises(BadPicture, match=r"million.*; scale it down"):
        open_picture(content)


@pytest.mark.parametrize("content", [b"", b"x", turned(1)[:200], encoded(Image.new("RGB", (90, 90)), "PNG")[:50]])
def test_damaged_pictures(content: bytes) -> None:
    with pytest.raises(BadPicture) as caught:
        decode_picture(content)
    assert "\n" not in str(caught.value)
    assert "0x" not in str(caught.value)


@pytest.mark.filterwarnings("ignore")
def test_random_damage_is_refused_or_decoded() -> None:
    generator = random.Random(5)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8))
    whole = [turned(6), encoded(noise, "JPEG", progressive=True), turned(5, "PNG"), encoded(noise.convert("P"), "PNG")]
    whole += [turned(7, "WEBP"), encoded(noise.convert("CMYK"), "JPEG"), png(16, 0, bytes(9), 4)]
    refused = 0
    for _ in range(2_000):
        damaged = bytearray(generator.choice(whole))
        for _ in range(generator.randint(1, 6)):
            damaged[generator.randrange(min(len(damaged), generator.choice([64, 300, 9_999])))] = generator.randrange(
                256
            )
        if generator.random() < 0.2:
            damaged = damaged[: generator.randrange(len(damaged))]
        try:
            assert decode_picture(bytes(damaged), PICTURE_FORMATS).mode == "RGB"
        except BadPicture:
            refused += 1
    assert 500 < refused < 2_000


def test_pictures_are_opened_in_one_position() -> None:
    """By Pillow: whatever calls `Image.open` names the formats, and in the programs that is one function."""
    calls = []
    for folder in ("ialcms", "shards", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Image.open", "PIL.Image.open"):
                    assert "formats" in {keyword.arg for keyword in node.keywords}, path
                    calls.append(str(path.relative_to(ROOT)))
    assert [call for call in calls if not call.startswith("benchmarks")] == ["ialcms/pictures.py"]
