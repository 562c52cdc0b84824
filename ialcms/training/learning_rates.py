"""Learning rates as pure functions of the global step: linear warm-up, then constant or a cosine decay.

They are set before every step, so nothing of them is saved: a resumed run has the same rate at the same step.

Sources: cosine, Loshchilov and Hutter 2017, "SGDR: Stochastic Gradient Descent with Warm Restarts" (without restarts);
warm-up, Goyal et al. 2017, "Accurate, Large Minibatch SGD".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor
from torch.optim import Optimizer

from ialcms.config import OptimConfig


def rate_factor(step: int, optim: OptimConfig) -> float:
    """By what the configured learning rates are multiplied at a global step, counted from 0.

    With w = `warmup_steps`, c = `cosine_steps` and f = `lr_floor`:

        step < w           (step + 1) / w                                  the last warm-up step has the full rate
        w <= step < c      f + (1 - f) (1 + cos(pi (step - w) / (c - w))) / 2
        step >= c          f                                               c = 0: 1 from the warm-up on
    """
    if step < optim.warmup_steps:
        return (step + 1) / optim.warmup_steps
    if optim.cosine_steps == 0:
        return 1.0
    done = min(1.0, (step - optim.warmup_steps) / (optim.cosine_steps - optim.warmup_steps))
    return optim.lr_floor + (1 - optim.lr_floor) * (1 + math.cos(math.pi * done)) / 2


def set_learning_rates(separator: Optimizer, critic: Optimizer | None, factor: float, optim: OptimConfig) -> None:
    """Set the rates of a step in both optimizers.

    separator: its groups are named "audio" and "visual"; critic: None where there is none; factor: see `rate_factor`;
    optim: the rates that it multiplies.
    """
    for group in separator.param_groups:
        group["lr"] = factor * (optim.lr_audio if group["name"] == "audio" else optim.lr_visual)
    for group in critic.param_groups if critic is not None else ():
        group["lr"] = factor * optim.lr_critic


def present_rates(optimizers: Sequence[Optimizer]) -> list[float]:
    """One for each group of each optimizer."""
    return [float(group["lr"]) for optimizer in optimizers for group in optimizer.param_groups]


@contextmanager
def rates_on_device(optimizers: Sequence[Optimizer], rates: Tensor) -> Iterator[None]:
    """Inside, the optimizers read their rates from the device, so that their steps can be recorded in a CUDA graph.

    rates: in the order of `present_rates`.
    """
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    before = [(group["lr"], group["capturable"]) for group in groups]
    for group, rate in zip(groups, rates.unbind(), strict=True):
        group["lr"], group["capturable"] = rate, True
    try:
        yield
    finally:
        for group, (rate, capturable) in zip(groups, before):
            group["lr"], group["capturable"] = rate, capturable
