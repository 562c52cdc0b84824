"""Tensors that are functions of a few sizes, built once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

Build = TypeVar("Build", bound=Callable[..., Tensor])


def constant(build: Build) -> Build:
    """Built at the first use of its arguments, outside of graphs. One that exists when a compiler runs is an input of
    the compiled code, like a buffer; one that does not becomes a part of it, and is built in each pass, on the host.

    Arguments are passed by position, as they are the key of what is built.
    """
    known: dict[tuple[Any, ...], Tensor] = {}

    def constant_of(*key: Any) -> Tensor:
        if key in known:
            return known[key]
        if torch.compiler.is_compiling():
            return build(*key)
        with torch.inference_mode(False), torch.no_grad():
            built = build(*key)
        if type(built) is Tensor:  # not one without contents, as where shapes alone are asked for
            known[key] = built
        return built

    return constant_of  # type: ignore[return-value]
