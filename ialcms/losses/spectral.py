"""Multi-resolution STFT loss: what SI-SNR does not see, the magnitudes of a sound at several resolutions.

For one window length, with S the target's magnitudes and E the estimate's (frames x bins, Hann window, hop a quarter of
the window, no padding):

    || S - E || / || S ||  +  mean | log S - log E |        (spectral convergence, log magnitude)

and the loss is the mean over window lengths and sounds. The norms are Frobenius norms of one sound each, so the loss of
a batch is the mean over its sounds, however they are spread over ranks and micro-batches. Unlike SI-SNR it depends on
the level of the estimate. Magnitudes are floored at `FLOOR`, so that silence has a finite logarithm; against a silent
target the first term is left out.

Source: Yamamoto, Song and Kim 2020, "Parallel WaveGAN", section 2.2, after Arik, Jun and Diamos 2019, "Fast Spectrogram
Inversion using Multi-head Convolutional Neural Networks".

Shapes: n sounds of L samples.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

FLOOR = 1e-3  # of a magnitude; a sine of amplitude 1 has a quarter of the window length
_OVERLAP = 4  # hops in a window


def spectral_loss(estimate: Tensor, target: Tensor, windows: Sequence[int]) -> Tensor:
    """The loss of estimates against targets, both (..., L); windows: lengths in samples, multiples of 4, at most L."""
    with torch.autocast(estimate.device.type, enabled=False):
        estimates, targets = (waves.flatten(0, -2) for waves in (estimate, target))
        estimates, targets = estimates.to(targets.dtype), targets
        return torch.stack([_at_resolution(estimates, targets, window) for window in windows]).mean()


def _at_resolution(estimate: Tensor, target: Tensor, window: int) -> Tensor:
    estimated, wanted = _magnitudes(estimate, window), _magnitudes(target, window)
    norm = torch.linalg.vector_norm(wanted, dim=(1, 2))
    silent = norm <= FLOOR * wanted[0].numel() ** 0.5
    convergence = torch.linalg.vector_norm(wanted - estimated, dim=(1, 2)) / norm
    logarithms = (wanted.log() - estimated.log()).abs().mean(dim=(1, 2))
    return (torch.where(silent, 0.0, convergence) + logarithms).mean()


def _magnitudes(waves: Tensor, window: int) -> Tensor:
    """(n, L) -> (n, frames, window // 2 + 1).

    Frames are cut as `_OVERLAP` series that do not overlap in themselves: the gradient of overlapping views, as of
    torch.stft, is summed by atomic additions on a GPU, in an order that changes from run to run.
    """
    hop = window // _OVERLAP
    starts = [start for start in range(0, window, hop) if start + window <= waves.shape[1]]
    counts = [(waves.shape[1] - start) // window for start in starts]
    series = [waves[:, start : start + count * window] for start, count in zip(starts, counts)]
    frames = torch.cat([part.unflatten(1, (-1, window)) for part in series], dim=1)
    taper = torch.hann_window(window, device=waves.device, dtype=waves.dtype)
    spectrum = torch.view_as_real(torch.fft.rfft(frames * taper))
    return spectrum.square().sum(-1).clamp(min=FLOOR**2).sqrt()
