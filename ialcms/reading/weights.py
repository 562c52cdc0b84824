"""Weights as people have them: a state_dict, alone or in a training program's checkpoint, with wrappers' prefixes."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ialcms.reading.tensors import is_plain, read_tensors
from ialcms.reading.words import Unreadable

# Keys of the state_dict in checkpoints of Lightning, torchvision's references, usual hand-written programs, our own.
_KEYS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "module", "weights", "params",
         "separator")  # fmt: skip
_DEEPEST = 3  # levels of nested dictionaries
_WRAPPERS = ("module", "_orig_mod")  # what DistributedDataParallel and torch.compile put into every name


@dataclass(frozen=True)
class Weights:
    """Tensors by name, as they were found in a file."""

    state: dict[str, Tensor]
    notes: tuple[str, ...] = ()  # which part of the file was taken and what was stripped, for the log
    content: Any = None  # all that the file holds

    def under(self, prefix: str) -> Weights:
        """The part whose names begin with `prefix`, without it."""
        if not prefix:
            return self
        state = {name.removeprefix(prefix): value for name, value in self.state.items() if name.startswith(prefix)}
        left = len(self.state) - len(state)
        return Weights(state, (*self.notes, f"took '{prefix}*'" + (f" and left {left} other tensors" if left else "")))

    def prefixes_of(self, names: Collection[str]) -> list[str]:
        """The prefixes under which the file has all of `names`; buffers that count batches may be missing."""
        wanted = [name for name in names if not name.endswith("num_batches_tracked")]
        first = wanted[0]
        candidates = [name[: -len(first)] for name in self.state if name == first or name.endswith(f".{first}")]
        return [prefix for prefix in candidates if self._has_all(wanted, prefix)]

    def _has_all(self, names: Collection[str], prefix: str) -> bool:
        return all(prefix + name in self.state for name in names)

    def __str__(self) -> str:
        return "; ".join(self.notes)


def read_weights(path: Path) -> Weights:
    """The tensors of a file by name: the state_dict that it is or holds, without the prefixes of wrappers.

    Raises Unreadable when it holds none, or would need code to be run, and OSError where the file system refuses.
    """
    with open(path, "rb") as file:
        start = file.read(16)
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= path.stat().st_size:
        raise Unreadable("a safetensors file; convert it: torch.save(safetensors.torch.load_file(FILE), 'weights.pt')")
    return weights_in(read_tensors(path, foreign=True))


def weights_in(content: Any) -> Weights:
    """The state_dict that `content` is or holds. Raises Unreadable when there is none."""
    found_at = _find(content, ())
    if found_at is None:
        raise Unreadable("it holds no state_dict of tensors")
    state, keys = found_at
    tensors = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
    if unusable := [name for name, value in tensors.items() if not is_plain(value)]:
        raise Unreadable(f"it holds no plain tensor as {unusable[0]}")
    notes = [f"took '{'.'.join(keys)}'"] if keys else []
    stripped = {name: _without_wrappers(name) for name in tensors}
    found = sorted({part for name in tensors for part in name.split(".")[:-1] if part in _WRAPPERS})
    if found and len(set(stripped.values())) == len(tensors):
        tensors = {stripped[name]: value for name, value in tensors.items()}
        notes.append(f"stripped {' and '.join(repr(f'{part}.') for part in found)} from its names")
    return Weights(tensors, tuple(notes), content)


def _find(content: Any, keys: tuple[str, ...]) -> tuple[dict, tuple[str, ...]] | None:
    """A dictionary with tensors in it, and the keys that lead to it from `content`."""
    if not isinstance(content, dict):
        return None
    if len(keys) < _DEEPEST:
        for key in _KEYS:
            if isinstance(content.get(key), dict) and (found := _find(content[key], (*keys, key))) is not None:
                return found
    return (content, keys) if _has_tensors(content.values()) else None


def _has_tensors(values: Iterable[Any]) -> bool:
    return any(isinstance(value, Tensor) for value in values)


def _without_wrappers(name: str) -> str:
    *parts, last = name.split(".")
    return ".".join([*(part for part in parts if part not in _WRAPPERS), last])
