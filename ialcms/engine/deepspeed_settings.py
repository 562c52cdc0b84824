"""DeepSpeed's JSON file beside our configuration: the file says how to shard, the configuration what to compute.

Batch size, accumulation and clipping come from the configuration: the file leaves them out, says "auto", or says the
same. Optimizer, schedules and precision must not be in the file.
"""

from __future__ import annotations

from typing import Any

from ialcms.config import Config
from ialcms.own_files import find_own
from ialcms.reading import Unreadable, bare
from ialcms.reading.text import read_json

_OURS = {
    "optimizer": "the optim section",
    "scheduler": "optim.warmup_steps and optim.cosine_steps",
    "fp16": "train.precision (float32 or bf16)",
    "bf16": "train.precision=bf16",
    "torch_autocast": "train.precision=bf16",
    "amp": "train.precision=bf16",
}


def read_settings(config: Config, world_size: int) -> dict[str, Any]:
    """The settings for deepspeed.initialize; ValueError when the file contradicts the configuration."""
    path = find_own(config.train.deepspeed_config, "configs/deepspeed", ".json")
    try:
        settings = read_json(path)
    except OSError as error:
        raise ValueError(
            f"train.deepspeed_config: {path} cannot be read ({error.strerror}); those of this project have "
            "the names zero0, zero1, zero2 and zero3"
        ) from error
    except Unreadable as error:
        raise ValueError(f"train.deepspeed_config: {path} is not valid JSON: {error}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"train.deepspeed_config: {path} must hold an object, like configs/deepspeed/zero2.json")
    for key, ours in _OURS.items():
        value = settings.get(key)
        if value is not None and not (isinstance(value, dict) and value.get("enabled") is False):
            raise ValueError(f"{path}: remove '{key}'; that is set by {ours}")
    train = config.train
    for key, value, field in (
        ("train_batch_size", train.global_batch, "train.global_batch"),
        ("train_micro_batch_size_per_gpu", train.global_batch // world_size // train.accumulation,
         "train.global_batch / ranks / train.accumulation"),
        ("gradient_accumulation_steps", train.accumulation, "train.accumulation"),
        ("gradient_clipping", config.optim.clip_norm, "optim.clip_norm"),
    ):  # fmt: skip
        if settings.get(key, "auto") not in ("auto", value):
            raise ValueError(
                f'{path}: {key} is {bare(settings[key])}, but {field} is {value}; write "auto" in the file'
            )
        settings[key] = value
    sharding = settings.get("zero_optimization")
    stage = sharding.get("stage", "missing") if isinstance(sharding, dict) else "missing"
    if stage not in (0, 1, 2, 3):
        raise ValueError(f"{path}: zero_optimization.stage is {bare(stage)}; choose 0, 1, 2 or 3")
    # On GPUs DeepSpeed's engine turns an autocast around it off unless it has one of its own. No module is said to be
    # safe to lower: the gradients of those would be sent in 16 bits.
    autocast = {"enabled": train.precision == "bf16", "dtype": "bfloat16", "lower_precision_safe_modules": []}
    defaults: dict[str, Any] = {"steps_per_print": 10**9, "zero_allow_untested_optimizer": True}
    # It would make the program wait for the device at both ends of a step.
    defaults["timers"] = {"throughput": {"enabled": False, "synchronized": False}}
    return {**defaults, **settings, "torch_autocast": autocast}
