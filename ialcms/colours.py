"""A colour map for levels: lightness rises evenly from night blue over violet and coral to pale yellow.

It is made in OKLCh (Ottosson 2020), where equal steps of lightness look equal, so that no level stands out because of
its hue and a print in grey keeps the order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

_LIGHTNESS = (0.14, 0.97)
_POSITION = (0.0, 0.25, 0.5, 0.75, 1.0)
_CHROMA = (0.045, 0.150, 0.185, 0.160, 0.075)
_HUE_DEGREES = (275.0, 300.0, 360.0, 410.0, 465.0)

_OKLAB_TO_LMS = (
    (1.0, 0.3963377774, 0.2158037573),
    (1.0, -0.1055613458, -0.0638541728),
    (1.0, -0.0894841775, -1.2914855480),
)
_LMS_TO_LINEAR_RGB = (
    (4.0767416621, -3.3077115913, 0.2309699292),
    (-1.2684380046, 2.6097574011, -0.3413193965),
    (-0.0041960863, -0.7034186147, 1.7076147010),
)


def level_colours(size: int = 256) -> list[tuple[int, int, int]]:
    """`size` colours in sRGB, 0 to 255, from the lowest to the highest level."""
    return [_colour(number / (size - 1)) for number in range(size)]


def _colour(level: float) -> tuple[int, int, int]:
    lightness = _between(level, (0.0, 1.0), _LIGHTNESS)
    chroma = _between(level, _POSITION, _CHROMA)
    hue = math.radians(_between(level, _POSITION, _HUE_DEGREES))
    lms = _times(_OKLAB_TO_LMS, (lightness, chroma * math.cos(hue), chroma * math.sin(hue)))
    linear = _times(_LMS_TO_LINEAR_RGB, [value**3 for value in lms])
    red, green, blue = (round(255 * _encode(min(max(value, 0.0), 1.0))) for value in linear)
    return red, green, blue


def _encode(linear: float) -> float:
    return 12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055


def _between(x: float, positions: Sequence[float], values: Sequence[float]) -> float:
    """Linear interpolation; x within the positions."""
    n = next(n for n in range(1, len(positions)) if x <= positions[n])
    weight = (x - positions[n - 1]) / (positions[n] - positions[n - 1])
    return (1 - weight) * values[n - 1] + weight * values[n]


def _times(matrix: Sequence[Sequence[float]], vector: Sequence[float]) -> list[float]:
    return [sum(a * b for a, b in zip(row, vector)) for row in matrix]
