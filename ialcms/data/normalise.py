"""Pictures as the visual net wants them; needs torch only."""

from __future__ import annotations

import torch

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalise_objects(objects: torch.Tensor) -> torch.Tensor:
    """(..., 3, S, S) uint8 -> float32 with ImageNet mean and standard deviation, on the tensor's device."""
    mean = torch.tensor(IMAGENET_MEAN, device=objects.device).view(3, 1, 1) * 255
    std = torch.tensor(IMAGENET_STD, device=objects.device).view(3, 1, 1) * 255
    return (objects.float() - mean) / std
