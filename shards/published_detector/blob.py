"""Picture -> blob: blue, green, red minus their means, resized by a factor as OpenCV does it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_MEAN_BGR = (102.9801, 115.9465, 122.7717)  # of ImageNet's pictures, 0 to 255
_STRIDE = 16  # pixels of a cell


@dataclass(frozen=True)
class Blob:
    """Pictures of one size as the network sees them."""

    pixels: Tensor  # (N, 3, h, w) float32
    scale: float  # of the blob to the picture


def make_blob(pictures: Tensor, short_side: int, long_side: int) -> Blob:
    """Scale pictures (N, 3, H, W), RGB from 0 to 255, to a short side, or less where the long one would be too long.

    Raises ValueError for pictures so thin that less than a cell of the network's feature would be left.
    """
    height, width = pictures.shape[2:]
    scale = short_side / min(height, width)
    if round(scale * max(height, width)) > long_side:
        scale = long_side / max(height, width)
    if round(scale * min(height, width)) < _STRIDE:
        raise ValueError(f"a picture of {width} x {height} pixels is too thin for the detector")
    mean = torch.tensor(_MEAN_BGR, device=pictures.device)[:, None, None]
    pixels = pictures.float().flip(1) - mean
    return Blob(_resize(_resize(pixels, scale, 3), scale, 2), scale)


def _resize(pixels: Tensor, scale: float, dim: int) -> Tensor:
    """Linear interpolation along a dimension: pixel i is (i + 0.5) / scale - 0.5 of the input; edges repeat.

    `torch.nn.functional.interpolate` would round the size down, or sample by the ratio of the rounded sizes.
    """
    size = pixels.shape[dim]
    position = (torch.arange(round(size * scale), dtype=torch.float64) + 0.5) / scale - 0.5
    first = position.floor()
    shape = [1] * pixels.dim()
    shape[dim] = -1
    weight = (position - first).float().reshape(shape).to(pixels.device)
    before, after = (
        pixels.index_select(dim, index.long().clamp(0, size - 1).to(pixels.device)) for index in (first, first + 1)
    )
    return before * (1 - weight) + after * weight
