"""What a CUDA graph does, on a CPU: operators are noted with their tensors and run again, into the same tensors.

So numbers of the program that have found their way into a recording stay what they were, as they would on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten

from ialcms.training.recording import Result


class _Note(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Callable[[], None]] = []

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Taken anew each time: operators may change a tensor's shape in place, and not only its numbers.
        given, form = tree_flatten((args, kwargs or {}))
        given = [value.detach() if isinstance(value, Tensor) else value for value in given]
        output = operator(*args, **(kwargs or {}))
        known = {_memory(value) for value in given if isinstance(value, Tensor)}
        made = [tensor.detach() if _memory(tensor) not in known else None for tensor in _tensors(output)]

        def again() -> None:
            values = [value.detach() if isinstance(value, Tensor) else value for value in given]
            args, kwargs = tree_unflatten(values, form)
            for tensor, value in zip(made, _tensors(operator(*args, **kwargs)), strict=True):
                if tensor is not None:
                    tensor.copy_(value)

        self.calls.append(again)
        return output


def _tensors(output: Any) -> list[Tensor]:
    return [value for value in tree_flatten(output)[0] if isinstance(value, Tensor)]


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def tape(function: Callable[[], Result]) -> tuple[Result, Callable[[], None]]:
    """A `Recorder`. The first repetition does nothing: recording has computed."""
    with _Note() as note:
        result = function()
    fresh = True

    @torch.no_grad()
    def repeat() -> None:
        nonlocal fresh
        if not fresh:
            for call in note.calls:
                call()
        fresh = False

    return result, repeat
