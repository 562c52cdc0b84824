"""Vectors divided by their length, as torch.nn.functional.normalize does, with a third of its launches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_SHORTEST = 1e-12


def unit_length(x: Tensor, p: int = 2) -> Tensor:
    """x (n, D, ...) divided by its length over D, in float32 or wider. p: 1 or 2, of the norm.

    A vector shorter than 1e-12 is divided by 1e-12. The gradient of a zero vector is that of torch's function; for
    other vectors that short it differs, as torch takes their divisor as fixed.
    """
    return _UnitLength.apply(x, p)  # type: ignore[no-any-return]


class _UnitLength(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: int) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        length = torch.linalg.vector_norm(x, p, 1, keepdim=True, dtype=wide).clamp(min=_SHORTEST)
        unit = x / length
        ctx.save_for_backward(unit, length)
        ctx.p, ctx.dtype = p, x.dtype
        return unit

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        unit, length = ctx.saved_tensors
        gradient = gradients[0]
        along = (gradient * unit).sum(1, keepdim=True)
        slope = unit if ctx.p == 2 else unit.sign()  # of the length
        return torch.addcmul(gradient, slope, along, value=-1).div_(length).to(ctx.dtype), None
