"""What a training step gets."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ialcms.config import DataConfig


def objects_shape(data: DataConfig) -> tuple[int, ...]:
    """Of a mix's object pictures: (M, O, 3, S, S), with P > 1 pictures of each object (M, O, P, 3, S, S)."""
    pictures = (data.pictures_per_object,) if data.pictures_per_object > 1 else ()
    return (data.num_mixtures, data.num_objects, *pictures, 3, data.image_crop, data.image_crop)


@dataclass
class Batch:
    """Mixes of some lanes. B mixes, M mixtures per mix, O objects per mixture, L samples, S pixels."""

    step: int  # global step
    mix: torch.Tensor  # (B, L) float32
    mixtures: torch.Tensor  # (B, M, L) float32
    objects: torch.Tensor  # (B, *objects_shape) uint8; see normalise_objects
    keys: list[tuple[str, ...]]  # per mix, the M * O keys of its clips
    bad: dict[str, str]  # clips of the plan that had to be replaced: key -> one line with shard and reason
    cached_bytes: int = 0  # memory that the decoded clips of this rank's loader took not long before

    def to(self, device: torch.device | str) -> Batch:
        """The batch with its tensors on `device`; from pinned memory the copy does not block."""
        return replace(
            self,
            mix=self.mix.to(device, non_blocking=True),
            mixtures=self.mixtures.to(device, non_blocking=True),
            objects=self.objects.to(device, non_blocking=True),
        )

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory, from where a GPU copies without making the program wait."""
        return replace(
            self, mix=self.mix.pin_memory(), mixtures=self.mixtures.pin_memory(), objects=self.objects.pin_memory()
        )
