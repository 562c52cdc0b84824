"""Where the player is: walls, curtains, shelves, gardens, stages."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

from ialcms.demo.canvas import draw_colour, smooth_noise

_PIXELS_FOR_SCALE = 240.0  # the frame height at which sizes below are meant


def draw_background(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """An RGB picture of the room."""
    pixels = np.empty((height, width, 3), np.float32)
    pixels[:] = draw_colour(rng)
    kinds: tuple[tuple[Callable[[np.random.Generator, np.ndarray, int], None] | None, float], ...] = (
        (None, 0.22),  # a plain wall
        (_stripes, 0.12),
        (_bricks, 0.13),
        (_curtain, 0.15),
        (_shelves, 0.13),
        (_garden, 0.15),
        (_stage, 0.1),
    )
    paint = kinds[rng.choice(len(kinds), p=[probability for _, probability in kinds])][0]
    floor_y = int(height * rng.uniform(0.6, 0.9))
    if paint is not None:
        paint(rng, pixels, floor_y)
    if paint is not _garden and rng.random() < 0.7:
        pixels[floor_y:] = draw_colour(rng, 0.2, 0.7)
        pixels[floor_y : floor_y + 3] *= 0.5
    for _ in range(rng.integers(0, 5)):
        _furnish(rng, pixels)
    _age_and_light(rng, pixels)
    picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    return picture.filter(ImageFilter.GaussianBlur(rng.uniform(0, 2.2)))


def _stripes(rng: np.random.Generator, pixels: np.ndarray, floor_y: int) -> None:
    period = rng.uniform(12, 50) * pixels.shape[0] / _PIXELS_FOR_SCALE
    pixels[:, np.arange(pixels.shape[1]) % period < period / 2] = draw_colour(rng)


def _bricks(rng: np.random.Generator, pixels: np.ndarray, floor_y: int) -> None:
    scale = pixels.shape[0] / _PIXELS_FOR_SCALE
    brick_height, brick_width = rng.uniform(9, 20) * scale, rng.uniform(24, 50) * scale
    y, x = np.mgrid[0 : pixels.shape[0], 0 : pixels.shape[1]].astype(np.float32)
    row = np.floor(y / brick_height).astype(int)
    x_in_row = x + row % 2 * brick_width / 2  # every other row is shifted by half a brick
    column = np.floor(x_in_row / brick_width).astype(int)
    brightness = 1 + 0.15 * rng.normal(size=(row.max() + 1, column.max() + 1))
    pixels *= brightness[row, column][..., None]
    joint = 1.6 * scale
    pixels[(y % brick_height < joint) | (x_in_row % brick_width < joint)] = draw_colour(rng, 0.5, 0.9, strongest=0.1)


def _curtain(rng: np.random.Generator, pixels: np.ndarray, floor_y: int) -> None:
    scale = pixels.shape[0] / _PIXELS_FOR_SCALE
    x = np.arange(pixels.shape[1]) / scale
    folds = np.sin(2 * np.pi * x / rng.uniform(14, 40) + 0.8 * np.sin(x / 31))
    pixels *= (1 + 0.3 * folds)[None, :, None]


def _shelves(rng: np.random.Generator, pixels: np.ndarray, floor_y: int) -> None:
    """Rows of books."""
    scale = pixels.shape[0] / _PIXELS_FOR_SCALE
    spacing = rng.uniform(34, 60) * scale
    for board in np.arange(0, floor_y, spacing).astype(int):
        x = 0
        while x < pixels.shape[1]:
            book_width, book_height = max(2, int(rng.uniform(4, 16) * scale)), int(rng.uniform(20, 34) * scale)
            pixels[max(0, board - book_height) : board, x : x + book_width] = draw_colour(rng, 0.15, 0.9, strongest=0.8)
            x += book_width
        pixels[board : board + max(2, int(4 * scale))] = draw_colour(rng, 0.2, 0.5)


def _garden(rng: np.random.Generator, pixels: np.ndarray, floor_y: int) -> None:
    width = pixels.shape[1]
    pixels[:floor_y] = np.array([150, 190, 230]) * rng.uniform(0.7, 1.1)
    pixels[floor_y:] = np.array([80, 130, 60]) * rng.uniform(0.6, 1.2)
    for _ in range(rng.integers(1, 4)):  # hedges, one behind the other
        crown = 1 + 0.5 * smooth_noise(rng, 1, width, rows=1, columns=int(rng.integers(5, 15)))[0]
        top = floor_y - crown * rng.uniform(0.1, 0.4) * floor_y
        hedge = np.arange(floor_y)[:, None] >= top
        pixels[:floor_y][hedge] = np.array([50, 95, 45]) * rng.uniform(0.6, 1.3)


def _stage(rng: np.random.Generator, pixels: np.ndarray, floor_y: int) -> None:
    """Darkness and a beam of light."""
    width = pixels.shape[1]
    beam = np.exp(-(((np.arange(width) - width * rng.uniform(0.3, 0.7)) / (0.25 * width)) ** 2))
    pixels *= 0.35
    pixels += 120 * beam[None, :, None]


def _furnish(rng: np.random.Generator, pixels: np.ndarray) -> None:
    """A framed picture, a window, a cupboard: two boxes in each other."""
    height, width, _ = pixels.shape
    left, top = int(rng.uniform(-0.1, 0.95) * width), int(rng.uniform(0, 0.9) * height)
    right, bottom = left + int(rng.uniform(0.08, 0.35) * width), top + int(rng.uniform(0.08, 0.35) * height)
    pixels[top:bottom, max(0, left) : max(0, right)] = draw_colour(rng)
    frame = 4
    pixels[top + frame : bottom - frame, max(0, left + frame) : max(0, right - frame)] *= rng.uniform(0.6, 1.5)


def _age_and_light(rng: np.random.Generator, pixels: np.ndarray) -> None:
    """Stains, texture and light from one side."""
    height, width, _ = pixels.shape
    stains = 0.08 * smooth_noise(rng, height, width, rows=6, columns=8) + 0.05 * smooth_noise(
        rng, height, width, rows=47, columns=62
    )
    angle = rng.uniform(0, 2 * np.pi)
    x, y = np.arange(width) / width - 0.5, np.arange(height) / height - 0.5
    light = 0.3 * (x[None] * np.cos(angle) + y[:, None] * np.sin(angle))
    pixels *= ((1 + stains) * (1 + light))[..., None]
