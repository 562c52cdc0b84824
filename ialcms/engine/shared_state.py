"""A nested state of rank 0 on all ranks: one rank reads a checkpoint, the network passes it on.

The structure is sent once, a pickle with numbers in the place of tensors. The tensors follow as one stream of bytes, in
blocks of bounded size. No message and no buffer grows with the number of ranks or the size of the state.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from ialcms.engine.ranks import Ranks

_BLOCK_BYTES = 64 << 20

Value = TypeVar("Value")


def state_from_first(ranks: Ranks, action: Callable[[], Value], block_bytes: int = _BLOCK_BYTES) -> Value:
    """What `action` returns on rank 0, on all ranks: plain values and dense tensors on the CPU, nested in any way.

    Tensors keep their bits, types and strides. block_bytes: of a broadcast, and of the buffer for it on the rank's
    device. The ValueError of `action` is raised on all ranks, so that all stop alike.
    """
    packer = _Packer(action)
    if ranks.world_size == 1:
        return action()
    structure = ranks.from_first(packer.pack)
    tensors = packer.tensors if ranks.is_first else [layout.empty() for layout in structure.layouts]
    block = torch.empty(block_bytes, dtype=torch.uint8, device=ranks.device)
    for pieces in _blocks([_flat(tensor) for tensor in tensors], block_bytes):
        sizes = [len(piece) for piece in pieces]
        filled = block[: sum(sizes)]
        if ranks.is_first:
            filled.copy_(torch.cat(pieces))
        ranks.copy_from_first([filled])
        if not ranks.is_first:
            for piece, received in zip(pieces, filled.cpu().split(sizes)):
                piece.copy_(received)
    return packer.state if ranks.is_first else _Unpickler(structure.pickled, tensors).load()  # type: ignore[no-any-return]


@dataclass(frozen=True)
class _Layout:
    """Of a tensor without gaps."""

    dtype: torch.dtype
    shape: torch.Size
    strides: tuple[int, ...]

    def empty(self) -> Tensor:
        return torch.empty_strided(self.shape, self.strides, dtype=self.dtype)


@dataclass(frozen=True)
class _Structure:
    """A state without the content of its tensors."""

    pickled: bytes
    layouts: list[_Layout]


class _Packer(Generic[Value]):
    """On rank 0: the state, and its tensors in the order of their numbers."""

    state: Value

    def __init__(self, action: Callable[[], Value]) -> None:
        self._action = action
        self.tensors: list[Tensor] = []

    def pack(self) -> _Structure:
        self.state = self._action()
        pickler = _Pickler()
        pickler.dump(self.state)
        self.tensors = [_without_gaps(tensor) for tensor in pickler.tensors]
        layouts = [_Layout(tensor.dtype, tensor.shape, tensor.stride()) for tensor in self.tensors]
        return _Structure(pickler.file.getvalue(), layouts)


class _Pickler(pickle.Pickler):
    def __init__(self) -> None:
        self.file = io.BytesIO()
        super().__init__(self.file)
        self.tensors: list[Tensor] = []
        self._numbers: dict[int, int] = {}  # by identity

    def persistent_id(self, value: Any) -> int | None:
        if not isinstance(value, Tensor):
            return None
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self.tensors)
            self.tensors.append(value)
        return self._numbers[id(value)]


class _Unpickler(pickle.Unpickler):
    """Reads what rank 0 of the same job has packed."""

    def __init__(self, pickled: bytes, tensors: Sequence[Tensor]) -> None:
        super().__init__(io.BytesIO(pickled))
        self._tensors = tensors

    def persistent_load(self, number: int) -> Tensor:
        return self._tensors[number]


def _without_gaps(tensor: Tensor) -> Tensor:
    """The tensor, or a copy where its memory has gaps or overlaps: an expanded one, or a view of some columns."""
    if tensor.device.type != "cpu" or tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested:
        raise ValueError(f"the state holds a tensor that is not a dense one on the CPU ({tensor.layout})")
    tensor = tensor.detach()
    return tensor if torch.empty_like(tensor, device="meta").stride() == tensor.stride() else tensor.contiguous()


def _flat(tensor: Tensor) -> Tensor:
    """Its bytes in the order of its memory."""
    return tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8)


def _blocks(flats: Sequence[Tensor], block_bytes: int) -> Iterator[list[Tensor]]:
    """All bytes in order, in lists of pieces with `block_bytes` together."""
    pieces: list[Tensor] = []
    room = block_bytes
    for flat in flats:
        while len(flat):
            piece, flat = flat[:room], flat[room:]
            pieces.append(piece)
            room -= len(piece)
            if room == 0:
                yield pieces
                pieces, room = [], block_bytes
    if pieces:
        yield pieces
