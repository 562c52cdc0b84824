"""What the null GPU cannot answer in C: cuDNN's operators, by their shapes, and operators that look at values."""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format  # as cuDNN's operators decide

Padding = Sequence[int]


def replace_operators(library: ctypes.CDLL) -> None:
    """For the rest of the process; library: the null GPU, where their launches are counted."""
    overrides = torch.library.Library("aten", "IMPL")
    operators = _Operators(library)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that they were there before
        for name, operator in operators.by_name().items():
            overrides.impl(name, operator, "CUDA")
    _keep.append(overrides)  # an override ends with its object


_keep: list[torch.library.Library] = []


class _Operators:
    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def by_name(self) -> dict[str, Callable]:
        return {
            "cudnn_convolution": self.convolution,
            "convolution_backward": self.convolution_backward,
            "cudnn_batch_norm": self.batch_norm,
            "cudnn_batch_norm_backward": self.batch_norm_backward,
            "nonzero": self.nonzero,
            "abs": self.abs,
            "abs.out": self.abs_out,
        }

    def _launch(self, name: str) -> None:
        self._library.null_gpu_launch(name.encode())

    def convolution(
        self, x: Tensor, weight: Tensor, padding: Padding, stride: Padding, dilation: Padding, *flags: bool
    ) -> Tensor:
        self._launch("cuDNN convolution")
        reach = [spread * (kernel - 1) for spread, kernel in zip(dilation, weight.shape[2:])]
        sizes = [
            (size + 2 * pad - span - 1) // step + 1
            for size, pad, span, step in zip(x.shape[2:], padding, reach, stride)
        ]
        last = any(_is_channels_last(tensor) for tensor in (x, weight))
        shape = [x.shape[0], weight.shape[0], *sizes]
        layout = torch.channels_last if last else torch.contiguous_format
        return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)

    def convolution_backward(
        self,
        gradient: Tensor,
        x: Tensor,
        weight: Tensor,
        bias_sizes: Padding | None,
        stride: Padding,
        padding: Padding,
        dilation: Padding,
        transposed: bool,
        output_padding: Padding,
        groups: int,
        mask: list[bool],
    ) -> tuple[Tensor | None, ...]:
        for_x, for_weight, for_bias = mask
        last = any(_is_channels_last(tensor) for tensor in (gradient, x, weight))
        layout = torch.channels_last if last else torch.contiguous_format
        for wanted, name in ((for_x, "input"), (for_weight, "weight")):
            if wanted:
                self._launch(f"cuDNN convolution, gradient of {name}")
        return (
            torch.empty_like(x, memory_format=layout) if for_x else None,
            torch.empty_like(weight, memory_format=layout) if for_weight else None,
            gradient.sum([0, *range(2, gradient.dim())]) if for_bias else None,
        )

    def batch_norm(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        variance: Tensor,
        training: bool,
        momentum: float,
        eps: float,
    ) -> tuple[Tensor, ...]:
        self._launch("cuDNN BatchNorm")
        saved = [weight.new_empty(x.shape[1] if training else 0) for _ in range(2)]
        return torch.empty_like(x), *saved, torch.empty(0, dtype=torch.uint8, device=x.device)

    def batch_norm_backward(self, x: Tensor, gradient: Tensor, weight: Tensor, *saved: object) -> tuple[Tensor, ...]:
        self._launch("cuDNN BatchNorm, gradient")
        return torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight)

    def nonzero(self, x: Tensor) -> Tensor:
        """How many are set, only a GPU that computes would know, and the host waits for it. Here as if all were; of a
        square matrix all but the diagonal."""
        warnings.warn("nonzero, which is called a synchronizing CUDA operation", stacklevel=2)
        for _ in range(3):
            self._launch("nonzero")
        square = x.dim() == 2 and x.shape[0] == x.shape[1]
        return torch.empty(x.numel() - square * len(x), x.dim(), dtype=torch.int64, device=x.device)

    def abs(self, x: Tensor) -> Tensor:
        """Of complex numbers it would be compiled at run time."""
        self._launch("abs")
        return torch.empty_like(x, dtype=x.real.dtype if x.is_complex() else x.dtype)

    def abs_out(self, x: Tensor, out: Tensor) -> Tensor:
        self._launch("abs")
        return out


def _is_channels_last(x: Tensor) -> bool:
    return x.dim() == 4 and suggest_memory_format(x) == torch.channels_last
