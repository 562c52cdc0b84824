"""BatchNorm over the global batch, on any device; or over each rank's own part, by option.

One collective forward, one backward. Per-rank means and variances are merged, which loses no precision to
cancellation. torch's SyncBatchNorm is for GPUs only, and makes the program wait for the device three times a layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ialcms.engine.ranks import Ranks, batchnorm_group
from ialcms.engine.traffic import Traffic
from ialcms.engine.waiting import waiting


def synchronise(module: nn.Module, ranks: Ranks) -> nn.Module:
    """The module with its trainable BatchNorm layers over the global batch; frozen ones stay as they are."""
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm) and _is_trained(child):
            replacement = GlobalBatchNorm(child.num_features, child.eps, child.momentum)
            replacement.traffic = ranks.traffic
            replacement.whole = _WholeBatch(ranks)
            replacement.weight, replacement.bias = child.weight, child.bias
            for buffer, value in child.named_buffers():
                replacement.register_buffer(buffer, value)
            replacement.train(child.training)
            setattr(module, name, replacement)
        else:
            synchronise(child, ranks)
    return module


def average_running_statistics(module: nn.Module, ranks: Ranks) -> None:
    """Give all ranks the mean of their running statistics, where each normalises by its own part of the batch."""
    statistics = list(_running_statistics(module))
    together = torch.cat([values.flatten() for values in statistics])
    ranks.traffic.all_reduce("batchnorm", together.numel() * together.element_size())
    means = ranks.mean(together).split([values.numel() for values in statistics])
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

    def __init__(self, ranks: Ranks) -> None:
        self.parts, self._traffic = ranks.world_size, ranks.traffic

    def gather(self, own: Tensor) -> Tensor:
        every = own.new_empty(self.parts * own.numel())
        self._traffic.all_gather("batchnorm", own.numel() * own.element_size())
        with waiting():
            dist.all_gather_into_tensor(every, own.flatten(), group=batchnorm_group())
        return every.view(self.parts, *own.shape)

    def sum(self, own: Tensor) -> Tensor:
        self._traffic.all_reduce("batchnorm", own.numel() * own.element_size())
        total = own.clone()
        with waiting():
            dist.all_reduce(total, group=batchnorm_group())
        return total

    def __deepcopy__(self, memo: dict[int, Any]) -> _WholeBatch:
        return self  # of the ranks, not of the layer


def _count(layer: _BatchNorm, traffic: Traffic, output: Tensor) -> None:
    """Mean, variance and number of values forward, two sums backward."""
    value = layer.weight.element_size()
    traffic.all_gather("batchnorm", (2 * layer.num_features + 1) * value)
    if output.requires_grad:
        traffic.all_reduce("batchnorm", 2 * layer.num_features * value)


class GlobalBatchNorm(_BatchNorm):
    """BatchNorm whose training statistics are those of all ranks' batches together."""

    traffic: Traffic
    whole: _WholeBatch

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2 dimensions, got {input.dim()}")

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or not dist.is_initialized():
            return super().forward(input)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        normalise = _NormaliseOnGpu if input.is_cuda else _Normalise
        output: Tensor = normalise.apply(
            input, self.weight, self.bias, self.running_mean, self.running_var, self.momentum, self.eps
        )
        _count(self, self.traffic, output)
        return output


class _Normalise(torch.autograd.Function):
    """Normalise by the statistics of all ranks, scale and shift; moves the running statistics."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor,
        momentum: float, eps: float,
    ) -> Tensor:  # fmt: skip
        x = x.contiguous()
        axes = [axis for axis in range(x.dim()) if axis != 1]
        count = torch.full((1,), x.numel() // x.shape[1], dtype=weight.dtype)
        variance, mean = torch.var_mean(x.to(weight.dtype), axes, correction=0)
        means, variances, counts = _gather(mean, variance, count)
        total = counts.sum()
        share = counts / total
        mean = (share * means).sum(0)
        variance = (share * (variances + (means - mean).square())).sum(0)
        running_mean.lerp_(mean, momentum)
        running_var.lerp_(variance * (total / (total - 1)), momentum)
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.eps, ctx.count = eps, float(total)
        return F.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps)

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
        mean_bias, mean_weight = (_sum(d_bias, d_weight) / ctx.count).chunk(2)
        d_x = torch.addcmul(gradient - mean_bias.view(shape), normalised, mean_weight.view(shape), value=-1)
        d_x = d_x * (weight * scale).view(shape)
        return d_x.to(x.dtype), d_weight, d_bias, None, None, None, None


class _NormaliseOnGpu(torch.autograd.Function):
    """The same by torch's kernels, without a look at what is on the device: how much each rank has travels along."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor,
        momentum: float, eps: float,
    ) -> Tensor:  # fmt: skip
        channels_last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
        x = x if channels_last else x.contiguous()
        mean, scale = torch.batch_norm_stats(x, eps)
        count = torch.full((1,), x.numel() // x.shape[1], dtype=mean.dtype, device=x.device)
        means, scales, counts = _gather(mean, scale, count)
        counts = counts.flatten()
        mean, scale = torch.batch_norm_gather_stats_with_counts(
            x, means, scales, running_mean, running_var, momentum, eps, counts
        )
        ctx.save_for_backward(x, weight, mean, scale, counts.to(torch.int32))
        return torch.batch_norm_elemt(x, weight, bias, mean, scale, eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale, counts = ctx.saved_tensors
        channels_last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
        gradient = gradients[0].contiguous(
            memory_format=torch.channels_last if channels_last else torch.contiguous_format
        )
        sums = torch.batch_norm_backward_reduce(gradient, x, mean, scale, weight, True, True, True)
        d_bias_everywhere, products = _sum(sums[0], sums[1]).chunk(2)
        d_x = torch.batch_norm_backward_elemt(gradient, x, mean, scale, weight, d_bias_everywhere, products, counts)
        return d_x, sums[2], sums[3], None, None, None, None


def _gather(*of_this_rank: Tensor) -> tuple[Tensor, ...]:
    """Vectors of all ranks, a row a rank."""
    own = torch.cat(of_this_rank)
    every = own.new_empty(dist.get_world_size() * len(own))
    with waiting():
        dist.all_gather_into_tensor(every, own, group=batchnorm_group())
    return every.view(-1, len(own)).split([len(vector) for vector in of_this_rank], dim=1)


def _sum(*of_this_rank: Tensor) -> Tensor:
    """Sums over all ranks, end to end."""
    total = torch.cat(of_this_rank)
    with waiting():
        dist.all_reduce(total, group=batchnorm_group())
    return total
