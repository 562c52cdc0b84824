"""Normalisation of pictures as ImageNet's weights expect it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class PictureNormalisation(nn.Module):
    """Subtracts ImageNet's mean and divides by its standard deviation, channel by channel.

    The constants are buffers, so that they lie on the network's device, and are not saved in checkpoints.
    """

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", 255 * torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    def forward(self, pictures: Tensor) -> Tensor:
        """(..., 3, S, S) uint8 -> float32. Floating-point pictures are already normalised and returned as they are."""
        if pictures.is_floating_point():
            return pictures
        return (pictures.float() - self.mean) / self.std
