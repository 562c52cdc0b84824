"""Levels of a sound that show that something is wrong with it.

Shapes: C channels, n samples.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path

import torch
from torch import Tensor

SILENT = 1e-6  # peak, of full scale
_LOUDEST = 64.0  # times full scale, 36 dB: recorders of floats do go beyond 1, but not so far
_FAR_BEYOND = 1.4  # times full scale, 3 dB; lossy codecs go beyond 1 by less
_CANCELLED = 0.03  # of the channels' level: what is left of it in their mean, -30 dB

log = logging.getLogger(__name__)


class Levels:
    """Peak and energies of a sound that comes in blocks (C, n)."""

    def __init__(self) -> None:
        self.peak = 0.0
        self._beyond = 0  # samples beyond full scale
        self._energy, self._mean_energy = 0.0, 0.0  # of a channel, of the mean of all

    def add(self, block: Tensor) -> None:
        """Take in the next samples (C, n)."""
        if not block.numel():
            return
        loudness = block.abs()
        self.peak = max(self.peak, float(loudness.max()))
        self._beyond += int((loudness > 1).sum())
        self._energy += float(block.square().sum(dtype=torch.float64)) / len(block)
        self._mean_energy += float(block.mean(dim=0).square().sum(dtype=torch.float64))

    def check(self, path: Path) -> None:
        """Raises ValueError for samples that cannot be a sound in floats; warns of unusual levels."""
        if self.peak > _LOUDEST:
            times = 10 ** math.ceil(math.log10(self.peak))
            raise ValueError(
                f"the sound of {path} is up to {times:,} times full scale, which is 1 for floats; its samples may be "
                "whole numbers stored as floats: divide them by 32768, or export it again"
            )
        if self.peak > _FAR_BEYOND:
            log.warning(
                "the sound of %s goes beyond full scale at %d samples (peak %.2f): the stems keep that, the videos cut "
                "it off",
                path,
                self._beyond,
                self.peak,
            )
        if self.peak >= SILENT and self._mean_energy < _CANCELLED**2 * self._energy:
            log.warning(
                "the channels of %s cancel each other: the network hears their mean, which is next to nothing; invert "
                "one channel and separate again",
                path,
            )
