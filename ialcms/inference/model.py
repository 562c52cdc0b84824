"""A trained separator for use: from a run, a checkpoint, or the file that `ialcms export` writes.

from ialcms.inference import load_model
model = load_model("duet.pt")
stems = model.separate(wave, 44_100, pictures)  # (C, n) floats, (K, 3, S, S) uint8 -> (K, C, n)

Nothing in an exported file is executed: it is read with weights_only=True. It needs neither DeepSpeed nor TensorBoard.
"""

from __future__ import annotations

import contextlib
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ialcms.config import Config, from_dict
from ialcms.models import Separator
from ialcms.published import import_remedy
from ialcms.reading import Unreadable, bare, one_line
from ialcms.reading.tensors import is_plain, read_tensors
from ialcms.reading.weights import read_weights
from ialcms.runs import checkpoint

FORMAT, VERSION = "ialcms-separator", 1


@dataclass(frozen=True)
class Model:
    separator: Separator  # in evaluation mode, on its device
    config: Config  # audio, model, size of the pictures; in an exported one the rest are defaults
    step: int  # at which it was saved
    device: torch.device

    @property
    def picture_side(self) -> int:
        """S, in pixels."""
        return self.config.data.image_crop

    def separate(self, wave: Tensor, sample_rate: int, pictures: Tensor, above: str = "share") -> Tensor:
        """wave (C, n) of any length and whole rate, pictures (K, 3, S, S) uint8 -> stems (K, C, n), on the CPU.

        Like `ialcms.inference.separate_file`, for sounds that are in memory. ValueError for other shapes, and
        for a rate from which no filter of a sensible size leads to the network's.
        """
        from ialcms.inference.sound import SoundInfo
        from ialcms.inference.stems import StemMaker

        side = self.picture_side
        if pictures.dim() != 4 or pictures.shape[1:] != (3, side, side) or pictures.dtype != torch.uint8:
            raise ValueError(
                f"pictures are {tuple(pictures.shape)} {pictures.dtype}; give (objects, 3, {side}, {side}) torch.uint8"
            )
        if wave.dim() != 2 or not wave.is_floating_point() or 0 in wave.shape:
            raise ValueError(f"the wave is {tuple(wave.shape)} {wave.dtype}; give (channels, samples) of floats")
        info = SoundInfo(sample_rate, wave.shape[0], wave.shape[1])
        maker = StemMaker(self.separator, self.config, pictures.to(self.device), info, above)
        return torch.cat([stems for _, stems, _ in maker([wave.float().cpu()])], dim=2)


def load_model(source: str | Path, device: str | torch.device | None = None) -> Model:
    """A separator from a run's folder (its best checkpoint), a checkpoint's folder, or an exported file.

    device: like "cuda"; by default a GPU if there is one. Raises ValueError with a remedy.
    """
    source, chosen = Path(source), choose_device(device)
    if source.is_dir():
        config, state, step = _from_folder(source)
    elif source.is_file():
        config, state, step = _from_file(source)
    else:
        raise ValueError(f"{source} does not exist; give a run's folder, a checkpoint's, or a file of 'ialcms export'")
    with torch.device("meta"):  # widths are compared with the weights before memory is asked for
        expected = Separator(config.model, config.audio).state_dict()
    wrong = [name for name in expected if name not in state or state[name].shape != expected[name].shape]
    wrong += [name for name in state if name not in expected]
    if wrong:
        raise ValueError(
            f"the weights in {source} do not fit their configuration in {len(wrong)} tensors ({bare(wrong[0])}); "
            "export the run again"
        )
    separator = Separator(config.model, config.audio)
    separator.load_state_dict(state)
    return Model(separator.to(chosen).eval().requires_grad_(False), config, step, chosen)


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


def checkpoint_folder(source: Path) -> Path:
    """A checkpoint's folder: `source` itself, or the best one of a run's folder. ValueError where there is none."""
    if any((source / name).exists() for name in checkpoint.FILE_NAMES):
        return source
    from ialcms.runs.run_folder import RunFolder

    run = RunFolder(source)
    if not (run.config.is_file() or run.checkpoints.is_dir()):
        raise ValueError(
            f"{source} is no run's folder and no checkpoint's; give one, or a file that 'ialcms export' wrote"
        )
    return run.best_checkpoint()


def _from_folder(source: Path) -> tuple[Config, dict[str, Any], int]:
    folder = checkpoint_folder(source)
    meta = checkpoint.read_meta(folder)
    state = checkpoint.separator_weights(checkpoint.load_state(folder))
    return checkpoint.config_of(meta), state, meta["progress"]["step"]


def _from_file(path: Path) -> tuple[Config, dict[str, Any], int]:
    remedy = "export it again, or copy it again if it came over a network"
    try:
        content = read_tensors(path)
    except (OSError, Unreadable) as error:
        _refuse_other_weights(path)
        what = "no file of 'ialcms export'" if zipfile.is_zipfile(path) else "no whole file of 'ialcms export'"
        what = "damaged" if "checksum" in str(error) else what
        raise ValueError(f"{path} is {what} ({one_line(error)}); {remedy}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        _refuse_other_weights(path)
        raise ValueError(
            f"{path} holds no exported separator; write one with 'ialcms export RUN --out FILE' "
            "('ialcms checkpoint export' writes the published names, for other programs)"
        )
    if content.get("version") != VERSION:
        raise ValueError(
            f"{path} has format {FORMAT} {bare(content.get('version'))}, this program reads {VERSION}; use the program "
            f"version that wrote it ({bare(content.get('program', 'unknown'))}), or export again with this one"
        )
    values, state, step = (content.get(name) for name in ("config", "separator", "step"))
    if not isinstance(values, dict) or not isinstance(state, dict) or type(step) is not int or not (
        all(map(is_plain, state.values()))
    ):  # fmt: skip
        raise ValueError(f"{path} is damaged (its config, separator or step is of a wrong kind); {remedy}")
    try:
        return from_dict(values, source="configuration"), state, step
    except ValueError as error:
        raise ValueError(f"the configuration in {path} cannot be used here ({error}); {remedy}") from error


def _refuse_other_weights(path: Path) -> None:
    """Raises ValueError for a file that is no export, but that 'ialcms import' can read."""
    with contextlib.suppress(OSError, Unreadable):
        read_weights(path)
        raise ValueError(import_remedy(path))
