"""BatchNorm that also trains on a single value per channel.

A batch of one object gives the pooled features one value per channel: it has no variance, and torch raises. Here such
a batch is normalised by the running statistics and leaves them as they are.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def _forward(layer: _BatchNorm, x: Tensor) -> Tensor | None:
    if layer.training and x.numel() == x.shape[1]:
        return F.batch_norm(x, layer.running_mean, layer.running_var, layer.weight, layer.bias, False, 0.0, layer.eps)
    return None


class BatchNorm1d(nn.BatchNorm1d):
    def forward(self, input: Tensor) -> Tensor:
        single = _forward(self, input)
        return super().forward(input) if single is None else single


class BatchNorm2d(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        single = _forward(self, input)
        return super().forward(input) if single is None else single


@torch.no_grad()
def move_running_statistics(layer: _BatchNorm, mean: Tensor, variance: Tensor, count: int) -> None:
    """As a training pass over `count` values per channel with this mean and biased variance does.

    layer: whose statistics move.
    """
    assert layer.running_mean is not None
    assert layer.running_var is not None
    assert layer.momentum is not None
    assert layer.num_batches_tracked is not None
    layer.num_batches_tracked.add_(1)
    layer.running_mean.lerp_(mean.to(layer.running_mean.dtype), layer.momentum)
    layer.running_var.lerp_(variance.to(layer.running_var.dtype) * (count / (count - 1)), layer.momentum)
