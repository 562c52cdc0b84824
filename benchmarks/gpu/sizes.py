"""Configurations that the parts measure, full size and small, and synthetic batches for them."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from ialcms.config import Config, from_dict
from ialcms.data.batch import Batch

_SMALL = {
    "audio": {"num_samples": 16_383, "log_bins": 64},  # 64 x 64 log spectrograms
    "data": {"image_resize": 36, "image_crop": 32},
    "model": {
        "visual": {"width": 4, "aspp_channels": 8, "low_level_channels": 4, "channels": 16},
        "unet": {"width": 4},
        "critic": {"width": 4},
    },
    "loss": {"bank_size": 24},
}


def sized_config(small: bool, global_batch: int = 8, **train: Any) -> Config:
    """The published experiment with all losses on from the first step; the backbone random, as nothing is downloaded.

    train: fields of that section. ValueError for one that this version does not have.
    """
    values: dict[str, Any] = {name: dict(section) for name, section in _SMALL.items()} if small else {}
    values["loss"] = {**values.get("loss", {}), "lambda_ind_steps": [], "lambda_avc_steps": []}
    model = values.setdefault("model", {})
    model["visual"] = {**model.get("visual", {}), "weights": "none"}
    values["train"] = {"global_batch": global_batch, **train}
    return from_dict({"name": "gpu-benchmark", **values})


def has_field(name: str) -> bool:
    """Whether the `train` section of this version has a field."""
    return name in {field.name for field in dataclasses.fields(Config().train)}


def make_batch(config: Config, step: int, device: torch.device, lanes: int | None = None) -> Batch:
    """Noise on `device`. lanes: mixes of this rank, by default the whole global batch.

    config: for the shapes. step: number of the batch.
    """
    generator = torch.Generator().manual_seed(step)
    count = config.train.global_batch if lanes is None else lanes
    mixtures, objects = config.data.num_mixtures, config.data.num_objects
    waves = 0.1 * torch.randn(count, mixtures, config.audio.num_samples, generator=generator)
    shape = (count, mixtures, objects, 3, config.data.image_crop, config.data.image_crop)
    pictures = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    keys = [("noise",)] * count
    return Batch(step, waves.sum(1).to(device), waves.to(device), objects=pictures.to(device), keys=keys, bad={})
