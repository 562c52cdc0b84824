"""Losses of the critic and, against it, of the separator."""

from __future__ import annotations

import torch
from torch import Tensor


def critic_loss(independent: Tensor, dependent: Tensor, weight_penalty: Tensor, c: float = 1.0) -> Tensor:
    """||w||^2 + C * (mean max(0, 1 - score) over independent + mean max(0, 1 + score) over dependent pairs).

    independent, dependent: scores of the pairs. weight_penalty: ||w||^2. c: C.
    """
    hinge = mean_score(torch.relu(1 - independent)) + mean_score(torch.relu(1 + dependent))
    return weight_penalty + c * hinge


def independence_loss(independent: Tensor, dependent: Tensor) -> Tensor:
    """The separator's side: its dependent pairs should score like independent ones."""
    return mean_score(independent) - mean_score(dependent)


def mean_score(scores: Tensor) -> Tensor:
    """Mean, and 0 where there is no pair: a lone mix has no independent ones before the memory bank has content."""
    return scores.mean() if len(scores) else scores.sum()
