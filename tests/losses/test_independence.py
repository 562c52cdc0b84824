"""Losses of the critic and against it."""

from __future__ import annotations

import pytest
import torch

from ialcms import losses


def test_critic_loss_and_its_hinge() -> None:
    independent = torch.tensor([2.0, 0.5], requires_grad=True)
    dependent = torch.tensor([-3.0, -0.5], requires_grad=True)
    loss = losses.critic_loss(independent, dependent, torch.tensor(0.25), c=2.0)
    assert float(loss) == pytest.approx(0.25 + 2 * (0.5 / 2 + 0.5 / 2))
    loss.backward()
    # beyond the margin there is no pull
    assert independent.grad.tolist() == [0.0, -1.0]
    assert dependent.grad.tolist() == [0.0, 1.0]


def test_no_independent_pairs_leave_the_dependent_ones() -> None:
    none, dependent = torch.zeros(0), torch.tensor([0.5, -2.0])
    assert float(losses.critic_loss(none, dependent, torch.tensor(0.0))) == pytest.approx(0.75)
    assert float(losses.independence_loss(none, dependent)) == pytest.approx(0.75)


def test_independence_loss_pulls_dependent_scores_up() -> None:
    independent = torch.tensor([0.3, 0.1], requires_grad=True)
    dependent = torch.tensor([-0.2, 0.0], requires_grad=True)
    loss = losses.independence_loss(independent, dependent)
    assert float(loss) == pytest.approx(0.3)
    loss.backward()
    assert dependent.grad.tolist() == [-0.5, -0.5]
