"""Weights as people have them: a state_dict, alone or in a training program's checkpoint, with wrappers' prefixes."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ialcms.reading.tensors import read_tensors
from ialcms.reading.words import Unreadable

# Where training programs put the state_dict: Lightning, torchvision's references, usual hand-written ones, our own.
_PLACES = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "module", "weights", "params",
           "separator")  # fmt: skip
_DEEPEST = 3  # places within places
_WRAPPERS = ("module", "_orig_mod")  # what DistributedDataParallel and torch.compile put into every name


@dataclass(frozen=True)
class Weights:
    state: dict[str, Tensor]
    notes: tuple[str, ...] = ()  # what was stripped, for whoever reads the log
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
        return [prefix for prefix in candidates if all(prefix + name in self.state for name in wanted)]

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
    state, places = _find(content, ())
    if state is None:
        raise Unreadable("it holds no state_dict of tensors")
    tensors = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
    notes = [f"took '{'.'.join(places)}'"] if places else []
    stripped = {name: _without_wrappers(name) for name in tensors}
    found = sorted({part for name in tensors for part in name.split(".")[:-1] if part in _WRAPPERS})
    if found and len(set(stripped.values())) == len(tensors):
        tensors = {stripped[name]: value for name, value in tensors.items()}
        notes.append(f"stripped {' and '.join(repr(f'{part}.') for part in found)} from its names")
    return Weights(tensors, tuple(notes), content)


def _find(content: Any, places: tuple[str, ...]) -> tuple[dict | None, tuple[str, ...]]:
    """A dictionary with tensors in it, and the names that lead there."""
    if not isinstance(content, dict):
        return None, places
    if len(places) < _DEEPEST:
        for place in _PLACES:
            if isinstance(content.get(place), dict):
                state, found = _find(content[place], (*places, place))
                if state is not None:
                    return state, found
    return (content, places) if _has_tensors(content.values()) else (None, places)


def _has_tensors(values: Iterable[Any]) -> bool:
    return any(isinstance(value, Tensor) for value in values)


def _without_wrappers(name: str) -> str:
    *parts, last = name.split(".")
    return ".".join([*(part for part in parts if part not in _WRAPPERS), last])
