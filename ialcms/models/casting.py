"""Weights in the type that autocast computes in, cast all at once.

Autocast casts a weight where it is used, and its gradient back: two launches a layer. Here one launch casts those of a
whole part of a network, and one their gradients, to the same numbers. A part's gradients come together, when the
backward pass has left it: parts are small enough that their reduction over the ranks still overlaps with the rest.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ialcms.models.shards import in_shards

_names: weakref.WeakKeyDictionary[nn.Module, list[str]] = weakref.WeakKeyDictionary()


def with_cast_weights(part: nn.Module, *args: Any, apart: nn.Module | None = None, **options: Any) -> Any:
    """part(*args, **options), the weights of its convolutions and linear layers cast together where autocast is on.

    apart: a module of the part that is left out, always the same; the part calls it in this way by itself.
    They must all be used under autocast. Where an engine has the weights in shards that it collects layer by layer, it
    is a plain call.
    """
    if part not in _names:
        _names[part] = _cast_names(part, apart)
    weights = [part.get_parameter(name) for name in _names[part]]
    device = weights[0].device.type
    if not torch.is_autocast_enabled(device) or in_shards(weights):
        return part(*args, **options)
    cast = _Cast.apply(torch.get_autocast_dtype(device), *weights)
    return functional_call(part, dict(zip(_names[part], cast)), args, options)


def _cast_names(part: nn.Module, apart: nn.Module | None) -> list[str]:
    """Names of the parameters that autocast would cast, but for those of `apart`."""
    names = []
    left_out = set() if apart is None else set(apart.modules())
    for prefix, layer in part.named_modules():
        if layer not in left_out and isinstance(layer, (nn.Conv2d, nn.Linear)):
            names.append(f"{prefix}.weight")
            if layer.bias is not None and type(layer) in (nn.Conv2d, nn.Linear):  # others may add it in float32
                names.append(f"{prefix}.bias")
    return names


class _Cast(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.dtype = weights[0].dtype
        return _copied(weights, dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, *_copied(gradients, ctx.dtype)


def _copied(tensors: tuple[Tensor, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
    copies = [torch.empty_like(tensor, dtype=dtype) for tensor in tensors]
    torch._foreach_copy_(copies, list(tensors))
    return tuple(copies)
