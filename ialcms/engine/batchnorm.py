"""BatchNorm over the global batch, on any device; or over each worker's own part, by option.

torch's SyncBatchNorm is for GPUs only; on CPU workers (gloo) this one does the same: one collective forward, one
backward. Per-worker means and variances are merged, which loses no precision to cancellation.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ialcms.engine.ranks import Workers
from ialcms.engine.traffic import Traffic
from ialcms.engine.waiting import waiting


def synchronise(module: nn.Module, workers: Workers) -> nn.Module:
    """The module with its trainable BatchNorm layers over the global batch; frozen ones stay as they are."""
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm) and _is_trained(child):
            kind = SyncBatchNorm if workers.device.type == "cuda" else GlobalBatchNorm
            replacement = kind(child.num_features, child.eps, child.momentum)
            replacement.traffic = workers.traffic
            replacement.whole = _WholeBatch(workers)
            replacement.weight, replacement.bias = child.weight, child.bias
            for buffer, value in child.named_buffers():
                replacement.register_buffer(buffer, value)
            replacement.train(child.training)
            setattr(module, name, replacement)
        else:
            synchronise(child, workers)
    return module


def average_running_statistics(module: nn.Module, workers: Workers) -> None:
    """Give all workers the mean of their running statistics, where each normalises by its own part of the batch."""
    statistics = list(_running_statistics(module))
    together = torch.cat([values.flatten() for values in statistics])
    workers.traffic.all_reduce("batchnorm", together.numel() * together.element_size())
    means = workers.mean(together).split([values.numel() for values in statistics])
    torch._foreach_copy_(statistics, [mean.view_as(values) for mean, values in zip(means, statistics)])


def _running_statistics(module: nn.Module) -> Iterator[Tensor]:
    for layer in module.modules():
        if isinstance(layer, _BatchNorm) and _is_trained(layer):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            yield from (layer.running_mean, layer.running_var)


def _is_trained(layer: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in layer.parameters())


class _WholeBatch:
    """Collectives of a BatchNorm layer that is computed together with what follows it."""

    def __init__(self, workers: Workers) -> None:
        self.parts, self._traffic = workers.world_size, workers.traffic

    def gather(self, own: Tensor) -> Tensor:
        every = own.new_empty(self.parts * own.numel())
        self._traffic.all_gather("batchnorm", own.numel() * own.element_size())
        with waiting():
            dist.all_gather_into_tensor(every, own.flatten())
        return every.view(self.parts, *own.shape)

    def sum(self, own: Tensor) -> Tensor:
        self._traffic.all_reduce("batchnorm", own.numel() * own.element_size())
        total = own.clone()
        with waiting():
            dist.all_reduce(total)
        return total

    def __deepcopy__(self, memo: dict[int, Any]) -> _WholeBatch:
        return self  # of the workers, not of the layer


def _count(layer: _BatchNorm, traffic: Traffic, output: Tensor) -> None:
    """Mean, variance and number of values forward, two sums backward."""
    value = layer.weight.element_size()
    traffic.all_gather("batchnorm", (2 * layer.num_features + 1) * value)
    if output.requires_grad:
        traffic.all_reduce("batchnorm", 2 * layer.num_features * value)


class SyncBatchNorm(nn.SyncBatchNorm):
    """torch's, with what it sends counted."""

    traffic: Traffic
    whole: _WholeBatch

    def forward(self, input: Tensor) -> Tensor:
        output = super().forward(input)
        if self.training:
            _count(self, self.traffic, output)
        return output


class GlobalBatchNorm(_BatchNorm):
    """BatchNorm whose training statistics are those of all workers' batches together."""

    traffic: Traffic
    whole: _WholeBatch

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2 dimensions, got {input.dim()}")

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or not dist.is_initialized():
            return super().forward(input)
        output, mean, variance, count = _Normalise.apply(input, self.weight, self.bias, self.eps)
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.momentum is not None
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        _count(self, self.traffic, output)
        return output


class _Normalise(torch.autograd.Function):
    """Normalise by the statistics of all workers, scale and shift; also returns mean, biased variance and count."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, ...]:
        x = x.contiguous()
        axes = [axis for axis in range(x.dim()) if axis != 1]
        count = torch.full((1,), x.numel() // x.shape[1], dtype=weight.dtype)
        variance, mean = torch.var_mean(x.to(weight.dtype), axes, correction=0)
        local = torch.cat([mean, variance, count])
        every = local.new_empty(dist.get_world_size() * len(local))
        with waiting():
            dist.all_gather_into_tensor(every, local)
        means, variances, counts = every.view(-1, len(local)).split([len(mean), len(mean), 1], dim=1)
        share = counts / counts.sum()
        mean = (share * means).sum(0)
        variance = (share * (variances + (means - mean).square())).sum(0)
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.eps, ctx.count = eps, float(counts.sum())
        output = F.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps)
        ctx.mark_non_differentiable(mean, variance)
        return output, mean, variance, counts.sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance = ctx.saved_tensors
        gradient = gradients[0]
        axes = [axis for axis in range(x.dim()) if axis != 1]
        shape = [1, -1] + [1] * (x.dim() - 2)
        scale = torch.rsqrt(variance + ctx.eps)
        normalised = (x - mean.view(shape)) * scale.view(shape)
        d_bias = gradient.sum(axes, dtype=weight.dtype)
        d_weight = (gradient * normalised).sum(axes, dtype=weight.dtype)
        total = torch.cat([d_bias, d_weight])
        with waiting():
            dist.all_reduce(total)
        mean_bias, mean_weight = (total / ctx.count).chunk(2)
        d_x = torch.addcmul(gradient - mean_bias.view(shape), normalised, mean_weight.view(shape), value=-1)
        d_x = d_x * (weight * scale).view(shape)
        return d_x.to(x.dtype), d_weight, d_bias, None
