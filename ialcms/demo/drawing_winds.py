"""Pictures of the wind instruments: flute and clarinet lie level, saxophone, trumpet and tuba as they are held."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ialcms.demo.canvas import BLACK, IVORY, SIZE, Canvas, Colour, Point, draw_metal, draw_wood, shade

_MIDDLE = SIZE / 2


def _bell(x_start: float, x_end: float, y: float, *, throat: float, rim: float, power: float) -> np.ndarray:
    """Outline of a horn about `y` from `x_start` to the right, to `x_end`.

    Its half width grows from `throat` to `rim`, with this `power` of the distance.
    """
    x = np.linspace(x_start, x_end, 80)
    half = throat + (rim - throat) * ((x - x_start) / (x_end - x_start)) ** power
    return np.concatenate([np.stack([x, y - half], 1), np.stack([x, y + half], 1)[::-1]])


def _draw_key(canvas: Canvas, centre: Point, radii: Point, metal: Colour) -> None:
    """A round key of `metal` at `centre`; radii: across and down."""
    (x, y), (radius_x, radius_y) = centre, radii
    canvas.ellipse((x, y + 1), (radius_x + 2, radius_y + 2), shade(metal, 0.55))
    canvas.ellipse((x, y), (radius_x, radius_y), shade(metal, 1.15))


def draw_flute(rng: np.random.Generator) -> Image.Image:
    """A random flute, RGBA."""
    canvas = Canvas(rng)
    metal = draw_metal(rng, brass_probability=0.25) if rng.random() < 0.85 else draw_wood(rng)
    half = rng.uniform(7, 10)
    canvas.bar((256, _MIDDLE), (249, half), shade(metal, 0.5), radius=4)
    canvas.bar((256, _MIDDLE - 0.5), (248, half - 2.5), metal, radius=4)
    canvas.box((8, _MIDDLE - half + 3), (505, _MIDDLE - half + 6), shade(metal, 1.3))
    canvas.bar((16, _MIDDLE), (8, half + 1), shade(metal, 0.8), radius=3)
    canvas.ellipse((78, _MIDDLE - 2), (27, 13), shade(metal, 0.8))  # lip plate
    canvas.ellipse((78, _MIDDLE - 3), (9, 5), BLACK)
    for joint_x in (155, 400):
        canvas.bar((joint_x, _MIDDLE), (5, half + 2), shade(metal, 0.75))
    for key in range(rng.integers(11, 15)):
        _draw_key(canvas, (175 + 16.5 * key, _MIDDLE - 4), (6, 6), metal=metal)
    for key in range(3):
        _draw_key(canvas, (420 + 22 * key, _MIDDLE - 4), (7, 7), metal=metal)
    canvas.line([(170, _MIDDLE + half + 2), (400, _MIDDLE + half + 2)], shade(metal, 0.7), 4)
    return canvas.finish(0.6)


def draw_clarinet(rng: np.random.Generator) -> Image.Image:
    """A random clarinet, RGBA."""
    canvas = Canvas(rng)
    body = shade((38, 34, 38), rng.uniform(0.6, 1.4)) if rng.random() < 0.85 else shade(draw_wood(rng), 0.6)
    metal = draw_metal(rng, brass_probability=0.25)
    half = rng.uniform(10, 12)
    mouthpiece = [(6, _MIDDLE - 3), (60, _MIDDLE - 9), (60, _MIDDLE + 9), (6, _MIDDLE + 3)]
    canvas.polygon(mouthpiece, BLACK)
    canvas.bar((41, _MIDDLE), (11, 11), metal)  # ligature
    canvas.bar((79, _MIDDLE), (19, half), body, radius=6)
    canvas.bar((264, _MIDDLE), (166, half - 1), body)
    canvas.polygon(_bell(420, 505, _MIDDLE, throat=half, rim=half + 26, power=2.4), body)
    canvas.bar((502, _MIDDLE), (5, 38), metal, radius=3)
    for ring_x in (64, 100, 266, 422):
        canvas.bar((ring_x, _MIDDLE), (4, half + 2), metal)
    for key in range(10):
        x = 125 + 29 * key + rng.uniform(-3, 3)
        side = -1 if key % 2 else 1
        if key in (2, 3, 6, 7):
            canvas.disc((x, _MIDDLE), 8, shade(metal, 0.6))
            canvas.disc((x, _MIDDLE), 4, body)
        canvas.line([(x, _MIDDLE + 4 * side), (x + 26, _MIDDLE + side * (half + 4))], metal, 4)
        canvas.ellipse((x + 26, _MIDDLE + side * (half + 3)), (8, 6), metal)
    canvas.line([(120, _MIDDLE - half - 3), (250, _MIDDLE - half - 3)], metal, 3)
    canvas.line([(280, _MIDDLE + half + 3), (410, _MIDDLE + half + 3)], metal, 3)
    return canvas.finish(0.4)


def draw_saxophone(rng: np.random.Generator) -> Image.Image:
    """A random saxophone, RGBA."""
    canvas = Canvas(rng)
    metal = draw_metal(rng, brass_probability=0.88)
    girth = rng.uniform(0.88, 1.12)
    bell_x = rng.uniform(300, 330)
    path: list[Point] = [(110, 62), (150, 40), (190, 48), (205, 90), (207, 250), (212, 400), (245, 462), (290, 455)]
    path += [(bell_x, 390), (bell_x + 12, 320), (bell_x + 45, 235)]
    canvas.tube(path, [girth * radius for radius in (6, 7, 9, 12, 18, 26, 31, 33, 36, 42, 66)], metal)
    canvas.ellipse((bell_x + 52, 222), (66 * girth, 34 * girth), shade(metal, 0.55))
    canvas.ellipse((bell_x + 54, 219), (58 * girth, 28 * girth), shade(metal, 0.25))
    canvas.polygon([(72, 82), (118, 50), (124, 66), (80, 96)], BLACK)  # mouthpiece
    canvas.bar((117, 64), (7, 10), (200, 190, 150))
    for key in range(7):
        x, y, radius = 208 + 10 * (key % 2), 130 + 38 * key, 8 + 1.5 * key
        _draw_key(canvas, (x, y), (radius, radius), metal=metal)
        canvas.disc((x, y), 0.5 * radius, IVORY)
    for key in range(3):
        _draw_key(canvas, (bell_x + 5 - 10 * key, 333 + 42 * key), (14, 12), metal=metal)
    canvas.line([(232, 120), (240, 400)], shade(metal, 0.7), 5)
    canvas.line([(185, 150), (190, 380)], shade(metal, 0.8), 4)
    return canvas.finish(0.6)


def draw_trumpet(rng: np.random.Generator) -> Image.Image:
    """A random trumpet, RGBA."""
    canvas = Canvas(rng)
    metal = draw_metal(rng, brass_probability=0.7)
    half = rng.uniform(6, 8)
    lead_y, return_y = _MIDDLE - 38, _MIDDLE + 38
    canvas.line([(20, lead_y + 2), (400, lead_y + 2)], shade(metal, 0.6), 2 * half)
    canvas.line([(20, lead_y - 2), (400, lead_y - 2)], metal, 2 * half - 4)
    canvas.tube([(150, return_y), (400, return_y), (428, _MIDDLE), (400, lead_y)], [half] * 4, metal)
    canvas.tube([(150, return_y), (110, _MIDDLE + 20), (110, _MIDDLE - 10), (150, lead_y)], [half] * 4, metal)
    rim = rng.uniform(62, 74)
    canvas.polygon(_bell(330, 505, lead_y, throat=half, rim=rim, power=3.2), shade(metal, 0.6))
    canvas.polygon(_bell(332, 505, lead_y, throat=half - 3, rim=rim - 3, power=3.2), metal)
    canvas.ellipse((505, lead_y), (6, rim), shade(metal, 1.2))
    canvas.polygon([(4, lead_y - 16), (22, lead_y - 6), (22, lead_y + 6), (4, lead_y + 16)], shade(metal, 0.9))
    for valve_x in (210, 246, 282):
        canvas.line([(valve_x, _MIDDLE - 76), (valve_x, _MIDDLE - 92)], shade(metal, 0.8), 6)
        canvas.bar((valve_x, _MIDDLE - 5), (14, 71), shade(metal, 0.55), radius=7)
        canvas.bar((valve_x, _MIDDLE - 5), (12, 69), metal, radius=7)
        canvas.bar((valve_x - 4, _MIDDLE - 5), (2, 69), shade(metal, 1.3))
        canvas.bar((valve_x, _MIDDLE - 95), (11, 5), IVORY, radius=3)
    canvas.line([(180, _MIDDLE + 60), (320, _MIDDLE + 60)], shade(metal, 0.7), 7)
    return canvas.finish(0.6)


def draw_tuba(rng: np.random.Generator) -> Image.Image:
    """A random tuba, RGBA."""
    canvas = Canvas(rng)
    metal = draw_metal(rng, brass_probability=0.72)
    girth = rng.uniform(0.9, 1.1)
    bow = [(330, 200), (335, 330), (300, 430), (230, 460), (165, 430), (140, 340), (150, 200), (172, 100)]
    canvas.tube(bow, [girth * radius for radius in (16, 20, 25, 29, 33, 37, 45, 68)], metal)
    for rim, flare, colour in ((0, 100, shade(metal, 0.45)), (3, 97, metal)):
        neck = (68 - rim) * girth
        edge = flare * girth
        canvas.polygon([(172 - neck, 110), (178 - edge, 45), (178 + edge, 45), (172 + neck, 110)], colour)
    canvas.ellipse((178, 44), (100 * girth, 34 * girth), shade(metal, 0.55))  # the bell, seen from above
    canvas.ellipse((178, 41), (90 * girth, 27 * girth), shade(metal, 0.3))
    inner = [(330, 210), (300, 165), (260, 200), (258, 350), (240, 385), (215, 350), (215, 230)]
    canvas.tube(inner, (13, 12, 11, 11, 11, 11, 11), metal)
    canvas.tube([(215, 230), (235, 205), (285, 260), (380, 232)], (8, 8, 7, 6), metal)
    canvas.polygon([(376, 224), (404, 216), (410, 240), (380, 242)], shade(metal, 1.1))  # mouthpiece
    for valve in range(int(rng.choice([3, 4]))):
        x = 262 + 22 * valve
        canvas.line([(x, 256), (x, 236)], shade(metal, 0.8), 5)
        canvas.bar((x, 302), (9, 48), shade(metal, 0.6), radius=5)
        canvas.bar((x, 302), (7, 46), shade(metal, 1.1), radius=5)
        canvas.ellipse((x, 233), (9, 5), IVORY)
    return canvas.finish(0.6)
