"""A colour map for levels: lightness rises evenly from night blue over violet and coral to pale yellow.

It is made in OKLCh (Ottosson 2020), where equal steps of lightness look equal, so that no level stands out because of
its hue and a print in grey keeps the order.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_LIGHTNESS = (0.14, 0.97)
_POSITION = (0.0, 0.25, 0.5, 0.75, 1.0)
_CHROMA = (0.045, 0.150, 0.185, 0.160, 0.075)
_HUE_DEGREES = (275.0, 300.0, 360.0, 410.0, 465.0)

_OKLAB_TO_LMS = np.array(
    [[1.0, 0.3963377774, 0.2158037573], [1.0, -0.1055613458, -0.0638541728], [1.0, -0.0894841775, -1.2914855480]]
)
_LMS_TO_LINEAR_RGB = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)


def palette(size: int = 256) -> NDArray[np.uint8]:
    """(size, 3) sRGB from the lowest to the highest level."""
    level = np.linspace(0.0, 1.0, size)
    chroma = np.interp(level, _POSITION, _CHROMA)
    hue = np.radians(np.interp(level, _POSITION, _HUE_DEGREES))
    oklab = np.stack([np.interp(level, (0, 1), _LIGHTNESS), chroma * np.cos(hue), chroma * np.sin(hue)], axis=1)
    linear = np.clip((oklab @ _OKLAB_TO_LMS.T) ** 3 @ _LMS_TO_LINEAR_RGB.T, 0.0, 1.0)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.round(255 * encoded).astype(np.uint8)
