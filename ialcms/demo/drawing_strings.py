"""Pictures of the stringed instruments, upright: acoustic guitar, violin, cello, erhu."""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy.interpolate import PchipInterpolator

from ialcms.demo.canvas import EBONY, IVORY, SIZE, Canvas, Colour, Point, draw_wood, hsv, shade

_CENTRE = SIZE / 2
_STRING: Colour = (225, 222, 212)


def _body_outline(
    top: float, bottom: float, *, upper: float, lower: float, waist: float, sharp_corners: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Heights and half widths of a waisted body from `top` to `bottom`.

    `upper`, `lower` and `waist` are half widths of its bouts, which meet in `sharp_corners` or run into each other.
    """
    knots = [0, 0.02, 0.08, 0.24, 0.36, 0.46, 0.57, 0.74, 0.9, 0.97, 1]
    half_widths = [0.25 * upper, 0.5 * upper, 0.84 * upper, upper, 0.93 * upper, waist]
    half_widths += [0.93 * lower, lower, 0.84 * lower, 0.5 * lower, 0.1 * lower]
    along = np.linspace(0, 1, 160)
    outline = PchipInterpolator(knots, half_widths)(along)
    if sharp_corners:
        for corner in (0.37, 0.57):
            outline += 0.09 * upper * np.exp(-(((along - corner) / 0.013) ** 2))
    return top + along * (bottom - top), outline


def _fill_body(canvas: Canvas, heights: np.ndarray, edges: tuple[np.ndarray, np.ndarray], colour: Colour) -> None:
    """Fill with `colour` what lies between two `edges`, x of the left and of the right one at the `heights`."""
    left, right = edges
    outline = np.concatenate([np.stack([left, heights], 1), np.stack([right, heights], 1)[::-1]])
    canvas.polygon(outline, colour)


def draw_guitar(rng: np.random.Generator) -> Image.Image:
    """A random guitar, RGBA."""
    canvas = Canvas(rng)
    wood = draw_wood(rng) if rng.random() < 0.8 else hsv(rng.random(), 0.7, rng.uniform(0.15, 0.7))
    neck_wood = shade(draw_wood(rng), 0.6)
    top, bottom = rng.uniform(235, 265), 505.0
    lower = rng.uniform(88, 112)
    upper = lower * rng.uniform(0.72, 0.82)
    waist = upper * rng.uniform(0.72, 0.86)
    heights, half = _body_outline(top, bottom, upper=upper, lower=lower, waist=waist, sharp_corners=False)
    right_half = half.copy()
    if rng.random() < 0.25:  # a cutaway beside the neck
        right_half *= 1 - 0.55 * np.clip((top + 0.22 * (bottom - top) - heights) / 26, 0, 1)
    _fill_body(canvas, heights, (_CENTRE - half, _CENTRE + right_half), colour=shade(wood, 0.35))
    _fill_body(canvas, heights, (_CENTRE - 0.96 * half, _CENTRE + 0.96 * right_half), colour=wood)
    if rng.random() < 0.5:  # a top of lighter wood
        lighter = shade(wood, rng.uniform(1.1, 1.4))
        _fill_body(canvas, heights, (_CENTRE - 0.86 * half, _CENTRE + 0.86 * right_half), colour=lighter)
    canvas.add_grain(0.06)

    hole_y = top + 0.4 * (bottom - top)
    canvas.disc((_CENTRE, hole_y), 0.34 * lower, shade(wood, rng.uniform(0.4, 1.3)))
    canvas.disc((_CENTRE, hole_y), 0.28 * lower, EBONY)
    if rng.random() < 0.4:  # pickguard
        edge = _CENTRE + 0.2 * lower
        far = _CENTRE + 0.55 * lower
        canvas.polygon([(edge, hole_y), (far, hole_y + 10), (far - 6, hole_y + 70), (edge, hole_y + 40)], EBONY)

    half_neck = rng.uniform(11, 14)
    canvas.box((_CENTRE - half_neck, 62), (_CENTRE + half_neck, hole_y - 20), shade(neck_wood, 0.8))
    for fret in range(13):
        y = 66 + (top - 40) * (1 - 2 ** (-fret / 9))
        canvas.line([(_CENTRE - half_neck, y), (_CENTRE + half_neck, y)], (200, 200, 190), 1)
    head = [(-half_neck - 6, 8), (half_neck + 6, 8), (half_neck, 62), (-half_neck, 62)]
    canvas.polygon([(_CENTRE + x, y) for x, y in head], neck_wood)
    for side in (-1, 1):
        for peg in range(3):
            canvas.ellipse((_CENTRE + side * (half_neck + 8), 18 + 15 * peg), (6, 5), IVORY)

    bridge_y = top + (bottom - top) * rng.uniform(0.7, 0.76)
    canvas.bar((_CENTRE, bridge_y), (0.36 * lower, 7), shade(neck_wood, 0.6), radius=4)
    for x in np.linspace(-0.75, 0.75, 6) * half_neck:
        canvas.line([(_CENTRE + x, 50), (_CENTRE + 1.3 * x, bridge_y)], _STRING, 1)
    return canvas.finish(0.25)


def draw_violin(rng: np.random.Generator) -> Image.Image:
    """A random violin, RGBA."""
    return _draw_fiddle(rng, is_cello=False)


def draw_cello(rng: np.random.Generator) -> Image.Image:
    """A random cello, RGBA."""
    return _draw_fiddle(rng, is_cello=True)


def _draw_fiddle(rng: np.random.Generator, is_cello: bool) -> Image.Image:
    canvas = Canvas(rng)
    varnish = hsv(rng.uniform(0.02, 0.085), rng.uniform(0.65, 0.95), rng.uniform(0.35, 0.75))
    top = (190 if is_cello else 205) + rng.uniform(-10, 10)
    bottom = 460.0 if is_cello else 505.0
    height = bottom - top
    lower = rng.uniform(84, 98) if is_cello else rng.uniform(80, 94)
    upper = lower * rng.uniform(0.78, 0.84)
    if is_cello:  # end pin
        canvas.line([(_CENTRE, bottom - 3), (_CENTRE, 510)], (150, 150, 155), 6)
        canvas.disc((_CENTRE, bottom + 2), 9, EBONY)
    waist = upper * rng.uniform(0.64, 0.7)
    heights, half = _body_outline(top, bottom, upper=upper, lower=lower, waist=waist, sharp_corners=True)
    _fill_body(canvas, heights, (_CENTRE - half, _CENTRE + half), colour=shade(varnish, 0.35))
    _fill_body(canvas, heights, (_CENTRE - 0.95 * half, _CENTRE + 0.95 * half), colour=varnish)
    canvas.add_grain(0.09)

    waist_y = top + 0.52 * height
    for side in (-1, 1):  # sound holes
        x = _CENTRE + side * 0.38 * lower
        hole = [(-side * 9, -0.11), (-side * 3, -0.09), (0, 0), (side * 4, 0.09), (side * 10, 0.1)]
        canvas.line([(x + dx, waist_y + dy * height) for dx, dy in hole], EBONY, 5)
        canvas.disc((x - side * 10, waist_y - 0.105 * height), 5, EBONY)
        canvas.disc((x + side * 11, waist_y + 0.1 * height), 6, EBONY)
    canvas.bar((_CENTRE, waist_y + 0.0425 * height), (0.27 * lower, 0.0125 * height), (225, 190, 130), radius=2)
    tailpiece_y = waist_y + 0.17 * height
    tailpiece = [(-8, bottom - 2), (8, bottom - 2), (18, tailpiece_y), (-18, tailpiece_y)]
    canvas.polygon([(_CENTRE + x, y) for x, y in tailpiece], EBONY)
    if not is_cello:  # chin rest
        canvas.ellipse((_CENTRE - 0.45 * lower, bottom - 26), (34, 18), EBONY)

    nut_y = 66 if is_cello else 60
    board_end_y = top + 0.4 * height
    fingerboard = [(-9, nut_y), (9, nut_y), (15, board_end_y), (-15, board_end_y)]
    canvas.polygon([(_CENTRE + x, y) for x, y in fingerboard], EBONY)
    canvas.box((_CENTRE - 10, 20), (_CENTRE + 10, nut_y + 10), varnish, radius=5)
    canvas.ellipse((_CENTRE, 18), (15, 14), varnish)
    canvas.disc((_CENTRE, 18), 6, shade(varnish, 0.5))
    for peg, side in enumerate((-1, 1, -1, 1)):
        canvas.bar((_CENTRE + side * 20, 33 + 9 * peg), (12, 3), EBONY, radius=3)
    for x in (-7.0, -2.4, 2.2, 6.8):
        canvas.line([(_CENTRE + x, 40), (_CENTRE + 1.7 * x, tailpiece_y)], _STRING, 1)
    if rng.random() < 0.7:
        half_length = rng.uniform(170, 225) * (0.85 if is_cello else 1)
        bow_y = waist_y - height * rng.uniform(0, 0.16)
        middle = (_CENTRE + rng.uniform(-60, 60), bow_y)
        slope = rng.uniform(-0.35, 0.35)
        _draw_bow(canvas, middle, half_length=half_length, slope=slope, wood=(95, 45, 25), curvature=8)
    return canvas.finish(0.3)


def _draw_bow(
    canvas: Canvas, middle: Point, *, half_length: float, slope: float, wood: Colour, curvature: float
) -> None:
    """`middle` and `half_length` (across) are those of the hair, whose `slope` is dy/dx.

    curvature: how far the middle of the stick, of `wood`, stands out.
    """
    x, y = middle
    left, right = x - half_length, x + half_length
    left_y, right_y = y - slope * half_length, y + slope * half_length
    canvas.line([(left, left_y), (right, right_y)], IVORY, 4)
    canvas.line([(left, left_y - 9), (x, y - 9 - curvature), (right, right_y - 9)], wood, 5)
    canvas.box((left, left_y - 12), (left + 22, left_y + 4), EBONY, radius=2)


def draw_erhu(rng: np.random.Generator) -> Image.Image:
    """A random erhu, RGBA."""
    canvas = Canvas(rng)
    x = _CENTRE + rng.uniform(-10, 10)
    wood = hsv(rng.uniform(0, 0.06), rng.uniform(0.5, 0.9), rng.uniform(0.25, 0.5))
    box_y, radius = 440.0, rng.uniform(44, 56)
    canvas.polygon([(x - 60, 490), (x + 60, 490), (x + 50, 505), (x - 50, 505)], wood)  # foot
    canvas.box((x - 8, 25), (x + 8, box_y), wood, radius=4)
    canvas.line([(x, 40), (x + rng.choice([-1, 1]) * 24, 12)], wood, 14)
    for peg_y in (70, 112):
        tip = x - rng.uniform(60, 80)
        peg = [(x - 6, peg_y - 7), (tip, peg_y - 14), (tip + 4, peg_y + 12), (x - 6, peg_y + 7)]
        canvas.polygon(peg, shade(wood, 1.25))
        canvas.line([(x + 6, peg_y), (x + 20, peg_y)], wood, 8)

    num_corners = int(rng.choice([6, 8, 40]))  # the sound box is a hexagon, an octagon or round
    angles = np.pi * (2 * np.arange(num_corners) + 1) / num_corners
    skin = hsv(rng.uniform(0.08, 0.13), rng.uniform(0.25, 0.6), rng.uniform(0.5, 0.85))
    for extent, colour in ((radius + 9, shade(wood, 0.7)), (radius, shade(wood, 1.2)), (0.82 * radius, skin)):
        canvas.polygon(np.stack([x + extent * np.cos(angles), box_y + extent * np.sin(angles)], 1), colour)
    for row in range(-6, 7):  # the python's scales
        for column in range(-6, 7):
            dx, dy = 9 * column + 4 * (row % 2), 7 * row
            if np.hypot(dx, dy) < 0.72 * radius:
                scale = [(dx - 4, dy), (dx, dy - 3), (dx + 4, dy), (dx, dy + 3)]
                canvas.polygon([(x + px, box_y + py) for px, py in scale], shade(skin, 0.45))

    for string in (-3, 3):
        canvas.line([(x - 18 + string, 90), (x + string, box_y + 15)], _STRING, 1)
    canvas.line([(x - 16, 190), (x + 8, 190)], (200, 60, 50), 4)
    canvas.bar((x, box_y + 12), (10, 4), (225, 200, 150), radius=2)
    bow_y = box_y - radius - rng.uniform(6, 26)
    bow_x, half_length = x + rng.uniform(-40, 70), rng.uniform(150, 200)
    slope = rng.uniform(-0.12, 0.16)
    _draw_bow(canvas, (bow_x, bow_y), half_length=half_length, slope=slope, wood=(150, 100, 45), curvature=16)
    return canvas.finish(0.2)
