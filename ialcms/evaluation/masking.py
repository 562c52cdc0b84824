"""From masks to sounds: how the masks of a mix's sources are laid over its spectrogram.

`plain` is the published way: each mask times the mix. Masks are unbounded and the separation loss does not know scale,
so plain estimates have no level of their own, and they do not sum to the mix.

`wiener` is a Wiener filter whose sources' powers are the masks to a power p: source k gets m_k^p / sum_j m_j^p of a
cell (for p = 2 and masks that are magnitudes relative to the mix, the classical filter; for other p, generalised
Wiener filtering: Liutkus and Badeau 2015). Its estimates sum to the mix by construction. Where all masks are zero
the sources share the cell evenly, which is what mixture consistency does there, too.

Mixture consistency (Wisdom et al. 2019, "Differentiable consistency constraints for improved deep speech enhancement",
with equal weights) adds back what plain estimates leave of the mix, the same part to each.

`source_spectra` is for mixes that hold pictured sources alone, as in an evaluation. `stem_masks` is for recordings,
which also hold sounds of nothing pictured: the remainder is one source more, and has what the stems leave of the mix.

Shapes: K sources, Fq x T linear spectrogram, S samples; leading dimensions are free.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ialcms.config import ProtocolConfig

REMAINDER_MASK = 0.4  # of masks at the level of the mix; chosen by experiment, see docs/separate.md
_SHRINKAGE = 0.3  # of the gains of single stems towards the common one; chosen by experiment, see docs/separate.md
_TINY = 1e-30


def source_spectra(masks: Tensor, spectrum: Tensor, protocol: ProtocolConfig) -> Tensor:
    """masks (..., K, Fq, T), at least 0, spectrum complex (..., Fq, T) -> the sources' spectra (..., K, Fq, T)."""
    mix = spectrum.unsqueeze(-3)
    if protocol.masks == "wiener":
        return wiener_masks(masks, protocol.exponent) * mix
    estimates = masks * mix
    if protocol.consistency:
        estimates = estimates + (mix - estimates.sum(-3, keepdim=True)) / masks.shape[-3]
    return estimates


def stem_masks(masks: Tensor, gains: Tensor, protocol: ProtocolConfig) -> Tensor:
    """The masks of stems, for recordings that also hold sounds of nothing pictured; the rest is the remainder's.

    masks (..., K, Fq, T), at least 0; gains (K,) that bring them to the level of the mix -> (..., K, Fq, T).
    `plain` masks are scaled and may sum to more than 1. `wiener` has the remainder as a source more, whose mask is
    REMAINDER_MASK everywhere: the sums are below 1, and where all masks are zero the remainder has everything.
    """
    scaled = masks * gains[:, None, None]
    if protocol.masks == "plain":
        return scaled
    remainder = torch.full_like(scaled[..., :1, :, :], REMAINDER_MASK)
    return wiener_masks(torch.cat([scaled, remainder], dim=-3), protocol.exponent)[..., :-1, :, :]


def wiener_masks(masks: Tensor, exponent: float) -> Tensor:
    """(..., K, Fq, T), at least 0 -> the same shape, which adds up to 1 over the sources in every cell."""
    largest = masks.amax(-3, keepdim=True)
    # relative to the largest, so that no power overflows or vanishes
    powers = (masks / largest.clamp(min=_TINY)).pow(exponent)
    powers = torch.where(largest > _TINY, powers, torch.ones_like(powers))
    return powers / powers.sum(-3, keepdim=True)


def stem_gains(between: Tensor, with_mix: Tensor, protocol: ProtocolConfig) -> Tensor:
    """(K,) gains that bring masks to the level of the mix, at least 0, in float64.

    between (K, K), with_mix (K,): inner products of the plain stems (mask times mix) with each other and with the mix.
    `wiener`: one gain for all, sum_k <s_k, x> / sum_k <s_k, s_k>: the filter asks for the masks' level against the
    remainder alone. `plain`: the least-squares gains of the single stems, which minimise |x - sum_k g_k s_k|^2, with a
    penalty on their distance from the common one. Without it, of two stems that are much alike one would vanish.
    Silent stems get 0.
    """
    between, with_mix = between.double(), with_mix.double()
    power = between.diagonal()
    common = (with_mix.sum() / power.sum().clamp(min=_TINY)).clamp(min=0).expand(len(power))
    if protocol.masks == "wiener":
        return common
    penalty = _SHRINKAGE * power
    floor = 1e-12 * power.max().clamp(min=_TINY)  # so that the matrix can be inverted
    matrix = between + torch.diag(penalty + floor)
    return torch.linalg.solve(matrix, with_mix + penalty * common).clamp(min=0)
