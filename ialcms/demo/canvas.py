"""Colours, shapes and light for drawn pictures.

A picture is drawn on a square of SIZE pixels, larger than it is shown, lit as if it were raised, and cropped.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from scipy.interpolate import PchipInterpolator

SIZE = 512
_DISCS_IN_TUBE = 360
Colour = tuple[int, int, int]
Point = tuple[float, float]

BLACK: Colour = (24, 22, 24)
IVORY: Colour = (238, 233, 220)
EBONY: Colour = (32, 24, 20)


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """Hue in turns, any number; saturation and value are clipped to 0 .. 1."""
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, min(1.0, max(0.0, saturation)), min(1.0, max(0.0, value)))
    return int(255 * red), int(255 * green), int(255 * blue)


def shade(colour: Colour, factor: float) -> Colour:
    """A colour made darker (factor below 1) or lighter."""
    red, green, blue = (int(min(255.0, max(0.0, factor * channel))) for channel in colour)
    return red, green, blue


def draw_wood(rng: np.random.Generator) -> Colour:
    """A random colour of wood."""
    return hsv(rng.uniform(0.03, 0.1), rng.uniform(0.5, 0.9), rng.uniform(0.4, 0.9))


def draw_metal(rng: np.random.Generator, brass_probability: float) -> Colour:
    """A random colour of brass or silver."""
    if rng.random() < brass_probability:
        return hsv(rng.uniform(0.11, 0.14), rng.uniform(0.55, 0.8), rng.uniform(0.75, 0.95))
    return hsv(0.6, rng.uniform(0, 0.08), rng.uniform(0.7, 0.9))


def draw_colour(
    rng: np.random.Generator, darkest: float = 0.2, brightest: float = 0.9, strongest: float = 0.55
) -> Colour:
    """darkest, brightest: limits of its brightness, in [0, 1]. strongest: limit of its saturation."""
    return hsv(rng.random(), rng.uniform(0, strongest), rng.uniform(darkest, brightest))


def smooth_noise(rng: np.random.Generator, height: int, width: int, rows: int, columns: int) -> np.ndarray:
    """Noise (height, width) of about unit variance that varies over a grid of rows x columns."""
    grid = rng.normal(size=(rows, columns)).astype(np.float32)
    return np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC))


class Canvas:
    """A transparent square to draw on, in pixels from its upper left corner."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self._image = Image.new("RGBA", (SIZE, SIZE))
        self._pen = ImageDraw.Draw(self._image)

    def ellipse(self, centre: Point, radii: Point, colour: Colour) -> None:
        """radii: across and down."""
        (x, y), (radius_x, radius_y) = centre, radii
        self._pen.ellipse([x - radius_x, y - radius_y, x + radius_x, y + radius_y], fill=colour)

    def disc(self, centre: Point, radius: float, colour: Colour) -> None:
        """Fill a circle."""
        self.ellipse(centre, (radius, radius), colour)

    def box(self, upper_left: Point, lower_right: Point, colour: Colour, radius: float = 0) -> None:
        """Fill the rectangle between two corners, `upper_left` and `lower_right`; `radius`: of its rounded corners."""
        self._pen.rounded_rectangle([*upper_left, *lower_right], radius, fill=colour)

    def bar(self, centre: Point, half_size: Point, colour: Colour, radius: float = 0) -> None:
        """A box given by its `centre` and `half_size` (across, down); `radius`: of its rounded corners."""
        (x, y), (half_width, half_height) = centre, half_size
        self.box((x - half_width, y - half_height), (x + half_width, y + half_height), colour, radius=radius)

    def polygon(self, points: Sequence[Point] | np.ndarray, colour: Colour) -> None:
        """Fill the area inside some corners."""
        self._pen.polygon([(float(x), float(y)) for x, y in points], fill=colour)

    def line(self, points: Sequence[Point] | np.ndarray, colour: Colour, width: float) -> None:
        """Draw a line through points. width: in pixels."""
        path = [(float(x), float(y)) for x, y in points]
        self._pen.line(path, fill=colour, width=max(1, round(width)), joint="curve")

    def tube(self, points: Sequence[Point], radii: Sequence[float], colour: Colour) -> None:
        """A bent pipe through the points, with a dark rim and a stripe of light."""
        corners = np.column_stack([points, radii])
        along = np.append(0.0, np.cumsum(np.hypot(*np.diff(corners[:, :2], axis=0).T)))
        discs = PchipInterpolator(along, corners)(np.linspace(0, along[-1], _DISCS_IN_TUBE))
        for x, y, radius in discs:
            self.disc((x, y), radius + 2, shade(colour, 0.45))
        for x, y, radius in discs:
            self.disc((x, y), radius, colour)
        for x, y, radius in discs:
            self.disc((x - 0.3 * radius, y - 0.3 * radius), 0.25 * radius, shade(colour, 1.25))

    def add_grain(self, strength: float) -> None:
        """Vary the brightness of all that is drawn so far like the grain of upright wood."""
        rows, columns = SIZE // 32, SIZE // 3
        pixels = np.array(self._image, np.float32)
        pixels[..., :3] *= (1 + strength * smooth_noise(self.rng, SIZE, SIZE, rows=rows, columns=columns))[..., None]
        self._image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        self._pen = ImageDraw.Draw(self._image)

    def finish(self, shininess: float) -> Image.Image:
        """The drawing as RGBA, lit from above and cropped to what is drawn."""
        coverage = np.asarray(self._image.getchannel("A").filter(ImageFilter.GaussianBlur(9)), np.float32) / 255
        lightness = np.asarray(self._image.convert("L").filter(ImageFilter.GaussianBlur(2)), np.float32) / 255
        slope_y, slope_x = np.gradient(coverage + 0.3 * lightness)  # bright parts stand out
        angle = self.rng.uniform(-2.6, -0.6)
        light_x, light_y = float(np.cos(angle)), float(np.sin(angle))
        facing = -14 * (slope_x * light_x + slope_y * light_y)
        y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32) / SIZE - 0.5
        brightness = 1 + 0.8 * facing.clip(-0.5, 0.5) + 0.25 * (x * light_x + y * light_y)
        pixels = np.array(self._image, np.float32)
        pixels[..., :3] *= brightness[..., None]
        pixels[..., :3] += 255 * shininess * (facing - 0.25).clip(0, 0.5)[..., None]
        lit = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        return lit.crop(lit.getchannel("A").getbbox())
