"""BatchNorm that also trains on a single value per channel, and whose statistics a network may move all at once.

A batch of one object gives the pooled features one value per channel: it has no variance, and torch raises. Here such
a batch is normalised by the running statistics and leaves them as they are.

A layer by itself counts its batches and moves its running statistics in each pass, as torch's does: on a GPU up to four
launches a layer for a few numbers. A network does so for all its layers with a few launches: it calls `move_together`
when it begins to train, and `move_all` at the end of each pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Tensors = list[Tensor] | tuple[Tensor, ...]  # as torch takes many at once


class BatchStatistics(NamedTuple):  # a tuple, which a compiler can look into
    """Of a training pass over all ranks: what the running statistics move towards."""

    mean: Tensor  # (c,)
    variance: Tensor  # (c,), biased, plus `added`
    num_values: int  # per channel
    added: float = 0.0


class MovedBatchNorm(_BatchNorm):
    """Base of the layers whose statistics can be moved together. With torch's own forward pass for the rest."""

    moves_alone = True
    took_part = False  # in a pass that is not counted yet
    pending: BatchStatistics | None = None  # where the forward pass itself does not move the running statistics

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        self._check_input_dim(input)
        is_single = input.numel() == input.shape[1]
        if not is_single:
            self.note_pass()
        return F.batch_norm(
            input,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            training=not is_single,
            momentum=self.momentum or 0.0,
            eps=self.eps,
        )

    @staticmethod
    def of_each(layers: Sequence[MovedBatchNorm], inputs: Sequence[Tensor]) -> list[Tensor]:
        """What each layer makes of its input. Layers over all ranks exchange their statistics together."""
        return [layer(x) for layer, x in zip(layers, inputs)]

    def note_pass(self, statistics: BatchStatistics | None = None) -> None:
        """Count a training pass. statistics: of its batch, unless the running ones have been moved already."""
        self.took_part, self.pending = True, statistics
        if self.moves_alone:
            move_all([self])


class BatchNorm1d(MovedBatchNorm, nn.BatchNorm1d):
    pass


class BatchNorm2d(MovedBatchNorm, nn.BatchNorm2d):
    pass


def move_together(module: nn.Module, together: bool) -> list[MovedBatchNorm]:
    """The layers of a module that train. together: they leave their statistics to `move_all` from now on."""
    layers = [layer for layer in module.modules() if isinstance(layer, MovedBatchNorm)]
    for layer in layers:
        layer.moves_alone = not (together and layer.training)
    return [layer for layer in layers if layer.training]


@torch.no_grad()
def move_all(layers: Sequence[MovedBatchNorm]) -> None:
    """Count the pass in which these layers have taken part, and move the running statistics that are still to move."""
    counts = [
        layer.num_batches_tracked for layer in layers if layer.took_part and layer.num_batches_tracked is not None
    ]
    if counts:
        torch._foreach_add_(counts, 1)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        _move([layer for layer in layers if layer.pending is not None and layer.pending.variance.dtype == dtype])
    for layer in layers:
        layer.took_part, layer.pending = False, None


def _move(layers: Sequence[MovedBatchNorm]) -> None:
    """Move running statistics towards pending ones, all of the same type."""
    if not layers:
        return
    momentum = layers[0].momentum
    assert momentum is not None
    assert all(layer.momentum == momentum for layer in layers)
    pending = [layer.pending for layer in layers if layer.pending is not None]
    running_means: list[Tensor] = [layer.running_mean for layer in layers if layer.running_mean is not None]
    running_vars: list[Tensor] = [layer.running_var for layer in layers if layer.running_var is not None]
    variances: Tensors = [statistics.variance for statistics in pending]
    if any(statistics.added for statistics in pending):
        variances = torch._foreach_sub(variances, [statistics.added for statistics in pending])
    unbiased = torch._foreach_mul(
        variances, [statistics.num_values / (statistics.num_values - 1) for statistics in pending]
    )
    torch._foreach_lerp_(running_means, _like(running_means, [statistics.mean for statistics in pending]), momentum)
    torch._foreach_lerp_(running_vars, _like(running_vars, unbiased), momentum)


def _like(wanted: Tensors, values: Tensors) -> Tensors:
    """The values in the type of other tensors."""
    if wanted[0].dtype == values[0].dtype:
        return values
    copies = [torch.empty_like(tensor) for tensor in wanted]
    torch._foreach_copy_(copies, values)
    return copies
