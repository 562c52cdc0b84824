"""Heat maps over pictures, and the colours that show a level everywhere: matplotlib's magma.

Its lightness rises evenly, so that no level stands out because of its hue and a print in grey keeps the order.
"""

from __future__ import annotations

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

COLOUR_MAP = "magma"
LEVEL_RANGE_DB = 60.0  # of every spectrogram, from the darkest to the brightest colour
OPACITY = 0.75  # where the map is highest, so that the picture stays in sight
SMALLEST_RANGE = 0.1  # a flatter map is not amplified: it would look like a decision


def palette(size: int = 256) -> NDArray[np.uint8]:
    """(size, 3) sRGB from the lowest to the highest level."""
    levels = np.linspace(0.0, 1.0, size)
    return matplotlib.colormaps[COLOUR_MAP](levels, bytes=True)[:, :3]  # type: ignore[no-any-return]


def bright_palette() -> NDArray[np.uint8]:
    """(256, 3) sRGB without the dark colours, which would stain a picture below them."""
    return palette(384)[-256:]


_BRIGHT = torch.tensor(bright_palette(), dtype=torch.float32)


def lay_heat(picture: Tensor, localisation: Tensor, limits: tuple[float, float] | None = None) -> Tensor:
    """picture (H, W, 3) uint8 with a localisation map (h, w) in 0..1 over it: clear where lowest, bright where highest.

    limits: lowest and highest value of the maps that are to be compared, where it is not this one alone.
    """
    finite = torch.nan_to_num(localisation.float(), nan=0.0, posinf=1.0, neginf=0.0)
    lowest, highest = limits or (float(finite.min()), float(finite.max()))
    scaled = (finite - lowest) / max(highest - lowest, SMALLEST_RANGE)
    smooth = torch.nn.functional.interpolate(
        scaled[None, None], picture.shape[:2], mode="bicubic", align_corners=False, antialias=True
    )[0, 0].clamp(0, 1)
    opacity = (OPACITY * smooth).unsqueeze(-1)
    colour = _BRIGHT[(255 * smooth).round().long()]
    return torch.lerp(picture.float(), colour, opacity).round().to(torch.uint8)
