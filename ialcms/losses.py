"""Losses of the separator and the critic.

Shapes: B mixes, M mixtures a mix, L samples, N = B*M*O components of the whole global batch, n of them this rank's,
D channels and H x W cells of the visual feature.
"""

from __future__ import annotations

import torch
from torch import Tensor

_EPS = 1e-8


def si_snr(estimate: Tensor, target: Tensor, cap_db: float = 30.0) -> Tensor:
    """Scale-invariant signal-to-noise ratio in dB over the last axis, softly capped.

    Both are made zero-mean. With p the energy of the projection on the target and e that of the rest, the result is
    10 log10(p / (e + p * 10^(-cap/10) + 1e-8) + 1e-8): a perfect estimate gives the cap, a silent one -80 dB.
    """
    estimate = estimate.float() - estimate.float().mean(dim=-1, keepdim=True)
    target = target.float() - target.float().mean(dim=-1, keepdim=True)
    scale = (estimate * target).sum(-1, keepdim=True) / (target.square().sum(-1, keepdim=True) + _EPS)
    projection = scale * target
    signal = projection.square().sum(-1)
    residual = (estimate - projection).square().sum(-1)
    return 10 * torch.log10(signal / (residual + signal * 10 ** (-cap_db / 10) + _EPS) + _EPS)


def separation_loss(mixture_waves: Tensor, mixtures: Tensor, cap_db: float = 30.0) -> Tensor:
    """- mean SI-SNR in dB between the summed components of each mixture and the mixture, both (B, M, L)."""
    return -si_snr(mixture_waves, mixtures, cap_db).mean()


def similarity(visual: Tensor, audio: Tensor, block: int = 32) -> Tensor:
    """S_ij = max over the cells of picture i of its cosine with sound j.

    visual (n, D, H, W) and audio (N, D), both of unit length over D -> (n, N). The product is taken `block` pictures
    at a time and only the place of each maximum is kept for the backward pass: memory grows with block * N * H * W.
    """
    with torch.autocast(visual.device.type, enabled=False):
        cells = visual.float().flatten(2)
        rows = [(audio.float() @ part).max(dim=2).values for part in cells.split(block)]
    return torch.cat(rows)


def consistency_loss(scores: Tensor, temperature: float = 0.3, excluded_negatives: int = 6) -> Tensor:
    """Audio-visual consistency from the similarities (N, N) of all objects: cross-entropy of the true pair against
    the others, over rows and over columns, half of each.

    The `excluded_negatives` largest negatives of a row are left out, as they are likely to be the same instrument.
    Where none is kept the term is 0, so N <= excluded_negatives + 1 gives 0.
    """
    return 0.5 * (_row_loss(scores, temperature, excluded_negatives)
                  + _row_loss(scores.T, temperature, excluded_negatives))  # fmt: skip


def _row_loss(scores: Tensor, temperature: float, excluded: int) -> Tensor:
    count = len(scores)
    own = torch.eye(count, dtype=torch.bool, device=scores.device)
    largest = scores.detach().masked_fill(own, -torch.inf).topk(min(excluded, count - 1), dim=1, sorted=False).indices
    logits = scores.scatter(1, largest, -torch.inf) / temperature  # no mask of data-dependent shape: no host waits
    return (logits.logsumexp(dim=1) - logits.diagonal()).mean()


def critic_loss(independent: Tensor, dependent: Tensor, weight_penalty: Tensor, c: float = 1.0) -> Tensor:
    """||w||^2 + C * (mean max(0, 1 - score) over independent + mean max(0, 1 + score) over dependent pairs)."""
    hinge = mean_score(torch.relu(1 - independent)) + mean_score(torch.relu(1 + dependent))
    return weight_penalty + c * hinge


def independence_loss(independent: Tensor, dependent: Tensor) -> Tensor:
    """The separator's side: its dependent pairs should score like independent ones."""
    return mean_score(independent) - mean_score(dependent)


def mean_score(scores: Tensor) -> Tensor:
    """Mean, and 0 where there is no pair: a lone mix has no independent ones before the memory bank has content."""
    return scores.sum() / max(1, len(scores))
