"""The separation loss: scale-invariant signal-to-noise ratio.

Shapes: B mixes, M mixtures a mix, L samples.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

_EPS = 1e-8


def si_snr(estimate: Tensor, target: Tensor, cap_db: float = 30.0) -> Tensor:
    """Scale-invariant signal-to-noise ratio in dB over the last axis, softly capped.

    Both are made zero-mean. With p the energy of the projection on the target and e that of the rest, the result is
    10 log10(p / (e + p * 10^(-cap/10) + 1e-8) + 1e-8): a perfect estimate gives the cap, a silent one -80 dB.
    """
    return _SiSnr.apply(estimate, target, 10 ** (-cap_db / 10))  # type: ignore[no-any-return]


class _SiSnr(torch.autograd.Function):
    """With the gradient at the estimate in closed form, in half the launches. None for the target."""

    @staticmethod
    def forward(ctx: Any, estimate: Tensor, target: Tensor, floor: float) -> Tensor:
        """estimate, target: (..., L). floor: of the rest, as a share of the signal."""
        exact = torch.promote_types(estimate.dtype, torch.float32)
        ctx.dtype = estimate.dtype
        estimate, target = estimate.to(exact), target.to(exact)
        estimate = estimate - estimate.mean(dim=-1, keepdim=True)
        target = target - target.mean(dim=-1, keepdim=True)
        energy = target.square().sum(-1, keepdim=True) + _EPS
        scale = (estimate * target).sum(-1, keepdim=True) / energy
        projection = scale * target
        rest = estimate - projection
        signal, residual = projection.square().sum(-1, keepdim=True), rest.square().sum(-1, keepdim=True)
        whole = residual + signal * floor + _EPS
        ratio = signal / whole + _EPS
        ctx.save_for_backward(target, energy, scale, rest, signal, whole, ratio)
        ctx.floor = floor
        return 10 * torch.log10(ratio).squeeze(-1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        target, energy, scale, rest, signal, whole, ratio = ctx.saved_tensors
        # With r = signal / whole: dr/d_residual = -r / whole, dr/d_signal = (1 - floor * r) / whole.
        at_ratio = gradients[0].unsqueeze(-1) * (20 / math.log(10)) / (ratio * whole)  # twice, for the squares
        at_residual = -at_ratio * signal / whole
        at_signal = torch.add(at_ratio, at_residual, alpha=ctx.floor)
        # The projection moves by target * (target . d) / energy, and target . rest is scale * _EPS.
        along = scale * (at_signal * (1 - _EPS / energy) - at_residual * (_EPS / energy))
        # Of zero mean, as target and rest are: the mean that is taken off the estimate has no part in it.
        return torch.addcmul(along * target, at_residual, rest).to(ctx.dtype), None, None


def separation_loss(mixture_waves: Tensor, mixtures: Tensor, cap_db: float = 30.0) -> Tensor:
    """- mean SI-SNR in dB between the summed components of each mixture and the mixture, both (B, M, L)."""
    return -si_snr(mixture_waves, mixtures, cap_db).mean()
