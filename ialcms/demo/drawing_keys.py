"""Pictures of accordion and xylophone, as one sees them in front of a player."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ialcms.demo.canvas import BLACK, IVORY, SIZE, Canvas, Colour, Point, draw_metal, draw_wood, hsv, shade

_MIDDLE = SIZE / 2


def draw_accordion(rng: np.random.Generator) -> Image.Image:
    """Bass buttons at the left, bellows drawn out by a random width and skew, piano keys at the right."""
    canvas = Canvas(rng)
    if rng.random() < 0.75:
        case = hsv(rng.random(), rng.uniform(0.6, 0.95), rng.uniform(0.25, 0.85))
    else:
        case = hsv(0, 0, rng.choice([0.13, 0.9]))
    cloth = shade(case, 0.45) if rng.random() < 0.5 else hsv(rng.random(), 0.5, 0.35)
    top, bottom = rng.uniform(95, 130), rng.uniform(390, 420)
    left, right = 130.0, rng.uniform(300, 340)
    skew = rng.uniform(-25, 25)  # how much lower the right end of the bellows hangs
    num_folds = int(rng.integers(9, 15))
    _draw_bellows(canvas, (left, top), (right, bottom), skew=skew, num_folds=num_folds, cloth=cloth)

    bass_y = -skew / 2
    canvas.box((30, top - 12 + bass_y), (left + 4, bottom + 12 + bass_y), case, radius=16)
    for column in range(3):
        for y in np.linspace(top + 30, bottom - 37, 10) + 6 * column + bass_y:
            canvas.disc((54 + 22 * column, y), 6, IVORY)

    treble_y = skew / 2
    canvas.box((right - 2, top - 12 + treble_y), (right + 86, bottom + 12 + treble_y), case, radius=14)
    for slot in range(6):
        canvas.bar((right + 39, top + 20 + 28 * slot + treble_y), (25, 4), BLACK, radius=3)
    _draw_keyboard(canvas, (right + 88, top - 10 + treble_y), (right + 160, bottom + 10 + treble_y))
    return canvas.finish(0.35)


def _draw_bellows(
    canvas: Canvas, upper_left: Point, lower_right: Point, *, skew: float, num_folds: int, cloth: Colour
) -> None:
    """Fill the box between two corners with `num_folds` of `cloth`; skew: how much lower the right end hangs."""
    (left, top), (right, bottom) = upper_left, lower_right
    width = (right - left) / num_folds
    for fold in range(num_folds):
        x, ridge = left + fold * width, left + (fold + 0.5) * width
        y = skew * (fold / num_folds - 0.5)
        outline = [(x, top + 12), (ridge, top), (x + width, top + 12)]
        outline += [(x + width, bottom - 12), (ridge, bottom), (x, bottom - 12)]
        canvas.polygon([(px, py + y) for px, py in outline], shade(cloth, 0.7))
        lit = [(x, top + 12), (ridge, top), (ridge, bottom), (x, bottom - 12)]
        canvas.polygon([(px, py + y) for px, py in lit], shade(cloth, 1.35))
        canvas.line([(ridge, top + y), (ridge, bottom + y)], (205, 190, 150), 2)


def _draw_keyboard(canvas: Canvas, upper_left: Point, lower_right: Point) -> None:
    (left, top), (right, bottom) = upper_left, lower_right
    num_keys = 19
    height = (bottom - top) / num_keys
    canvas.box((left, top), (right, bottom), (245, 243, 238), radius=4)
    for key in range(1, num_keys):
        canvas.line([(left, top + key * height), (right, top + key * height)], (90, 90, 90), 2)
    for key in range(num_keys - 1):
        if key % 7 not in (2, 6):  # no black key between E and F, B and C
            y = top + (key + 1) * height
            canvas.box((left, y - 0.32 * height), (left + 44, y + 0.32 * height), BLACK, radius=2)


def draw_xylophone(rng: np.random.Generator) -> Image.Image:
    """Bars on two rails, of wood or in the colours of a toy, perhaps with resonator pipes; two mallets."""
    canvas = Canvas(rng)
    num_bars = int(rng.integers(8, 17))
    is_toy = rng.random() < 0.4
    wood = draw_wood(rng)
    rail = shade(draw_wood(rng), 0.6) if rng.random() < 0.6 else (60, 62, 68)
    left, right = 14.0, 498.0
    pitch = (right - left) / num_bars
    half_lengths = np.linspace(rng.uniform(105, 135), rng.uniform(52, 75), num_bars)
    centres = left + pitch * (np.arange(num_bars) + 0.5)
    if rng.random() < 0.45:
        pipe = draw_metal(rng, brass_probability=0.3)
        for x, half_length in zip(centres, half_lengths):
            canvas.box(
                (x - 0.25 * pitch, _MIDDLE + 10), (x + 0.25 * pitch, _MIDDLE + 60 + 1.1 * half_length), pipe, radius=4
            )
    for side in (-1, 1):
        left_y, right_y = _MIDDLE + side * 0.62 * half_lengths[0], _MIDDLE + side * 0.62 * half_lengths[-1]
        canvas.line([(left - 8, left_y), (right + 8, right_y)], rail, 14)
    for bar, (x, half_length) in enumerate(zip(centres, half_lengths)):
        colour = hsv(0.85 * bar / num_bars, 0.8, 0.9) if is_toy else shade(wood, rng.normal(1, 0.08))
        canvas.bar((x, _MIDDLE), (pitch / 2 - 2, half_length), shade(colour, 0.5), radius=4)
        canvas.bar((x, _MIDDLE - 1), (pitch / 2 - 3.5, half_length - 2), colour, radius=4)
        canvas.bar((x - pitch / 2 + 6, _MIDDLE), (1, half_length - 5), shade(colour, 1.25))
        for side in (-1, 1):
            canvas.disc((x, _MIDDLE + side * 0.62 * half_length), 3, (220, 220, 220))
    if not is_toy:
        canvas.add_grain(0.07)
    for side in (-1, 1):
        angle = side * rng.uniform(0.5, 1.2)
        x, y = rng.uniform(120, 400), _MIDDLE + rng.uniform(-20, 40)
        canvas.line([(x, y), (x + 120 * np.sin(angle), y + 130 * np.cos(angle))], (215, 185, 130), 6)
        canvas.disc((x, y), 13, hsv(rng.random(), 0.7, 0.6))
    return canvas.finish(0.25)
