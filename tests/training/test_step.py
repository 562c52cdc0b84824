"""The training step on one rank: odd batches, what learns when, what may not move."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from ialcms.config import Config
from ialcms.engine import Ranks
from ialcms.training.step import Experiment
from tests.support import make_batch, small_config


def parameters(module: torch.nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def moved(before: list[torch.Tensor], module: torch.nn.Module) -> bool:
    return any(not torch.equal(a, b) for a, b in zip(before, module.parameters()))


@pytest.mark.parametrize(
    ("batch", "num_mixtures", "num_objects", "lambda_ind"),
    [
        (1, 2, 2, 0.01),  # one sample: while the bank is empty there are no independent pairs
        (1, 1, 2, 0.01),  # a single duet: 2 objects, fewer than the excluded negatives
        (1, 1, 1, 0.0),  # a single object
        (2, 3, 1, 0.01),  # supervised with a critic
        (3, 3, 2, 0.01),  # three duets a mix
    ],
)
def test_odd_batches_learn(batch: int, num_mixtures: int, num_objects: int, lambda_ind: float) -> None:
    config = small_config(
        data={"num_mixtures": num_mixtures, "num_objects": num_objects},
        loss={"lambda_ind": lambda_ind},
        train={"global_batch": batch, "separator_every": 1},
    )
    with Ranks() as ranks:
        experiment = Experiment(config, ranks)
        before = parameters(experiment.separator.module)
        for step in range(3):
            scalars = experiment.step(make_batch(config, step))
            assert all(torch.isfinite(value).all() for value in scalars.values()), scalars
        assert moved(before, experiment.separator.module)
        assert all(p.isfinite().all() for p in experiment.separator.module.parameters())
        assert (experiment.critic is None) == (lambda_ind == 0)
        if batch * num_mixtures * num_objects <= config.loss.excluded_negatives + 1:
            assert float(scalars["loss/consistency"]) == pytest.approx(0.0, abs=1e-6)
        else:
            assert float(scalars["loss/consistency"]) > 0


def run_step(config: Config, step: int) -> tuple[Experiment, bool, bool]:
    with Ranks() as ranks:
        experiment = Experiment(config, ranks)
        assert experiment.critic is not None
        separator, critic = parameters(experiment.separator.module), parameters(experiment.critic.module)
        experiment.step(make_batch(config, step))
        return experiment, moved(separator, experiment.separator.module), moved(critic, experiment.critic.module)


def test_turns() -> None:
    config = small_config(train={"critic_every": 2, "separator_every": 3})
    assert run_step(config, 0)[1:] == (True, True)
    assert run_step(config, 2)[1:] == (False, True)
    assert run_step(config, 3)[1:] == (True, False)
    experiment, *learned = run_step(config, 1)
    assert learned == [False, False]
    assert experiment.bank is not None
    assert int(experiment.bank.filled) == 0


def test_components_enter_the_bank_once_where_both_learn() -> None:
    experiment, *_ = run_step(small_config(train={"separator_every": 1}, loss={"bank_size": 100}), 0)
    assert experiment.bank is not None
    assert int(experiment.bank.filled) == 4 * 2 * 2


def test_critic_is_thawed_after_the_separators_turn() -> None:
    experiment, *_ = run_step(small_config(train={"separator_every": 1}), 0)
    assert experiment.critic is not None
    assert all(p.requires_grad for p in experiment.critic.module.parameters())
    # the separator's loss leaves no gradient in the critic: what is there is the critic's own
    config = small_config(train={"critic_every": 2, "separator_every": 1})
    experiment, separator_learned, critic_learned = run_step(config, 1)
    assert (separator_learned, critic_learned) == (True, False)
    assert experiment.critic is not None
    assert all(p.grad is None for p in experiment.critic.module.parameters())


def test_bf16_step_stays_near_float32() -> None:
    config = small_config(train={"separator_every": 1})
    half = dataclasses.replace(config, train=dataclasses.replace(config.train, precision="bf16"))
    scalars = []
    for version in (config, half):
        with Ranks() as ranks:
            scalars.append(Experiment(version, ranks).step(make_batch(config, 0)))
    exact, rough = scalars
    assert exact.keys() == rough.keys()
    for name in ("loss/separation", "loss/consistency", "loss/critic"):
        assert float(rough[name]) == pytest.approx(float(exact[name]), rel=0.05, abs=0.02), name
        assert float(rough[name]) != float(exact[name]), name
