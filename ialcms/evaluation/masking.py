"""From masks to sounds: how the masks of a mix's sources are laid over its spectrogram.

`plain` is the published way: each mask times the mix. Masks are unbounded and the separation loss does not know scale,
so plain estimates have no level of their own, and they do not add up to the mix.

`wiener` is a Wiener filter whose sources' powers are the masks to a power p: source k gets m_k^p / sum_j m_j^p of every
cell (for p = 2 and masks that are magnitudes relative to the mix, the classical filter; for other p, generalised
Wiener filtering: Liutkus and Badeau 2015). Its estimates add up to the mix by construction. Where all masks are zero
the sources share the cell evenly, which is what mixture consistency does there, too.

Mixture consistency (Wisdom et al. 2019, "Differentiable consistency constraints for improved deep speech enhancement",
with equal weights) adds what plain estimates leave of the mix back, the same part to each.

Shapes: K sources, Fq x T linear spectrogram, S samples; leading dimensions are free.
"""

from __future__ import annotations

import torch
from scipy.optimize import nnls
from torch import Tensor

from ialcms.config import ProtocolConfig

REMAINDER_MASK = 0.3  # of masks at the level of the mix; chosen by experiment, see docs/separate.md
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


def least_squares_gains(stems: Tensor, mix: Tensor) -> Tensor:
    """stems (K, S), mix (S,) -> (K,) gains, at least 0, with which the stems come closest to the mix.

    Silent stems, and stems that would have to be inverted, get 0.
    """
    return gains_from_products((stems @ stems.T).double(), (stems @ mix).double()).to(stems.dtype)


def gains_from_products(between: Tensor, with_mix: Tensor) -> Tensor:
    """`least_squares_gains` from the inner products of the stems, (K, K), and of stems and mix, (K,), in float64."""
    gains = torch.zeros(len(with_mix), dtype=torch.float64)
    power = between.diagonal().cpu()
    heard = (power > 1e-12 * power.max().clamp(min=_TINY)).nonzero().squeeze(1)
    if len(heard):
        matrix = between.cpu()[heard][:, heard]
        matrix = matrix + 1e-9 * matrix.diagonal().mean() * torch.eye(len(heard), dtype=torch.float64)  # equal stems
        factor = torch.linalg.cholesky(matrix)
        target = torch.linalg.solve_triangular(factor, with_mix.cpu()[heard, None], upper=False)
        solution, _ = nnls(factor.T.numpy(), target.squeeze(1).numpy())
        gains[heard] = torch.from_numpy(solution)
    return gains
