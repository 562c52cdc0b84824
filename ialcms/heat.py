"""Heat maps over pictures, with torch alone."""

from __future__ import annotations

import torch
from torch import Tensor

from ialcms.colours import level_colours

_OPACITY = 0.75  # at the highest place, so that the picture stays in sight
_SMALLEST_RANGE = 0.1  # a flatter map is not stretched to look like a decision
_PALETTE = torch.tensor(
    level_colours(384)[-256:], dtype=torch.float32
)  # without the dark ones, which would stain the picture


def lay_heat(picture: Tensor, localisation: Tensor, limits: tuple[float, float] | None = None) -> Tensor:
    """picture (H, W, 3) uint8 with a localisation map (h, w) in 0..1 over it: clear where lowest, bright where highest.

    limits: lowest and highest value of the maps that are to be compared, where it is not this one alone.
    """
    finite = torch.nan_to_num(localisation.float(), nan=0.0, posinf=1.0, neginf=0.0)
    lowest, highest = limits or (float(finite.min()), float(finite.max()))
    stretched = (finite - lowest) / max(highest - lowest, _SMALLEST_RANGE)
    smooth = torch.nn.functional.interpolate(
        stretched[None, None], picture.shape[:2], mode="bicubic", align_corners=False, antialias=True
    )[0, 0].clamp(0, 1)
    opacity = (_OPACITY * smooth).unsqueeze(-1)
    colour = _PALETTE[(255 * smooth).round().long()]
    return torch.lerp(picture.float(), colour, opacity).round().to(torch.uint8)
