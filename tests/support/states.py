"""States of networks: nested dictionaries of tensors, compared tensor by tensor."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor


def clone(state: Any) -> Any:
    if isinstance(state, dict):
        return {key: clone(value) for key, value in state.items()}
    return state.detach().to("cpu", copy=True) if isinstance(state, Tensor) else state


def tensors(state: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a nested state with its dotted name, in order."""
    if isinstance(state, dict):
        for key, value in state.items():
            yield from tensors(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(state, Tensor):
        yield prefix, state


def checksum(state: Any) -> str:
    """Of every bit of every tensor of a state."""
    digest = hashlib.sha256()
    for name, tensor in tensors(state):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
