"""Checks of a configuration that need neither data nor ranks. Every error names field, value and remedy in one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from ialcms.config.fields import Field, fields_of
from ialcms.config.flat import flatten, to_dict
from ialcms.config.schema import Config
from ialcms.reading import bare, shown


def check(config: Config) -> None:
    """Cross-field checks that need neither data nor ranks."""
    audio, data = config.audio, config.data
    values = flatten(to_dict(config))
    for field in fields_of(Config):
        _check_field(field, values[field.name])
    if audio.num_frames % 32 or audio.log_bins % 32:
        raise ValueError(
            f"audio: {audio.log_bins} log bins x {audio.num_frames} frames, but the U-Net halves both five times; "
            "choose audio.log_bins and audio.num_samples // audio.hop + 1 divisible by 32"
        )
    if data.num_objects not in (1, 2):
        raise ValueError(f"data.num_objects is {data.num_objects}; 2 trains on duets, 1 on supervised solos")
    if not 0 <= data.gain[0] <= data.gain[1]:
        raise ValueError(f"data.gain is {list(data.gain)}; give [lowest, highest] with 0 <= lowest <= highest")
    if data.image_crop > data.image_resize:
        raise ValueError(
            f"data.image_crop {data.image_crop} is larger than data.image_resize {data.image_resize}; "
            "make the crop at most as large as the resized picture"
        )
    if data.image_crop % 16:
        raise ValueError(f"data.image_crop is {data.image_crop}; the visual net needs a multiple of 16")
    if config.uses_critic and config.clips_per_mix < 2:
        raise ValueError(
            "loss.lambda_ind > 0 needs at least two components per mix for the dependent pairs; "
            "raise data.num_mixtures or set loss.lambda_ind=0"
        )
    for name in ("lambda_ind_steps", "lambda_avc_steps"):
        steps = getattr(config.loss, name)
        if list(steps) != sorted(set(steps)):
            raise ValueError(f"loss.{name} is {shown(list(steps))}; give increasing global steps")
    _check_training_options(config)


def check_world_size(config: Config, world_size: int) -> None:
    """Every rank owns the same number of the global batch's mixes, in micro-batches of the same size."""
    batch, accumulation = config.train.global_batch, config.train.accumulation
    if batch % (world_size * accumulation) and accumulation > 1:
        raise ValueError(
            f"train.global_batch is {batch}, which {world_size} ranks cannot take in {accumulation} equal "
            f"micro-batches each (train.accumulation); choose a multiple of {world_size * accumulation}"
        )
    if batch % world_size:
        divisors = ", ".join(str(n) for n in range(1, batch + 1) if batch % n == 0)
        raise ValueError(
            f"train.global_batch is {batch}, which {world_size} ranks cannot share evenly; "
            f"use {divisors} ranks or another train.global_batch"
        )


def nearest(name: str, choices: Iterable[str]) -> str:
    """Text like " (did you mean 'x'?)" where a choice is close to the name, else an empty one."""
    close = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.5)
    return f" (did you mean '{close[0]}'?)" if close else ""


def _check_training_options(config: Config) -> None:
    data, loss = config.data, config.loss
    optim, train = config.optim, config.train
    if data.pictures_per_object > data.pictures_per_clip:
        raise ValueError(
            f"data.pictures_per_object is {data.pictures_per_object}, but a lane takes pictures of "
            f"{data.pictures_per_clip} detections of a clip; raise data.pictures_per_clip to as many"
        )
    if loss.spectral_weight and not loss.spectral_windows:
        raise ValueError("loss.spectral_windows is empty; give window lengths, or loss.spectral_weight=0")
    for window in loss.spectral_windows if loss.spectral_weight else ():
        if window % 4 or window > config.audio.num_samples:
            raise ValueError(
                f"loss.spectral_windows has {window}; give multiples of 4 up to audio.num_samples, "
                f"{config.audio.num_samples}"
            )
    if optim.cosine_steps and optim.cosine_steps <= optim.warmup_steps:
        raise ValueError(
            f"optim.cosine_steps is {optim.cosine_steps}, where optim.warmup_steps is {optim.warmup_steps}; the decay "
            "begins after the warm-up: choose more, or 0 for constant rates"
        )
    if train.ema_decay >= 1:
        raise ValueError(f"train.ema_decay is {train.ema_decay:g}; give less than 1, like 0.999")


def _check_field(field: Field, value: Any) -> None:
    """Range and choices; a list's numbers each."""
    facts = field.facts
    if facts.choices and value not in facts.choices:
        close = nearest(value, facts.choices)
        raise ValueError(f"{field.name} is '{bare(value)}'; choose {', '.join(facts.choices)}{close}")
    for number in value if isinstance(value, list) else [value]:
        if not isinstance(number, (int, float)) or isinstance(number, bool):
            continue
        if number < 0 or (number == 0 and not facts.may_be_zero):
            least = "0 or " if facts.may_be_zero else ""
            raise ValueError(f"{field.name} is {shown(number)}; it must be {least}positive")
        if number > facts.largest:
            raise ValueError(f"{field.name} is {shown(number)}; the largest value that makes sense is {facts.largest}")
