"""What a separator does with a mix, as arrays: sounds, spectrograms, masks, where it looks.

Shapes: M sources of L samples, F x T log-frequency spectrograms, h x w cells of the localisation map.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ialcms.data.evaluation_mixes import EvaluationItem
from ialcms.models import Separator


@dataclass(frozen=True)
class View:
    """One window of a mix as the separator hears and sees it; arrays on the host."""

    names: tuple[str, ...]  # M instruments
    pictures: NDArray[np.uint8]  # (M, 3, side, side)
    localisation: NDArray[np.float32]  # (M, h, w) in (0, 1)
    waves: dict[str, NDArray[np.float32]]  # "mix", "violin target", "violin estimate", ...: (L,)
    levels: dict[str, NDArray[np.float32]]  # the same names: (F, T) in dB
    masks: NDArray[np.float32]  # (M, F, T), at least 0
    seconds: float  # of the window
    row_hz: NDArray[np.float64]  # (F,) the frequency of each row, rising


@torch.inference_mode()
def view_mix(separator: Separator, item: EvaluationItem, sample_rate: int, device: torch.device) -> View:
    """Pass one window, item.sources (M, L), through a separator in evaluation mode.

    sample_rate: of the sources, Hz. device: of the separator.
    """
    sources = torch.as_tensor(item.sources).to(device)
    pictures = torch.as_tensor(item.pictures[:, 0]).to(device)
    output = separator(sources.sum(0, keepdim=True), pictures[None, :, None])
    estimates = separator.component_waves(output, sources.shape[1])[0, :, 0]
    waves = {"mix": sources.sum(0), "sum of estimates": estimates.sum(0)}
    for n, name in enumerate(item.instruments):
        waves |= {f"{name} target": sources[n], f"{name} estimate": estimates[n]}
    spectrogram = separator.spectrogram
    magnitudes = spectrogram.to_log(spectrogram.stft(torch.stack(list(waves.values()))).abs())
    levels = 20 * torch.log10(magnitudes + 1e-7)
    return View(
        names=item.instruments,
        pictures=item.pictures[:, 0],
        localisation=output.localisation[0, :, 0].cpu().numpy(),
        waves={name: wave.cpu().numpy() for name, wave in waves.items()},
        levels={name: level.cpu().numpy() for name, level in zip(waves, levels)},
        masks=output.mask[0, :, 0].float().cpu().numpy(),
        seconds=sources.shape[1] / sample_rate,
        row_hz=spectrogram.to_log.positions().cpu().numpy() * sample_rate / spectrogram.n_fft,
    )
