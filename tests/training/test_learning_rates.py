from __future__ import annotations

import pytest

from ialcms.config import OptimConfig
from ialcms.models.build import build_networks, critic_optimizer, separator_optimizer
from ialcms.training.learning_rates import rate_factor, set_learning_rates
from tests.support import small_config


def test_constant_rates_are_exactly_those_configured() -> None:
    assert [rate_factor(step, OptimConfig()) for step in (0, 1, 10**6)] == [1.0, 1.0, 1.0]


def test_warm_up_ends_with_the_full_rate() -> None:
    optim = OptimConfig(warmup_steps=4)
    assert [rate_factor(step, optim) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_cosine_at_its_ends_and_in_the_middle(floor: float) -> None:
    optim = OptimConfig(warmup_steps=10, cosine_steps=110, lr_floor=floor)
    assert rate_factor(9, optim) == rate_factor(10, optim) == 1.0
    assert rate_factor(60, optim) == pytest.approx((1 + floor) / 2)
    assert rate_factor(110, optim) == rate_factor(10**6, optim) == pytest.approx(floor)
    factors = [rate_factor(step, optim) for step in range(10, 112)]
    assert factors == sorted(factors, reverse=True)


def test_a_floor_without_a_cosine_means_nothing() -> None:
    assert rate_factor(5, OptimConfig(lr_floor=0.1)) == 1.0


def test_rates_are_set_by_group() -> None:
    config = small_config(optim={"lr_audio": 1e-3, "lr_visual": 2e-3, "lr_critic": 3e-3})
    separator, critic = build_networks(config)
    assert critic is not None
    optimizers = separator_optimizer(separator, config), critic_optimizer(critic, config)
    set_learning_rates(*optimizers, factor=0.5, optim=config.optim)
    rates = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
    assert rates == [5e-4, 1e-3, 1.5e-3]
    set_learning_rates(*optimizers, factor=1.0, optim=config.optim)
    assert optimizers[1].param_groups[0]["lr"] == 3e-3
