"""STFT, its inverse, and the warp between linear and log-spaced frequency rows.

Shapes: L samples, Fq linear bins (n_fft // 2 + 1), F log-spaced bins, T frames; leading dimensions are free.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ialcms.config import AudioConfig

# The log rows sample the linear rows at y = (21^((v + 1) / 2) - 11) / 10 for v evenly in [-1, 1], in coordinates
# where -1 is the first and 1 the last row ("aligned corners"), with linear interpolation: the published warp.
_BASE = 21.0


class Spectrogram(nn.Module):
    """The audio front end. Always computes in float32, whatever autocast says: phases do not survive 16 bits."""

    window: Tensor
    envelope: Tensor

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        self.n_fft, self.hop = config.n_fft, config.hop
        num_bins = config.n_fft // 2 + 1
        self.register_buffer("window", torch.hann_window(config.n_fft, periodic=True), persistent=False)
        self._num_frames = config.num_frames
        self.register_buffer("envelope", self._envelope(config.num_frames), persistent=False)
        v = torch.linspace(-1, 1, config.log_bins, dtype=torch.float64)
        to_log = (_BASE ** ((v + 1) / 2) - 11) / 10
        v = torch.linspace(-1, 1, num_bins, dtype=torch.float64)
        to_linear = 2 * torch.log(10 * v + 11) / math.log(_BASE) - 1
        self.to_log = RowResample(to_log, num_bins)
        self.to_linear = RowResample(to_linear, config.log_bins)

    def stft(self, wave: Tensor) -> Tensor:
        """(..., L) -> complex (..., Fq, T): centred, reflect padding, periodic Hann, no normalisation."""
        with torch.autocast(wave.device.type, enabled=False):
            flat = wave.float().reshape(-1, wave.shape[-1])
            spectrum = torch.stft(
                flat, self.n_fft, self.hop, window=self.window, center=True, pad_mode="reflect", return_complex=True
            )
        return spectrum.reshape(*wave.shape[:-1], *spectrum.shape[-2:])

    def istft(self, spectrum: Tensor, num_samples: int) -> Tensor:
        """complex (..., Fq, T) -> (..., num_samples), zeros beyond the last frame.

        Frames are windowed and added up, and divided by the sum of the squared windows. torch's own looks at that sum
        for zeros, for which the host has to wait for the device.
        """
        with torch.autocast(spectrum.device.type, enabled=False):
            flat = spectrum.reshape(-1, *spectrum.shape[-2:])
            frames = torch.fft.irfft(flat, n=self.n_fft, dim=1) * self.window.unsqueeze(1)
            num_frames, start = frames.shape[2], self.n_fft // 2  # frames are centred
            envelope = self.envelope if num_frames == self._num_frames else self._envelope(num_frames)
            length = min(num_samples, self.hop * (num_frames - 1) + self.n_fft - start)
            wave = _OverlapAdd.apply(frames, self.hop)[:, start : start + length] / envelope[start : start + length]
            wave = F.pad(wave, (0, num_samples - length))
        return wave.reshape(*spectrum.shape[:-2], num_samples)

    def _envelope(self, num_frames: int) -> Tensor:
        """Sum of the squared windows of so many frames, as `_OverlapAdd` lays them."""
        frames = self.window.square().view(1, -1, 1).expand(-1, -1, num_frames)
        return _OverlapAdd.apply(frames, self.hop)[0].clamp(min=1e-11)  # type: ignore[no-any-return]


class _OverlapAdd(torch.autograd.Function):
    """Frames added up, each `hop` samples after the one before: one launch, and a view of the gradient."""

    @staticmethod
    def forward(ctx: Any, frames: Tensor, hop: int) -> Tensor:
        """(n, n_fft, T) -> (n, (T - 1) * hop + n_fft)."""
        _, size, count = frames.shape
        ctx.size, ctx.hop = size, hop
        return F.fold(frames, (1, (count - 1) * hop + size), (1, size), stride=(1, hop)).flatten(1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0].unfold(1, ctx.size, ctx.hop).transpose(1, 2), None


class RowResample(nn.Module):
    """Linear interpolation between rows: (..., rows, T) -> (..., len(positions), T), in float32.

    positions: rows to sample, in [-1, 1] coordinates with aligned corners.
    """

    lower: Tensor
    weight: Tensor

    def __init__(self, positions: Tensor, num_rows: int) -> None:
        super().__init__()
        position = ((positions.double() + 1) / 2 * (num_rows - 1)).clamp(0, num_rows - 1)
        lower = position.floor().clamp(max=num_rows - 2)
        self.register_buffer("lower", lower.long(), persistent=False)
        self.register_buffer("weight", (position - lower).float().unsqueeze(-1), persistent=False)

    def positions(self) -> Tensor:
        """(len(positions),) float64: the row that each output row samples, with its fraction."""
        return self.lower.double() + self.weight.squeeze(-1).double()

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()
        below = x.index_select(-2, self.lower)
        above = x.index_select(-2, self.lower + 1)
        return torch.lerp(below, above, self.weight)
