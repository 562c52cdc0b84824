"""Checkpoints: everything that a run needs to resume, written so that a kill at any moment leaves a whole one.

    checkpoints/step-00000400/state.pt        tensors and plain values, readable with weights_only=True
    checkpoints/step-00000400/meta.json       progress, binding configuration, digests, size and sha256 of state.pt, and
                                              of itself; written last: it marks the checkpoint complete
    checkpoints/best-00000300/                the same, of the step with the best validation

A folder is written under a temporary name, flushed and renamed. Nothing in it is ever unpickled or executed.

Not torch.distributed.checkpoint or DeepSpeed's own format: those hold a file a rank in the layout of one engine. This
one is whole, so that any number of ranks resumes from it with any engine, and carries its own checksums.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ialcms import __version__
from ialcms.config import FORMER_NAMES, Config, binding_fields, digest, from_dict, unflatten
from ialcms.files import flush_folder, replacing, write_whole
from ialcms.published import import_remedy
from ialcms.reading import Unreadable, bare, one_line, shown
from ialcms.reading.tensors import is_plain, read_tensors
from ialcms.reading.text import read_json

log = logging.getLogger(__name__)

FORMAT, VERSION = "ialcms-checkpoint", 1
NO_MANIFEST = "none"  # instead of a manifest's digest: imported weights were trained on other shards
FILE_NAMES = _STATE, _META = "state.pt", "meta.json"
AVERAGE = "separator_average"  # in a state: the moving average of the separator's weights, where one is kept
_SEAL = "meta_sha256"
_FIELDS = {"progress": dict, "config": dict, "config_digest": str, "manifest_digest": str, "program": str,
           "state_bytes": int, "state_sha256": str}  # fmt: skip
_STEP, _BEST, _DAMAGED, _ABANDONED = "step-", "best-", "damaged-", "abandoned-"

State = dict[str, Any]


@dataclass(frozen=True)
class Progress:
    """Where a run is. Who learns, the loss weights and the data follow from the step."""

    step: int = 0  # finished steps, so the next one to do
    best_score: float | None = None  # best validation SDR in dB
    best_step: int | None = None
    bad_clips: tuple[str, ...] = ()  # keys of those that had to be replaced
    validation_pending: bool = False  # the validation due after this step is not finished

    @classmethod
    def of(cls, meta: dict[str, Any]) -> Progress:
        """That of a checkpoint's meta data. Raises ValueError for values of a wrong kind."""
        values = meta["progress"]
        if not isinstance(values, dict) or values.keys() - cls.__dataclass_fields__.keys() or "step" not in values:
            raise ValueError(f"its progress is {shown(values)}")
        step, score, best_step = values["step"], values.get("best_score"), values.get("best_step")
        bad_clips, pending = values.get("bad_clips", []), values.get("validation_pending", False)
        if type(step) is not int or not 0 <= step < 1 << 53:
            raise ValueError(f"its step is {shown(step)}")
        if score is not None and type(score) not in (int, float):
            raise ValueError(f"its best_score is {shown(score)}")
        if best_step is not None and (type(best_step) is not int or not 0 <= best_step < 1 << 53):
            raise ValueError(f"its best_step is {shown(best_step)}")
        if not isinstance(bad_clips, list) or not all(isinstance(key, str) for key in bad_clips):
            raise ValueError(f"its bad_clips are {shown(bad_clips)}")
        if type(pending) is not bool:
            raise ValueError(f"its validation_pending is {shown(pending)}")
        return cls(step, score, best_step, bad_clips=tuple(bad_clips), validation_pending=pending)


def save(root: Path, config: Config, manifest_digest: str, state: State, progress: Progress) -> Path:
    """Write the checkpoint of a step into `root`, whole or not at all; returns its folder. OSError when it can't.

    config: of the run. manifest_digest: of the data. state: all tensors. progress: with the step that names the folder.
    """
    folder = root / f"{_STEP}{progress.step:08d}"
    # a random name: if another job writes this step here, one of both checkpoints is there then, never a mixture
    temporary = root / f".{folder.name}.{secrets.token_hex(4)}.tmp"
    temporary.mkdir(parents=True)
    try:
        _write_files(temporary, config, manifest_digest, state=state, progress=progress)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)  # on a full disk it would take the room of the next one
        raise
    if folder.exists():  # left by a run that resumed from an older checkpoint
        older = root / f".{folder.name}.{secrets.token_hex(4)}.tmp"
        with contextlib.suppress(FileNotFoundError):
            os.rename(folder, older)
        shutil.rmtree(older, ignore_errors=True)
    os.rename(temporary, folder)
    flush_folder(root)
    return folder


def _write_files(folder: Path, config: Config, manifest_digest: str, state: State, progress: Progress) -> None:
    """Write into an existing `folder`; the other arguments are those of `save`."""
    save_tensors(state, folder / _STATE)
    meta = {
        "format": FORMAT,
        "version": VERSION,
        "program": __version__,
        "progress": dataclasses.asdict(progress),
        "config_digest": digest(config),
        "config": binding_fields(config),
        "manifest_digest": manifest_digest,
        "state_bytes": (folder / _STATE).stat().st_size,
        "state_sha256": _sha256(folder / _STATE),
    }
    with open(folder / _META, "w") as file:
        json.dump(sealed(meta), file, indent=1)
        _flush(file)
    flush_folder(folder)


def amend(root: Path, progress: Progress) -> Path:
    """Put the outcome of a validation into the step's checkpoint, whose state stays as it is; returns its folder.

    ValueError where the step has no complete checkpoint, or when it cannot be written.
    """
    folder = root / f"{_STEP}{progress.step:08d}"
    meta = read_meta(folder) | {"progress": dataclasses.asdict(progress)}
    write_whole(folder / _META, json.dumps(sealed(meta), indent=1))
    return folder


def keep_as_best(folder: Path) -> None:
    """Keep a step checkpoint as the best one too, then delete the best before.

    By hard links, so that no room is taken, or by a copy on a file system that has none.
    """
    root, step = folder.parent, folder.name.removeprefix(_STEP)
    temporary = root / f".{_BEST}{step}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(folder, temporary, copy_function=_link_or_copy)
    shutil.rmtree(root / f"{_BEST}{step}", ignore_errors=True)
    os.rename(temporary, root / f"{_BEST}{step}")
    flush_folder(root)
    for older in _folders(root, _BEST):
        if older.name != f"{_BEST}{step}":
            shutil.rmtree(older)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
        with open(target, "rb+") as file:
            _flush(file)


def restore_best(root: Path, progress: Progress) -> None:
    """Keep the best checkpoint where a kill came between the writing of the checkpoint and that."""
    folder = root / f"{_STEP}{progress.best_step or 0:08d}"
    if is_complete(folder) and not is_complete(root / f"{_BEST}{progress.best_step or 0:08d}"):
        keep_as_best(folder)


def prune(root: Path, keep: int) -> None:
    """Delete all but the newest `keep` step checkpoints, and what killed writers left behind."""
    for folder in _folders(root, _STEP)[:-keep]:
        shutil.rmtree(folder)
    for left in root.glob(".*.tmp"):
        shutil.rmtree(left)


def newest(root: Path) -> Path | None:
    """The newest complete step checkpoint, None where there is none."""
    return next((folder for folder in reversed(_folders(root, _STEP)) if is_complete(folder)), None)


def best(root: Path) -> Path | None:
    """The complete checkpoint of the best validation, None where there is none."""
    return next((folder for folder in reversed(_folders(root, _BEST)) if is_complete(folder)), None)


def newest_intact(root: Path) -> Path | None:
    """The newest step checkpoint whose content is as it was written; damaged ones are named and set aside."""
    while (folder := next(reversed(_folders(root, _STEP)), None)) is not None:
        reason = _damage(folder)
        if reason is None:
            return folder
        aside = _set_aside(folder, _DAMAGED)
        log.warning("checkpoint %s is damaged (%s): set aside as %s, trying the one before", folder, reason, aside.name)
    return None


def abandon_after(root: Path, step: int) -> None:
    """Set the checkpoints after `step` aside: a run that resumes from there writes new ones."""
    for prefix in (_STEP, _BEST):
        for folder in _folders(root, prefix):
            if int(folder.name.removeprefix(prefix)) > step:
                _set_aside(folder, _ABANDONED)


def is_complete(folder: Path) -> bool:
    """Whether a checkpoint was written to its end (not whether its content is intact: see `newest_intact`)."""
    try:
        meta = read_json(folder / _META)
        return bool((folder / _STATE).stat().st_size == meta["state_bytes"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def read_meta(folder: Path) -> dict[str, Any]:
    """The meta data of a complete checkpoint; ValueError when there is none, or a foreign or newer one."""
    if folder.is_file():
        raise ValueError(import_remedy(folder))
    if not is_complete(folder):
        raise ValueError(f"{folder} is not a complete checkpoint (no {_META}, or {_STATE} of another size)")
    meta: dict[str, Any] = read_json(folder / _META)
    if not _is_sealed(meta):
        raise ValueError(f"checkpoint {folder} is damaged ({_META} has changed since it was written); use another one")
    if meta.get("format") != FORMAT or meta.get("version") != VERSION:
        raise ValueError(
            f"checkpoint {folder} has format {bare(meta.get('format'))} {bare(meta.get('version'))}, this program "
            f"reads {FORMAT} {VERSION}; use the program version that wrote it ({bare(meta.get('program', 'unknown'))})"
        )
    if fault := _fault(meta):
        raise ValueError(f"checkpoint {folder} is damaged ({_META}: {fault}); use another one")
    return meta


def _fault(meta: dict[str, Any]) -> str | None:
    """What is wrong with meta data of this version, or None."""
    if missing := _FIELDS.keys() - meta.keys():
        return f"it has no {min(missing)}"
    for name, kind in _FIELDS.items():
        if type(meta[name]) is not kind:
            return f"its {name} is {shown(meta[name])}"
    try:
        Progress.of(meta)
    except ValueError as error:
        return str(error)
    return None


def config_of(meta: dict[str, Any]) -> Config:
    """The configuration that a checkpoint was written with, as far as it determines the networks and the training."""
    try:
        return from_dict(unflatten(meta["config"]), source="checkpoint")
    except ValueError as error:
        raise ValueError(f"the checkpoint's configuration cannot be used here ({error}); use another one") from error


def load(folder: Path, config: Config, manifest_digest: str | None) -> tuple[State, Progress]:
    """State and progress of a checkpoint that a run of `config` resumes from.

    manifest_digest: of the shards, None where only the networks count and not how they were trained. ValueError names
    the first field in which the configuration or the data differ from those that the checkpoint was written with.
    """
    meta = read_meta(folder)
    # a field that the program did not know yet had the value that is its default now
    written = {FORMER_NAMES.get(name, name): value for name, value in meta["config"].items()}
    old, new = binding_fields(Config()) | written, binding_fields(config)
    for name in sorted(old.keys() | new.keys()):
        counts = manifest_digest is not None or name.startswith(("audio.", "model."))
        if counts and old.get(name) != new.get(name):
            raise ValueError(
                f"checkpoint {folder} is of another configuration: {name} was {bare(old.get(name))}, now "
                f"{new.get(name)}; restore the value, or start a new run in another folder (--folder)"
            )
    if manifest_digest is not None and meta["manifest_digest"] not in (manifest_digest, NO_MANIFEST):
        raise ValueError(
            f"checkpoint {folder} was trained on other shards (manifest {meta['manifest_digest']}, now "
            f"{manifest_digest}); correct data.shards, or start a new run in another folder (--folder)"
        )
    return load_state(folder), Progress.of(meta)


def load_state(folder: Path) -> State:
    """The tensors of a complete checkpoint, on the CPU; ValueError when it is damaged."""
    meta = read_meta(folder)
    remedy = "delete it to resume from the one before"
    try:
        if _sha256(folder / _STATE) != meta["state_sha256"]:
            raise Unreadable("its content has changed")
        state: State = read_tensors(folder / _STATE, check_sums=False)
        if not isinstance(state, dict):
            raise Unreadable(f"{_STATE} holds no state")
        check_network(state, "separator")
        for name in {"critic", AVERAGE} & state.keys():
            check_network(state, name)
    except (OSError, Unreadable) as error:
        raise ValueError(f"checkpoint {folder} is damaged ({one_line(error)}); {remedy}") from error
    return state


def separator_weights(state: State) -> dict[str, torch.Tensor]:
    """Of a state, the separator that is used outside training: the moving average where one was kept."""
    part = AVERAGE if AVERAGE in state else "separator"
    weights: dict[str, torch.Tensor] = state[part]["module"]
    return weights


def check_network(state: State, name: str) -> None:
    """Raises Unreadable where a network's part of a state is not a state_dict of tensors."""
    part = state.get(name)
    tensors = part.get("module") if isinstance(part, dict) else None
    if not isinstance(tensors, dict) or not all(map(is_plain, tensors.values())):
        raise Unreadable(f"{_STATE} holds no tensors of the {name}")


@contextlib.contextmanager
def fitting(folder: Path) -> Iterator[None]:
    """Around what takes over a checkpoint's state: ValueError where a network, optimizer or bank refuses its part."""
    try:
        yield
    except (RuntimeError, KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise _misfit(folder, error) from error


def _misfit(folder: Path, error: Exception) -> ValueError:
    line = one_line(str(error).strip().splitlines()[-1] if str(error).strip() else error)
    return ValueError(
        f"checkpoint {folder} does not fit this configuration ({type(error).__name__}: {line}); use another one, or "
        "start a new run in another folder (--folder)"
    )


def save_tensors(state: State, path: Path) -> None:
    """One file of tensors and plain values, written under a temporary name, flushed and renamed."""
    # given a path instead of a file, torch would not say what the system found wrong
    with replacing(path) as temporary, open(temporary, "wb") as file:
        torch.save(state, file)


def sealed(meta: dict[str, Any]) -> dict[str, Any]:
    """The meta data with a checksum of themselves: a changed bit in them would move the run to another step."""
    content = {key: value for key, value in meta.items() if key != _SEAL}
    return content | {_SEAL: hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()}


def _is_sealed(meta: dict[str, Any]) -> bool:
    return _SEAL not in meta or sealed(meta)[_SEAL] == meta[_SEAL]  # the first checkpoints have no such checksum


def _folders(root: Path, prefix: str) -> list[Path]:
    return sorted(folder for folder in root.glob(f"{prefix}*") if folder.is_dir())


def _damage(folder: Path) -> str | None:
    """Why a step checkpoint cannot be resumed from, None where it can."""
    try:
        meta = read_json(folder / _META)
        if (folder / _STATE).stat().st_size != meta["state_bytes"]:
            return f"{_STATE} has another size than when it was written"
        if not _is_sealed(meta):
            return f"the content of {_META} has changed since it was written"
        if meta.get("version") == VERSION and (fault := _fault(meta)):
            return f"{_META}: {fault}"
        if meta.get("version") == VERSION and _sha256(folder / _STATE) != meta["state_sha256"]:
            return f"the content of {_STATE} has changed since it was written"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError, TypeError):
        return f"{_META} cannot be read"
    return None


def _set_aside(folder: Path, prefix: str) -> Path:
    target = folder.with_name(prefix + folder.name)
    shutil.rmtree(target, ignore_errors=True)
    os.rename(folder, target)
    return target


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
