"""Checkpoints: everything that a run needs to go on, written so that a kill at any moment leaves a whole one.

checkpoints/step-00000400/state.pt        tensors and plain values, readable with weights_only=True
checkpoints/step-00000400/meta.json       step, digests, binding configuration: written last, so it marks the
                                          checkpoint complete; holds the size of state.pt
checkpoints/best/                         the same, of the step with the best validation
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ialcms import __version__
from ialcms.config import Config, binding_fields, digest

VERSION = 1
_STATE, _META = "state.pt", "meta.json"


@dataclass(frozen=True)
class Progress:
    """Where a run is. Who learns, the loss weights and the data follow from the step."""

    step: int = 0  # finished steps, so the next one to do
    best_score: float | None = None  # best validation SDR in dB
    best_step: int | None = None
    bad_clips: int = 0


def save(folder: Path, config: Config, manifest_digest: str, state: dict[str, Any], progress: Progress) -> None:
    """Write one checkpoint under a temporary name, flush it, rename it to `folder`."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    with open(temporary / _STATE, "wb") as file:
        torch.save(state, file)
        _flush(file)
    meta = {
        "format": "ialcms-checkpoint",
        "version": VERSION,
        "program": __version__,
        "progress": progress.__dict__,
        "config_digest": digest(config),
        "config": binding_fields(config),
        "manifest_digest": manifest_digest,
        "state_bytes": (temporary / _STATE).stat().st_size,
    }
    with open(temporary / _META, "w") as file:
        json.dump(meta, file, indent=1)
        _flush(file)
    if folder.exists():  # a directory cannot be renamed over a full one: move the old one aside for the moment
        old = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        os.rename(folder, old)
        os.rename(temporary, folder)
        shutil.rmtree(old)
    else:
        os.rename(temporary, folder)
    _flush_folder(folder.parent)


def save_tensors(state: dict[str, Any], path: Path) -> None:
    """One file of tensors, written under a temporary name, flushed and renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "wb") as file:
        torch.save(state, file)
        _flush(file)
    os.replace(temporary, path)


def prune(root: Path, keep: int) -> None:
    """Delete all but the newest `keep` step checkpoints and what killed writers left behind."""
    for folder in _steps(root)[:-keep]:
        shutil.rmtree(folder)
    for left in root.glob(".step-*.tmp"):
        shutil.rmtree(left)


def newest(root: Path) -> Path | None:
    """The newest complete step checkpoint, None where there is none."""
    complete = [folder for folder in _steps(root) if _is_complete(folder)]
    return complete[-1] if complete else None


def step_folder(root: Path, step: int) -> Path:
    return root / f"step-{step:08d}"


def read_meta(folder: Path) -> dict[str, Any]:
    """The meta data of a complete checkpoint; ValueError when there is none or of another version."""
    if not _is_complete(folder):
        raise ValueError(f"{folder} is not a complete checkpoint (no {_META}, or {_STATE} of another size)")
    meta: dict[str, Any] = json.loads((folder / _META).read_text())
    if meta.get("version") != VERSION:
        raise ValueError(
            f"checkpoint {folder} has version {meta.get('version')}, this program reads {VERSION}; "
            "use the program version that wrote it"
        )
    return meta


def load(folder: Path, config: Config, manifest_digest: str | None) -> tuple[dict[str, Any], Progress]:
    """State and progress of a checkpoint that a run of `config` goes on from.

    manifest_digest: of the shards, None where their order does not matter. ValueError names the first field in which
    the configuration or the data differ from those that the checkpoint was written with.
    """
    meta = read_meta(folder)
    if meta["config_digest"] != digest(config):
        old, new = meta["config"], binding_fields(config)
        field = next((name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)), "?")
        raise ValueError(
            f"checkpoint {folder} is of another configuration: {field} was {old.get(field)}, now {new.get(field)}; "
            "restore the value, or start a new run in another folder (--folder)"
        )
    if manifest_digest is not None and meta["manifest_digest"] != manifest_digest:
        raise ValueError(
            f"checkpoint {folder} was trained on other shards (manifest {meta['manifest_digest']}, now "
            f"{manifest_digest}); correct data.shards, or start a new run in another folder (--folder)"
        )
    return load_state(folder), Progress(**meta["progress"])


def load_state(folder: Path) -> dict[str, Any]:
    """The tensors of a complete checkpoint, on the CPU."""
    read_meta(folder)
    try:
        state: dict[str, Any] = torch.load(folder / _STATE, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises pickle, zip, Runtime and EOF errors alike for a damaged file
        raise ValueError(f"checkpoint {folder} is damaged; delete it to go on from the one before") from error
    return state


def _steps(root: Path) -> list[Path]:
    return sorted(folder for folder in root.glob("step-*") if folder.is_dir())


def _is_complete(folder: Path) -> bool:
    try:
        meta = json.loads((folder / _META).read_text())
        return bool((folder / _STATE).stat().st_size == meta["state_bytes"])
    except (OSError, ValueError, KeyError):
        return False


def _flush(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
