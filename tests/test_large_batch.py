"""A recipe at another batch size: numbers of steps and learning rates, as pure functions."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from ialcms.config import Config, from_dict, to_dict
from ialcms.config.large_batch import at_global_batch, learning_rate_factor, scaled_ramp, scaled_steps
from ialcms.training.learning_rates import rate_factor
from ialcms.training.schedule import step_schedule
from tests.support import small_config


def recipe(global_batch: int, **sections: dict[str, Any]) -> Config:
    """Written for batches of 8."""
    train = {"global_batch": global_batch, "reference_batch": 8, "steps": 6_400, "validate_every": 640, "log_every": 64,
             "checkpoint_every": 320, "visualise_every": 0, **sections.pop("train", {})}  # fmt: skip
    loss = {"lambda_ind_steps": [1_280, 2_560], "lambda_avc_steps": [640], **sections.pop("loss", {})}
    optim = {"warmup_steps": 128, "cosine_steps": 6_400, **sections.pop("optim", {})}
    return small_config(train=train, loss=loss, optim=optim, **sections)


@pytest.mark.parametrize(
    ("steps", "ratio", "expected"),
    [(0, 64, 0), (400, 1, 400), (400, 8, 50), (400, 64, 6), (10, 64, 1), (12, 8, 2), (11, 8, 1), (400, "1/2", 800),
     (100, "3/2", 67)],
)  # fmt: skip
def test_numbers_of_steps(steps: int, ratio: int | str, expected: int) -> None:
    assert scaled_steps(steps, Fraction(ratio)) == expected


def test_ramps_stay_increasing() -> None:
    assert scaled_ramp((50, 100, 150), Fraction(8)) == (6, 13, 19)
    assert scaled_ramp((50, 100, 150), Fraction(64)) == (1, 2, 3)
    assert scaled_ramp((), Fraction(64)) == ()


def test_learning_rate_rules() -> None:
    factors = [learning_rate_factor(Fraction(64), rule) for rule in ("none", "square_root", "linear")]
    assert factors == [1.0, 8.0, 64.0]
    assert learning_rate_factor(Fraction(1, 4), "square_root") == 0.5


def test_a_recipe_for_8_mixes_at_512() -> None:
    config = recipe(512, optim={"lr_scaling": "square_root", "critic_lr_scaling": "linear"}, train={"ema_decay": 0.99})
    train, optim, loss = config.train, config.optim, config.loss
    assert (train.steps, train.validate_every, train.checkpoint_every, train.log_every) == (100, 10, 5, 1)
    assert train.visualise_every == 0
    assert (loss.lambda_ind_steps, loss.lambda_avc_steps) == ((20, 40), (10,))
    assert (optim.warmup_steps, optim.cosine_steps) == (2, 100)
    assert (optim.lr_audio, optim.lr_visual, optim.lr_critic) == pytest.approx((8e-4, 8e-3, 64e-4))
    assert train.ema_decay == pytest.approx(0.99**64)
    assert train.check_every == 500  # no number of mixes
    assert (train.critic_every, train.separator_every) == (1, 2)


def test_the_same_mixes_seen_have_the_same_schedule() -> None:
    small, large = recipe(8), recipe(64)
    for mixes in range(0, 8 * 6_400, 64):
        ours, reference = (step_schedule(mixes // config.train.global_batch, config) for config in (large, small))
        assert (ours.lambda_avc, ours.lambda_ind) == (reference.lambda_avc, reference.lambda_ind), mixes
    assert rate_factor(400, large.optim) == pytest.approx(rate_factor(3_200, small.optim), rel=1e-3)


def test_what_comes_out_is_for_its_own_batch() -> None:
    config = recipe(64)
    assert config.train.reference_batch == 64
    assert at_global_batch(config) is config
    assert from_dict(to_dict(config)) == config  # as from the configuration in a run's folder
    shortest = recipe(8 * 6_400)
    assert from_dict(to_dict(shortest)) == shortest
    assert (shortest.optim.warmup_steps, shortest.optim.cosine_steps) == (1, 2)


def test_without_a_reference_nothing_moves() -> None:
    config = small_config(train={"global_batch": 64, "steps": 400}, optim={"lr_scaling": "linear"})
    assert config.train.steps == 400
    assert config.optim.lr_audio == 1e-4
    assert recipe(8).train.steps == 6_400
