"""Pictures as the visual net wants them; needs torch only."""

from __future__ import annotations

import functools

import torch

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalise_objects(objects: torch.Tensor) -> torch.Tensor:
    """(..., 3, S, S) uint8 -> float32 with ImageNet mean and standard deviation, on the tensor's device."""
    mean, std = _mean_and_std(objects.device, torch.get_default_dtype())
    return (objects.float() - mean) / std


@functools.lru_cache
def _mean_and_std(device: torch.device, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Made once: the program waits while a GPU gets them."""
    mean = torch.tensor(IMAGENET_MEAN, device=device, dtype=dtype).view(3, 1, 1) * 255
    std = torch.tensor(IMAGENET_STD, device=device, dtype=dtype).view(3, 1, 1) * 255
    return mean, std
