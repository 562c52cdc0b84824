"""A small configuration, and batches for it."""

from __future__ import annotations

from pathlib import Path

import torch

from ialcms.config import Config, from_dict
from ialcms.data.batch import Batch, objects_shape

SMALL = {
    "name": "small",
    "audio": {"num_samples": 16_383, "log_bins": 64},  # 64 x 64 log spectrograms
    "data": {"image_resize": 36, "image_crop": 32, "loader_workers": 0},
    "model": {
        "visual": {"width": 4, "weights": "none", "aspp_channels": 8, "low_level_channels": 4, "channels": 16},
        "unet": {"width": 4},
        "critic": {"width": 4},
    },
    "loss": {"bank_size": 24, "lambda_ind_steps": [2, 4], "lambda_avc_steps": [1, 3]},
    "train": {"global_batch": 4, "separator_every": 2},
}


def small_config(**sections: dict) -> Config:
    """The small configuration with values of sections replaced: small_config(data={"num_mixtures": 3})."""
    values = {key: dict(value) if isinstance(value, dict) else value for key, value in SMALL.items()}
    for name, section in sections.items():
        if isinstance(section, dict):
            values[name] = {**values.get(name, {}), **section}
        else:
            values[name] = section
    return from_dict(values)


def write_small_config(path: Path, shards: Path, **train: object) -> Path:
    """A YAML file that trains the small networks on these shards; `train` fields as given."""
    import yaml  # here: what runs on a rented GPU may have no more than torch and NumPy

    values = {
        **SMALL,
        "data": {**SMALL["data"], "shards": str(shards)},  # type: ignore[dict-item]
        "train": {"global_batch": 4, "separator_every": 2, "log_every": 1, **train},
        "eval": {"draws": 1, "validation_draws": 1, "hop": 16_383, "examples": 2, "seconds": 3.0},
    }
    path.write_text(yaml.safe_dump(values))
    return path


def make_batch(config: Config, step: int, lanes: slice = slice(None)) -> Batch:
    """A batch of noise that depends on the step alone; `lanes` cuts a rank's share out of the global batch."""
    generator = torch.Generator().manual_seed(1_000 + step)
    batch, mixtures, samples = config.train.global_batch, config.data.num_mixtures, config.audio.num_samples
    # every lane has other statistics, so that local ones would show
    level = 0.05 + 0.1 * torch.arange(batch).view(-1, 1, 1) / batch
    waves = level * torch.randn(batch, mixtures, samples, generator=generator)
    pictures = torch.randint(0, 256, (batch, *objects_shape(config.data)), generator=generator, dtype=torch.uint8)
    keys = [(f"lane{lane}",) for lane in range(batch)]
    return Batch(step, waves.sum(1)[lanes], waves[lanes], pictures[lanes], keys[lanes], [])
