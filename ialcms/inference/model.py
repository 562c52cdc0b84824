"""A trained separator for use: from a run, a checkpoint, or the file that `ialcms export` writes.

from ialcms.inference import load_model
model = load_model("duet.pt")
stems = model.separate(wave, 44_100, pictures)  # (C, n) floats, (K, 3, S, S) uint8 -> (K, C, n)

Shapes: K objects, P pictures of each, S their side; C channels of n samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ialcms.config import ProtocolConfig
from ialcms.inference.sound import SoundInfo
from ialcms.inference.stems import BEST, StemMaker
from ialcms.runs.separators import LoadedSeparator, load_separator


@dataclass(frozen=True)
class Model(LoadedSeparator):
    """In an exported one, the configuration holds audio, model and the size of the pictures; the rest are defaults."""

    @property
    def picture_side(self) -> int:
        """S, in pixels."""
        return self.config.data.image_crop

    def separate(
        self,
        wave: Tensor | NDArray[np.floating],
        sample_rate: int,
        pictures: Tensor | NDArray[np.uint8],
        *,
        above: str = "share",
        protocol: ProtocolConfig = BEST,
    ) -> Tensor:
        """wave (C, n) of any length, pictures (K, 3, S, S) or (K, P, 3, S, S) uint8 -> stems (K, C, n), on the CPU.

        Like `ialcms.inference.separate_file`, for sounds that are in memory: tensors or NumPy arrays. What the stems
        leave of the wave is the remainder. sample_rate: whole, in Hz. above, protocol: as there. ValueError for other
        shapes and kinds, and for a rate from which no filter of a sensible size leads to the network's.
        """
        wave, pictures = torch.as_tensor(wave), torch.as_tensor(pictures)
        side = self.picture_side
        if pictures.dim() not in (4, 5) or pictures.shape[-3:] != (3, side, side) or pictures.dtype != torch.uint8:
            raise ValueError(
                f"pictures are {tuple(pictures.shape)} {pictures.dtype}; give (objects, 3, {side}, {side}), or "
                f"(objects, pictures, 3, {side}, {side}), of uint8"
            )
        if wave.dim() != 2 or not wave.is_floating_point() or 0 in wave.shape:
            raise ValueError(f"the wave is {tuple(wave.shape)} {wave.dtype}; give (channels, samples) of floats")
        pictures = pictures if pictures.dim() == 5 else pictures.unsqueeze(1)
        info = SoundInfo(sample_rate, wave.shape[0], wave.shape[1])
        maker = StemMaker(
            self.separator, self.config, pictures.to(self.device), info=info, above=above, protocol=protocol
        )
        sound = wave.float().cpu()
        return torch.cat([piece.stems for piece in maker(lambda: [sound])], dim=2)


def load_model(source: str | Path, device: str | torch.device | None = None) -> Model:
    """A separator from a run's folder (its best checkpoint), a checkpoint's folder, or an exported file.

    device: like "cuda"; by default a GPU if there is one. Raises ValueError with a remedy.
    """
    loaded = load_separator(Path(source), choose_device(device))
    return Model(loaded.separator, loaded.config, loaded.step, device=loaded.device, digest=loaded.digest)


def choose_device(name: str | torch.device | None) -> torch.device:
    """A device by its name, or a GPU if there is one; ValueError for one that this machine does not have."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device '{name}' cannot be used here ({reason}); use cpu, or leave --device out") from error
    return device
