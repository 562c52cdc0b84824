"""A configuration written for one batch size, at another one: steps are counted in mixes seen.

A recipe for batches of R mixes (`train.reference_batch`) is run with batches of G (`train.global_batch`). With
k = G / R the run sees the same mixes in the same phases of training:

    numbers of steps      n -> n / k, rounded to the nearest, at least 1; 0 keeps its own meaning
    ramps                 the same, each step at least one after the step before it
    learning rates        lr -> lr * k^p, p = 0, 1/2 or 1 by `optim.lr_scaling` and `optim.critic_lr_scaling`
    moving average        decay -> decay^k, so that it reaches back over the same number of mixes

Scaled are the fields that say `counts_steps` in the schema. Left alone are who learns at a step
(`train.critic_every`, `train.separator_every`: proportions, not lengths), Adam's betas, `train.check_every` and
`train.max_skipped_steps`. A cosine decay stays at least one step longer than the warm-up before it.

The result is a configuration for batches of G: its `train.reference_batch` is G, and applying the rule again changes
nothing. It is what a run writes into its folder, so a run can be resumed and read without this arithmetic.

Sources: linear scaling, Goyal et al. 2017, "Accurate, Large Minibatch SGD"; square-root scaling, which keeps the
variance of an update, Krizhevsky 2014, "One weird trick for parallelizing convolutional neural networks", and for Adam
Malladi et al. 2022, "On the SDEs and Scaling Rules for Adaptive Gradient Algorithms".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from ialcms.config.fields import fields_of
from ialcms.config.schema import Config

_EXPONENTS = {"none": 0.0, "square_root": 0.5, "linear": 1.0}


def at_global_batch(config: Config) -> Config:
    """The configuration with all numbers of steps and learning rates for `train.global_batch`.

    The very same object where `train.reference_batch` is 0 or the global batch.
    """
    train, optim = config.train, config.optim
    if train.reference_batch in (0, train.global_batch):
        return config
    ratio = Fraction(train.global_batch, train.reference_batch)
    changes: dict[str, dict[str, Any]] = {"loss": {}, "optim": {}, "train": {}}
    for field in fields_of(Config):
        if field.facts.counts_steps:
            section, name = field.name.split(".")
            steps = getattr(getattr(config, section), name)
            scale = scaled_ramp if isinstance(steps, tuple) else scaled_steps
            changes[section][name] = scale(steps, ratio)
    if optim.cosine_steps:
        changes["optim"]["cosine_steps"] = max(changes["optim"]["cosine_steps"], changes["optim"]["warmup_steps"] + 1)
    for network in ("audio", "visual", "critic"):
        rule = optim.critic_lr_scaling if network == "critic" else optim.lr_scaling
        changes["optim"][f"lr_{network}"] = getattr(optim, f"lr_{network}") * learning_rate_factor(ratio, rule)
    changes["train"] |= {"reference_batch": train.global_batch, "ema_decay": train.ema_decay ** float(ratio)}
    sections = {name: dataclasses.replace(getattr(config, name), **values) for name, values in changes.items()}
    return dataclasses.replace(config, **sections)


def learning_rate_factor(ratio: Fraction, rule: str) -> float:
    """By how much a learning rate grows where the batch grows by `ratio`; rule: none, square_root or linear."""
    return float(float(ratio) ** _EXPONENTS[rule])


def scaled_steps(steps: int, ratio: Fraction) -> int:
    """The number of steps, in batches `ratio` times as large, that see as many mixes; 0 for 0."""
    return steps and max(1, _nearest(steps / ratio))


def scaled_ramp(steps: Sequence[int], ratio: Fraction) -> tuple[int, ...]:
    """The same for increasing global steps, which stay increasing."""
    scaled: list[int] = []
    for step in steps:
        earliest = scaled[-1] + 1 if scaled else 1
        scaled.append(max(earliest, _nearest(step / ratio)))
    return tuple(scaled)


def _nearest(value: Fraction) -> int:
    """The nearest whole number, halves upwards."""
    return int(value + Fraction(1, 2))
