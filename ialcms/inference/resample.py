"""Resampling with torch alone: a machine that only separates needs no torchaudio (the tests compare the two)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ialcms.media.sound import COMMON_RATE, has_filter

_ZEROS = 6  # of the sinc on each side
_CUTOFF = 0.99  # of the lower rate's highest frequency


class Resample:
    """From one whole sample rate to another: a sinc under a Hann window, one filter per phase.

    ValueError for two rates without a filter of a sensible size.
    """

    def __init__(self, rate: int, target_rate: int, device: torch.device) -> None:
        if not has_filter(rate, target_rate):
            raise ValueError(
                f"no filter of a sensible size leads from {rate} to {target_rate} Hz; resample the sound to "
                f"{COMMON_RATE} Hz first"
            )
        common = math.gcd(rate, target_rate)
        self._step, self._phases = rate // common, target_rate // common
        cutoff = min(self._step, self._phases) * _CUTOFF  # per `step` input samples
        self._reach = math.ceil(_ZEROS * self._step / cutoff)  # input samples on each side
        taps = torch.arange(-self._reach, self._reach + self._step, dtype=torch.float64) / self._step
        phases = torch.arange(self._phases, dtype=torch.float64) / self._phases
        distance = ((taps - phases[:, None]) * cutoff).clamp(-_ZEROS, _ZEROS)  # in zeros of the sinc
        window = torch.cos(distance * (math.pi / 2 / _ZEROS)).square()
        filters = torch.sinc(distance) * window * (cutoff / self._step)
        self._filters = filters.float().unsqueeze(1).to(device)  # (phases, 1, taps)

    def __call__(self, wave: Tensor) -> Tensor:
        """(B, n) -> (B, ceil(n * target_rate / rate))."""
        if self._step == self._phases:
            return wave
        padded = torch.nn.functional.pad(wave, (self._reach, self._reach + self._step))
        resampled = torch.nn.functional.conv1d(padded.unsqueeze(1), self._filters, stride=self._step)
        count = -(-wave.shape[-1] * self._phases // self._step)
        return resampled.transpose(1, 2).flatten(1)[:, :count]
