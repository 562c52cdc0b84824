"""Double precision for code that is written in single: what is left of a difference is one of the method."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def double_precision() -> Iterator[None]:
    """Inside, what is created in or cast to float32 is float64 instead."""
    to_float = Tensor.float
    Tensor.float = Tensor.double  # type: ignore[method-assign]
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        Tensor.float = to_float  # type: ignore[method-assign]
        torch.set_default_dtype(torch.float32)
