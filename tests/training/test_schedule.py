from __future__ import annotations

import pytest

from ialcms.training.schedule import ramp, shows_examples, step_schedule
from tests.support import small_config


@pytest.mark.parametrize(
    ("step", "weight"),
    [(0, 1e-5), (7_999, 1e-5), (8_000, 1e-5), (8_001, 1e-4), (16_000, 1e-4), (16_001, 1e-3), (24_000, 1e-3),
     (24_001, 1e-2), (10**6, 1e-2)],
)  # fmt: skip
def test_published_ramp(step: int, weight: float) -> None:
    assert ramp(step, 0.01, (8_000, 16_000, 24_000)) == pytest.approx(weight)


def test_no_steps_means_the_final_weight_at_once() -> None:
    assert ramp(0, 0.05, ()) == 0.05


def test_who_learns_is_arithmetic_on_the_step() -> None:
    config = small_config(train={"critic_every": 2, "separator_every": 3})
    schedules = [step_schedule(step, config) for step in range(6)]
    assert [s.train_critic for s in schedules] == [True, False, True, False, True, False]
    assert [s.train_separator for s in schedules] == [True, False, False, True, False, False]


def test_without_a_critic_every_step_trains_the_separator() -> None:
    config = small_config(loss={"lambda_ind": 0}, train={"separator_every": 3})
    assert all(
        step_schedule(step, config).train_separator and not step_schedule(step, config).train_critic
        for step in range(6)
    )


def test_examples_are_shown_early_at_even_distances_and_at_the_end() -> None:
    config = small_config(train={"visualise_every": 800, "steps": 2_500})
    assert [step for step in range(1, 2_501) if shows_examples(step, config)] == [
        100,
        200,
        400,
        800,
        1_600,
        2_400,
        2_500,
    ]
    config = small_config(train={"visualise_every": 0, "steps": 100})
    assert not any(shows_examples(step, config) for step in range(1, 101))
    config = small_config(train={"visualise_every": 3, "steps": 5})
    assert [step for step in range(6) if shows_examples(step, config)] == [1, 3, 5]
