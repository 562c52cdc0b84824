"""BSS Eval v3 (Vincent, Gribonval & Fevotte 2006) in float64 on the sounds' own device, for validation while training.

The same figures as mir_eval's `bss_eval_sources` without permutation, to 1e-6 dB and better, in a fraction of the time:
the correlations of the references are factorised once, for all estimates and for the mix as an estimate.

Shapes: M references and estimates of S samples, J taps of the distortion filters, E signals to project.
"""

from __future__ import annotations

import scipy.fft
import torch
from torch import Tensor

from ialcms.evaluation.metrics import MixScores, find_problem, mix_scores

TAPS = 512


def score_mix_fast(references: Tensor, estimates: Tensor) -> MixScores:
    """`ialcms.evaluation.metrics.score_mix` for tensors (M, S) on any device."""
    problem = find_problem(references, estimates)
    if problem:
        return MixScores(tuple({} for _ in references), problem)
    references, estimates = references.double(), estimates.double()
    mix = references.sum(0, keepdim=True)
    of_estimates, of_mix = bss_eval(references, estimates, mix)
    return mix_scores(of_estimates.cpu().numpy(), of_mix.cpu().numpy())


def bss_eval(references: Tensor, estimates: Tensor, mix: Tensor, taps: int = TAPS) -> tuple[Tensor, Tensor]:
    """SDR, SIR, SAR in dB, (3, M) each: of each estimate for the reference of the same index, and of the mix for each.

    references, estimates (M, S), mix (1, S): float64, none of them silent. An estimate's error is what no filter of
    `taps` taps of its reference explains; what filters of the other references explain of it is interference.
    """
    num_sources, num_samples = references.shape
    length = num_samples + taps - 1  # of the filtered references
    size = scipy.fft.next_fast_len(length + 1, real=True)
    signals = torch.cat([estimates, mix])
    reference_spectra, signal_spectra = torch.fft.rfft(references, size), torch.fft.rfft(signals, size)

    gram = _gram(reference_spectra, size, taps)
    # (M, E, J): of each signal with each reference delayed by 0 ... J-1 samples
    correlations = torch.fft.irfft(reference_spectra.conj()[:, None] * signal_spectra, size)[..., :taps]

    explained = _solve(gram, correlations.transpose(0, 1).flatten(1).T).T  # (E, M*J): filters of all references
    explained = _filter(reference_spectra, explained.unflatten(1, (num_sources, taps)), size=size, length=length)
    own_estimate, own_mix = [], []
    for n in range(num_sources):
        block = gram[n * taps : (n + 1) * taps, n * taps : (n + 1) * taps]
        filters = _solve(block, correlations[n, [n, num_sources]].T).T  # (2, J): for the estimate and for the mix
        own = _filter(reference_spectra[n : n + 1], filters.unsqueeze(1), size=size, length=length)
        own_estimate.append(own[0])
        own_mix.append(own[1])
    padded = torch.nn.functional.pad(signals, (0, taps - 1))
    return (
        _ratios(padded[:-1], torch.stack(own_estimate), explained[:-1]),
        _ratios(padded[-1:], torch.stack(own_mix), explained[-1:]),
    )


def _gram(spectra: Tensor, size: int, taps: int) -> Tensor:
    """(M*J, M*J): inner products of the references delayed by 0 ... J-1 samples."""
    num_sources = len(spectra)
    correlation = torch.fft.irfft(
        spectra.conj()[:, None] * spectra, size
    )  # (M, M, size): [i, j, k] = <s_i(t), s_j(t+k)>
    delay = torch.arange(taps, device=spectra.device)
    blocks = correlation[:, :, (delay[:, None] - delay) % size]  # (M, M, J, J)
    return blocks.transpose(1, 2).reshape(num_sources * taps, num_sources * taps)


def _solve(matrix: Tensor, right: Tensor) -> Tensor:
    """Solve a symmetric system that is positive definite but for rounding, one matrix at a time: a batched
    factorisation of this size can hang torch on several CPU threads."""
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if not failed:
        return torch.cholesky_solve(right, factor)
    solution, failed = torch.linalg.solve_ex(matrix, right)
    # Singular: a reference that is a sum of few sinusoids, say. Any solution of least squares gives the projection.
    return torch.linalg.lstsq(matrix.cpu(), right.cpu(), driver="gelsd").solution.to(right) if failed else solution


def _filter(spectra: Tensor, filters: Tensor, size: int, length: int) -> Tensor:
    """Sum of the references filtered: spectra (M, bins), filters (E, M, J) -> (E, length). size: of the FFTs."""
    return torch.fft.irfft((torch.fft.rfft(filters, size) * spectra).sum(1), size)[:, :length]


def _ratios(signal: Tensor, own: Tensor, explained: Tensor) -> Tensor:
    """(3, M): SDR, SIR, SAR from signals, their projections on their own reference and on all references."""
    energy = own.square().sum(1)
    return 10 * torch.stack(
        [
            torch.log10(energy / (signal - own).square().sum(1)),
            torch.log10(energy / (explained - own).square().sum(1)),
            torch.log10(explained.square().sum(1) / (signal - explained).square().sum(1)).expand(len(own)),
        ]
    )
