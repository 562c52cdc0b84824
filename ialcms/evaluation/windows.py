"""Separating recordings of any length: overlapping windows through the network, estimates averaged.

Shapes: M sources of S samples, L samples a window, H x W cells of the visual feature.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ialcms.config import Config
from ialcms.data.normalise import normalise_objects
from ialcms.models import Separator


@dataclass(frozen=True)
class Separated:
    estimates: Tensor  # (M, S) float32
    localisation: Tensor  # (M, H, W) in (0, 1), mean over the windows


def window_starts(num_samples: int, window: int, hop: int) -> list[int]:
    """Windows every `hop` samples, and one aligned to the end where those do not reach it."""
    if num_samples <= window:
        return [0]
    starts = list(range(0, num_samples - window + 1, hop))
    last = num_samples - window
    return starts if starts[-1] == last else [*starts, last]


@torch.inference_mode()
def separate_recording(separator: Separator, mix: Tensor, pictures: Tensor, config: Config, hop: int) -> Separated:
    """Separate one recording, mix (S,), guided by one picture per source, (M, 3, side, side) uint8.

    The pictures pass the visual net once; `eval.batch_windows` windows pass the audio networks together. A recording
    shorter than a window is padded with silence at its end.
    """
    window = config.audio.num_samples
    num_samples, num_sources = len(mix), len(pictures)
    padded = torch.nn.functional.pad(mix, (0, max(0, window - num_samples)))
    starts = window_starts(len(padded), window, hop)
    visual, _ = separator.visual(normalise_objects(pictures))
    total = padded.new_zeros(num_sources, len(padded))
    count = padded.new_zeros(len(padded))
    maps = []
    for first in range(0, len(starts), config.eval.batch_windows):
        part = starts[first : first + config.eval.batch_windows]
        spectrum = separator.spectrogram.stft(torch.stack([padded[s : s + window] for s in part]))
        repeated = visual.repeat(len(part), 1, 1, 1)
        output = separator.separate(spectrum, repeated, repeated, (num_sources, 1))
        waves = separator.component_waves(output, window).squeeze(2)  # (windows, M, L)
        for start, wave in zip(part, waves):
            total[:, start : start + window] += wave
            count[start : start + window] += 1
        maps.append(output.localisation.squeeze(2))
    estimates = (total / count)[:, :num_samples]
    return Separated(estimates, torch.cat(maps).mean(0))
