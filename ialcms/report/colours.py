"""The colour map for levels as an array."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ialcms.colours import level_colours


def palette(size: int = 256) -> NDArray[np.uint8]:
    """(size, 3) sRGB from the lowest to the highest level."""
    return np.array(level_colours(size), np.uint8)
