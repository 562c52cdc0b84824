"""Proposals -> 7 x 7 cells of features, in the two ways of the published code."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, embedding_bag
from torchvision.ops import roi_align

from shards.published_detector.boxes import STRIDE

CELLS = 7


def pool(features: Tensor, boxes: Tensor, pictures: Tensor, pooling: str) -> Tensor:
    """(R, C, 7, 7) of features (N, C, f, g) under boxes (R, 4), in pixels of the blob, of the pictures (R,) 0..N-1."""
    if pooling == "legacy":
        return legacy_pool(features, boxes, pictures)
    rois = torch.cat([pictures[:, None].to(boxes.dtype), boxes], 1)
    return roi_align(
        features,
        rois,
        CELLS,
        spatial_scale=1 / STRIDE,
        sampling_ratio=0,
        aligned=False,
    )


def legacy_pool(features: Tensor, boxes: Tensor, pictures: Tensor) -> Tensor:
    """RoI align of the published code's older branch: 8 x 8 single samples, then the means of 2 x 2 neighbours.

    A box is one cell larger than its corners say, so that the last samples lie one cell beyond them.
    """
    channels, rows, columns = features.shape[1:]
    x = _samples(boxes[:, 0], boxes[:, 2], columns)
    y = _samples(boxes[:, 1], boxes[:, 3], rows)
    # four neighbours of each sample, in a table with a row per cell
    row = torch.stack([y.first, y.first, y.second, y.second], -1)[:, :, None]
    column = torch.stack([x.first, x.second, x.first, x.second], -1)[:, None]
    index = (pictures[:, None, None, None] * rows + row) * columns + column  # (R, 8, 8, 4)
    weight_y = torch.stack([y.first_weight, y.first_weight, y.second_weight, y.second_weight], -1)[:, :, None]
    weight_x = torch.stack([x.first_weight, x.second_weight, x.first_weight, x.second_weight], -1)[:, None]
    table = features.permute(0, 2, 3, 1).reshape(-1, channels)
    weight = (weight_y * weight_x).reshape(-1, 4)
    samples = embedding_bag(index.reshape(-1, 4), table, mode="sum", per_sample_weights=weight)
    grid = samples.reshape(len(boxes), CELLS + 1, CELLS + 1, channels).permute(0, 3, 1, 2)
    return avg_pool2d(grid, 2, stride=1)


@dataclass(frozen=True)
class _Samples:
    """The two neighbours of 8 samples along one axis, and their weights: (R, 8) each."""

    first: Tensor
    second: Tensor
    first_weight: Tensor
    second_weight: Tensor


def _samples(begin: Tensor, end: Tensor, size: int) -> _Samples:
    begin, end = begin / STRIDE, end / STRIDE
    extent = (end - begin + 1).clamp(min=0)
    position = begin[:, None] + torch.arange(CELLS + 1, device=begin.device) * (extent / CELLS)[:, None]
    inside = ((position >= 0) & (position < size)).to(position.dtype)  # a sample outside is zero
    first = position.floor().clamp(0, max(size - 2, 0))
    # behind the last cell's centre the line through the last two cells is continued
    share = (position - first) * inside
    return _Samples(
        first.long(),
        (first.long() + 1).clamp(max=size - 1),
        first_weight=inside - share,
        second_weight=share,
    )
