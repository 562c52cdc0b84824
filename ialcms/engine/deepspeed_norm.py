"""The norm of the gradient, clipping and skipping for DeepSpeed's ZeRO optimizers, instead of DeepSpeed's.

Those make the program wait for the device several times a step: to see whether the gradient overflows, whether its
norm is valid, and for the stream in which gradients are reduced. Here the norm stays on the device, and so does the
decision to skip. The attributes are those of DeepSpeed 0.19; `tests/null_gpu` counts what is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from deepspeed.accelerator import get_accelerator
from torch import Tensor

from ialcms.engine.ranks import Ranks

_ON_HOST = torch.zeros(())


class ZeroNorm:
    """Takes over from a ZeRO optimizer of stage 1 to 3."""

    def __init__(self, zero: Any, stage: int, clip_norm: float, ranks: Ranks) -> None:
        """zero: DeepSpeed's optimizer. stage: of ZeRO. clip_norm: longest gradient that is not shortened; 0: any."""
        self._zero, self._stage, self._clip_norm, self._ranks = zero, stage, clip_norm, ranks
        self._norm = _ON_HOST
        if stage == 3:
            zero._get_norm_groups = lambda: [self._norm if self._norm.device.type == "cpu" else _ON_HOST]
            zero.unscale_and_clip_grads = lambda group, norm: self._clip(
                [zero.fp32_partitioned_groups_flat[group].grad]
            )
            if ranks.device.type == "cuda":
                zero.reduce_and_partition_stream.synchronize = _waiting_on_device(zero.reduce_and_partition_stream)
        else:
            zero.compute_grad_norm = zero.check_grad_overflow = False
            zero.unscale_and_clip_grads = lambda gradients, norm: self._clip(gradients)
            if ranks.device.type == "cuda" and zero.overlap_comm:
                finish = zero.independent_gradient_partition_epilogue
                zero.independent_gradient_partition_epilogue = lambda: _without_stop(finish, zero.reduction_stream)

    def compute(self) -> Tensor:
        """The norm of the whole gradient, before clipping; once, after the last backward pass."""
        local = [gradient for group in self._zero.averaged_gradients.values() for gradient in group or ()]
        square = torch.nn.utils.get_total_norm(local).float().square().to(self._ranks.device)
        self._norm = self._ranks.sum(square).sqrt()
        if self._norm.device.type == "cpu" and self._stage < 3:  # on a GPU the optimizer's kernels skip by themselves
            self._zero.check_grad_overflow = not bool(self._norm.isfinite())
        return self._norm

    def _clip(self, gradients: list[Tensor]) -> None:
        if self._clip_norm:
            shrink = (self._clip_norm / (self._norm + 1e-6)).clamp(max=1.0)
            torch._foreach_mul_(gradients, shrink)


def _waiting_on_device(stream: Any) -> Callable[[], None]:
    """Instead of the program, what it launches from now on waits for the stream."""
    return lambda: torch.cuda.current_stream().wait_stream(stream)


def _without_stop(finish: Callable[[], None], stream: Any) -> None:
    with _synchronising_by(_waiting_on_device(stream)):
        finish()


@contextmanager
def _synchronising_by(wait: Callable[[], None]) -> Iterator[None]:
    accelerator = get_accelerator()
    accelerator.synchronize = wait
    try:
        yield
    finally:
        del accelerator.synchronize
