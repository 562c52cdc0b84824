"""Trained separators where they are saved: runs, checkpoints, files of `ialcms export`. One way to find and load them.

Nothing in these files is executed: tensors and plain values are read, with weights_only=True.
"""

from __future__ import annotations

import contextlib
import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ialcms.config import Config, binding_fields, from_dict
from ialcms.models import Separator
from ialcms.models.build import check_memory
from ialcms.published import import_remedy
from ialcms.reading import Unreadable, bare, one_line
from ialcms.reading.tensors import is_plain, read_tensors
from ialcms.reading.weights import read_weights
from ialcms.runs import checkpoint
from ialcms.runs.run_folder import RunFolder

FORMAT, VERSION = "ialcms-separator", 1  # of the files of `ialcms export`
Preference = Literal["best", "newest"]
Weights = dict[str, Tensor]


@dataclass(frozen=True)
class SavedSeparator:
    """A separator as it is saved; its weights are not compared with its configuration yet."""

    source: Path  # a checkpoint's folder, or a file of `ialcms export`
    config: Config  # of an exported one: audio, model, size of the pictures; the rest are defaults
    weights: Weights
    step: int  # at which it was saved
    digest: str  # SHA-256 of the file with the weights


@dataclass(frozen=True)
class LoadedSeparator:
    """A trained separator, ready for use."""

    separator: Separator  # in evaluation mode and without gradients, on its device
    config: Config
    step: int
    device: torch.device
    digest: str


def find_checkpoint(path: Path, prefer: Preference = "best") -> Path:
    """A checkpoint's folder: `path` itself, or that of a run's folder.

    prefer: of a run, the checkpoint of the best validation or the newest complete one. ValueError where there is none;
    a checkpoint's folder that is damaged is returned, so that its reader says what is wrong with it.
    """
    if any((path / name).exists() for name in checkpoint.FILE_NAMES):
        return path
    if path.is_file():
        raise ValueError(import_remedy(path))
    run = RunFolder(path)
    if not (run.config.is_file() or run.checkpoints.is_dir()):
        raise ValueError(
            f"{path} is no run's folder and no checkpoint's; give one, or a file that 'ialcms export' wrote"
        )
    found = checkpoint.best(run.checkpoints) if prefer == "best" else checkpoint.newest(run.checkpoints)
    if found is None and prefer == "best":
        raise ValueError(f"there is no best checkpoint in {run.checkpoints}; train until a validation first")
    if found is None:
        raise ValueError(f"there is no complete checkpoint in {run.checkpoints}; train until one is written first")
    return found


def read_separator(source: Path, config: Config | None = None) -> SavedSeparator:
    """The separator of a run's folder (its best checkpoint), a checkpoint's folder, or a file of `ialcms export`.

    config: that it must have been trained with, as far as sounds and networks go; None: any. ValueError with a remedy.
    """
    if source.is_dir():
        return _from_checkpoint(find_checkpoint(source), config)
    if not source.is_file():
        raise ValueError(f"{source} does not exist; give a run's folder, a checkpoint's, or a file of 'ialcms export'")
    saved = _from_export(source)
    if config is not None:
        _check_same_networks(source, saved.config, config)
    return saved


def load_separator(source: Path, device: torch.device, config: Config | None = None) -> LoadedSeparator:
    """The separator of `source` (see `read_separator`), ready to separate. ValueError with a remedy."""
    saved = read_separator(source, config)
    with torch.device("meta"):  # widths are compared with the weights before memory is asked for
        expected = Separator(saved.config.model, saved.config.audio).state_dict()
    weights = saved.weights
    wrong = [name for name in expected if name not in weights or weights[name].shape != expected[name].shape]
    wrong += [name for name in weights if name not in expected]
    if wrong:
        raise ValueError(
            f"the weights in {saved.source} do not fit their configuration in {len(wrong)} tensors ({bare(wrong[0])}); "
            "use another checkpoint, or export the run again"
        )
    check_memory(saved.config)
    separator = Separator(saved.config.model, saved.config.audio)
    separator.load_state_dict(weights)
    separator = separator.to(device).eval().requires_grad_(False)
    return LoadedSeparator(separator, saved.config, saved.step, device=device, digest=saved.digest)


def _from_checkpoint(folder: Path, config: Config | None) -> SavedSeparator:
    meta = checkpoint.read_meta(folder)
    if config is None:
        config, state = checkpoint.config_of(meta), checkpoint.load_state(folder)
    else:
        state, _ = checkpoint.load(folder, config, manifest_digest=None)
    step, digest = meta["progress"]["step"], meta["state_sha256"]
    return SavedSeparator(folder, config, checkpoint.separator_weights(state), step=step, digest=digest)


def _check_same_networks(path: Path, saved: Config, wanted: Config) -> None:
    """Raises ValueError for an exported file of other sounds or another separator than a run's."""
    theirs, ours = binding_fields(saved), binding_fields(wanted)
    for name in sorted(theirs):
        if name.startswith(("audio.", "model.visual.", "model.unet.")) and theirs[name] != ours[name]:
            raise ValueError(
                f"{path} is of another configuration: {name} was {bare(theirs[name])}, now {ours[name]}; give a "
                "separator of the same run"
            )


def _from_export(path: Path) -> SavedSeparator:
    remedy = "export it again, or copy it again if it came over a network"
    content = _read_export(path, remedy)
    values, weights, step = (content.get(name) for name in ("config", "separator", "step"))
    damaged = f"{path} is damaged (its config, separator or step is of a wrong kind); {remedy}"
    if not isinstance(values, dict) or not isinstance(weights, dict) or type(step) is not int:
        raise ValueError(damaged)
    if not all(map(is_plain, weights.values())):
        raise ValueError(damaged)
    try:
        config = from_dict(values, source="configuration")
    except ValueError as error:
        raise ValueError(f"the configuration in {path} cannot be used here ({error}); {remedy}") from error
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return SavedSeparator(path, config, weights, step=step, digest=digest)


def _read_export(path: Path, remedy: str) -> dict[str, Any]:
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
    return content


def _refuse_other_weights(path: Path) -> None:
    """Raises ValueError for a file that is no export, but that 'ialcms import' can read."""
    with contextlib.suppress(OSError, Unreadable):
        read_weights(path)
        raise ValueError(import_remedy(path))
