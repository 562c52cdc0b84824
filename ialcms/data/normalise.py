"""Normalised pictures for computations without the visual net, which normalises uint8 pictures itself."""

from __future__ import annotations

from torch import Tensor

from ialcms.models.picture_normalisation import PictureNormalisation


def normalise_objects(objects: Tensor) -> Tensor:
    """(..., 3, S, S) uint8 -> float32 with ImageNet's mean and standard deviation, on the tensor's device."""
    normalised: Tensor = PictureNormalisation().to(objects.device)(objects)
    return normalised
