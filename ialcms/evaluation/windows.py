"""Separating a mix of any length: overlapping windows through the network, masks to sounds, windows joined.

The only code that runs a trained separator on a recording at the network's rate: validation, evaluation and the
report use it. (`ialcms.inference.stems` does the same for recordings of any rate, in bounded memory.)

Shapes: M sources of S samples, P pictures of each, G windows of L samples that pass the network together, Fq x T linear
spectrogram, H x W cells of the visual feature.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ialcms.config import PUBLISHED, Config, ProtocolConfig
from ialcms.evaluation.masking import source_spectra
from ialcms.models import Separator

FADE_FLOOR = 1e-3  # weight at a window's very ends; the sum of weights divides it out


@dataclass(frozen=True)
class Separated:
    """What one protocol makes of a mix."""

    estimates: Tensor  # (M, S) float32
    localisation: Tensor  # (M, H, W) in (0, 1), of the first picture, mean over the windows


def window_starts(num_samples: int, window: int, hop: int) -> list[int]:
    """Windows `hop` samples apart, and one aligned to the end where those do not reach it."""
    if num_samples <= window:
        return [0]
    starts = list(range(0, num_samples - window + 1, hop))
    last = num_samples - window
    return starts if starts[-1] == last else [*starts, last]


def window_weights(join: str, window: int) -> Tensor:
    """(window,) by which a window counts at each of its samples: evenly, or fading in and out without a seam."""
    if join == "mean":
        return torch.ones(window)
    position = (torch.arange(window, dtype=torch.float32) + 0.5) / window
    return torch.sin(math.pi * position).square().clamp(min=FADE_FLOOR)


class MixSeparator:
    """Separates recordings with one separator, in evaluation mode, by one or more protocols at once."""

    def __init__(self, separator: Separator, config: Config, hop: int) -> None:
        """hop: samples between windows. `eval.batch_windows` windows pass the audio networks together."""
        self._separator, self._window, self._hop = separator, config.audio.num_samples, hop
        self._group = config.eval.batch_windows

    @torch.inference_mode()
    def __call__(
        self, mix: Tensor, pictures: Tensor, protocols: Sequence[ProtocolConfig] = (PUBLISHED,)
    ) -> list[Separated]:
        """mix (S,), pictures (M, P, 3, side, side) uint8 -> what each protocol makes of them.

        A protocol takes the first `pictures` ones of each source (all, where there are fewer) and averages their masks.
        Each picture passes the visual net once, and each window the audio encoder. A recording shorter than a window
        is padded with silence at its end.
        """
        num_samples, (num_sources, num_pictures) = len(mix), pictures.shape[:2]
        used = min(num_pictures, max(protocol.pictures for protocol in protocols))
        padded = torch.nn.functional.pad(mix, (0, max(0, self._window - num_samples)))
        starts = window_starts(len(padded), self._window, self._hop)
        visual, _ = self._separator.visual(pictures[:, :used].flatten(0, 1))
        joins = [_Joined(padded, num_sources, window_weights(p.join, self._window)) for p in protocols]
        maps = []
        for first in range(0, len(starts), self._group):
            part = starts[first : first + self._group]
            windows = torch.stack([padded[start : start + self._window] for start in part])
            spectrum = self._separator.spectrogram.stft(windows)
            repeated = visual.repeat(len(part), 1, 1, 1)
            output = self._separator.separate(spectrum, repeated, repeated, objects=(num_sources, used))
            for protocol, join in zip(protocols, joins):
                mask = output.mask[:, :, : protocol.pictures].mean(dim=2)  # (G, M, F, T)
                mask = self._separator.final_masks(mask)
                spectra = source_spectra(self._separator.spectrogram.to_linear(mask), spectrum, protocol)
                join.add(part, self._separator.spectrogram.istft(spectra, self._window))
            maps.append(output.localisation[:, :, 0])
        localisation = torch.cat(maps).mean(0)
        return [Separated(join.result()[:, :num_samples], localisation) for join in joins]


class _Joined:
    """The weighted mean of overlapping windows."""

    def __init__(self, mix: Tensor, num_sources: int, weights: Tensor) -> None:
        self._weights = weights.to(mix.device)
        self._total = mix.new_zeros(num_sources, len(mix))
        self._weight = mix.new_zeros(len(mix))

    def add(self, starts: Sequence[int], waves: Tensor) -> None:
        """waves (G, M, L)."""
        for start, wave in zip(starts, waves):
            inside = slice(start, start + len(self._weights))
            self._total[:, inside] += self._weights * wave
            self._weight[inside] += self._weights

    def result(self) -> Tensor:
        return self._total / self._weight
