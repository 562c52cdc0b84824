"""BatchNorm over the global batch, on any device; or over each rank's local part, by option.

One all-reduce forward, one backward, so what a rank sends does not grow with the number of ranks. torch's SyncBatchNorm
gathers statistics, is for GPUs only, and makes the program wait for the device three times a layer.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ialcms.engine.ranks import Ranks, batchnorm_group
from ialcms.engine.waiting import waiting
from ialcms.models.instance_scaling import Moments
from ialcms.models.norm import BatchStatistics, MovedBatchNorm


def synchronise(module: nn.Module, ranks: Ranks) -> nn.Module:
    """The module with its trainable BatchNorm layers over the global batch; frozen ones stay as they are."""
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm) and _is_trained(child):
            replacement = GlobalBatchNorm(child.num_features, child.eps, child.momentum)
            replacement.whole = WholeBatch(ranks)
            replacement.weight, replacement.bias = child.weight, child.bias
            for buffer, value in child.named_buffers():
                replacement.register_buffer(buffer, value)
            replacement.train(child.training)
            setattr(module, name, replacement)
        else:
            synchronise(child, ranks)
    return module


def average_running_statistics(module: nn.Module, ranks: Ranks) -> None:
    """Give all ranks the mean of their running statistics, where each normalises by its local part of the batch."""
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


class WholeBatch:
    """The global batch, of which each rank has an equal part: what its layers reduce over the ranks."""

    def __init__(self, ranks: Ranks) -> None:
        self.parts, self._traffic = ranks.world_size, ranks.traffic

    def sum(self, values: Tensor) -> Tensor:
        """Over all ranks; `values` stays as it is."""
        return self._reduce(values.clone())

    def sum_in_place(self, values: Tensor) -> Tensor:
        """Over all ranks."""
        return self._reduce(values)

    def mean(self, values: Tensor) -> Tensor:
        """Over all ranks, in place."""
        if values.is_cuda:
            return self._reduce(values, dist.ReduceOp.AVG)
        return self._reduce(values).div_(self.parts)

    def moments(self, mean: Tensor, variance: Tensor, about: Tensor) -> Moments:
        """Mean and biased variance of each channel, (c,), from those of the local part: one all-reduce.

        The variance comes in float64, and rounding may make it negative. Offsets from `about`, the same on all ranks
        and near the mean, are summed with their squares. For float32 the sums are in float64: cancellation costs
        nothing until the offset is 1e4 standard deviations. Where there is no wider type a second all-reduce finds the
        mean first.
        """
        if mean.dtype == torch.float64:
            about = self.mean(mean.clone())
        sums = mean.new_empty(2, len(mean), dtype=torch.float64)
        torch.sub(mean, about, out=sums[0])
        torch.addcmul(variance, sums[0], sums[0], out=sums[1])
        offset, square = self.mean(sums)
        square.addcmul_(offset, offset, value=-1)
        return Moments(torch.add(about, offset, out=torch.empty_like(mean)), square)

    def _reduce(self, values: Tensor, op: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM) -> Tensor:
        self._traffic.all_reduce("batchnorm", values.numel() * values.element_size())
        with waiting():
            dist.all_reduce(values.view(-1), op, group=batchnorm_group())
        return values

    def __deepcopy__(self, memo: dict[int, Any]) -> WholeBatch:
        return self  # of the ranks, not of the layer


class GlobalBatchNorm(MovedBatchNorm):
    """BatchNorm whose training statistics are those of all ranks' batches together, which are equally large."""

    whole: WholeBatch

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2 dimensions, got {input.dim()}")

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or not dist.is_initialized():
            return super().forward(input)
        normalise = _NormaliseOnGpu if input.is_cuda else _Normalise
        output: Tensor = normalise.apply(input, self.weight, self.bias, self)
        return output


class _Normalise(torch.autograd.Function):
    """Normalise by the statistics of all ranks, scale and shift; the layer gets the statistics."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, layer: GlobalBatchNorm) -> Tensor:
        """x (n, c, ...), contiguous or not. weight, bias: (c,). layer: whose running mean is near the mean."""
        assert layer.running_mean is not None
        x = x.contiguous()
        axes = [axis for axis in range(x.dim()) if axis != 1]
        local_variance, local_mean = torch.var_mean(x.to(weight.dtype), axes, correction=0)
        mean, variance = layer.whole.moments(local_mean, local_variance, layer.running_mean)
        variance = variance.clamp_(min=0).to(mean.dtype)
        layer.note_pass(BatchStatistics(mean, variance, _count(x, layer)))
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.layer = layer
        return F.batch_norm(x, mean, variance, weight, bias, training=False, eps=layer.eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance = ctx.saved_tensors
        layer, gradient = ctx.layer, gradients[0]
        axes = [axis for axis in range(x.dim()) if axis != 1]
        shape = [1, -1] + [1] * (x.dim() - 2)
        scale = torch.rsqrt(variance + layer.eps)
        normalised = (x - mean.view(shape)) * scale.view(shape)
        d_bias = gradient.sum(axes, dtype=weight.dtype)
        d_weight = (gradient * normalised).sum(axes, dtype=weight.dtype)
        mean_bias, mean_weight = layer.whole.sum_in_place(torch.stack([d_bias, d_weight])) / _count(x, layer)
        d_x = torch.addcmul(gradient - mean_bias.view(shape), normalised, mean_weight.view(shape), value=-1)
        d_x = d_x * (weight * scale).view(shape)
        return d_x.to(x.dtype), d_weight, d_bias, None


class _NormaliseOnGpu(torch.autograd.Function):
    """The same by torch's kernels, without a look at what is on the device."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, layer: GlobalBatchNorm) -> Tensor:
        """x (n, c, ...), on a GPU. weight, bias: (c,). layer: whose running mean is near the mean."""
        assert layer.running_mean is not None
        x = x if _is_channels_last(x) else x.contiguous()
        # These are 1 / sqrt(variance + eps). The sum of variance and eps is merged as a variance would be.
        local_mean, local_scale = torch.batch_norm_stats(x, layer.eps)
        mean, variance = layer.whole.moments(local_mean, local_scale.pow(-2), layer.running_mean)
        scale = torch.rsqrt(variance, out=torch.empty_like(mean))
        layer.note_pass(BatchStatistics(mean, variance, _count(x, layer), added=layer.eps))
        ctx.save_for_backward(x, weight, mean, scale)
        ctx.layer = layer
        return torch.batch_norm_elemt(x, weight, bias, mean, scale, layer.eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale = ctx.saved_tensors
        layer = ctx.layer
        layout = torch.channels_last if _is_channels_last(x) else torch.contiguous_format
        gradient = gradients[0].contiguous(memory_format=layout)
        local = torch.batch_norm_backward_reduce(gradient, x, mean, scale, weight, True, True, True)
        d_bias, products = layer.whole.sum_in_place(torch.stack(local[:2]))
        count = _on_device(_count(x, layer), torch.int32, x.device)
        d_x = torch.batch_norm_backward_elemt(gradient, x, mean, scale, weight, d_bias, products, count)
        return d_x, local[2], local[3], None


def _count(x: Tensor, layer: GlobalBatchNorm) -> int:
    """Values per channel in the global batch."""
    return x.numel() // x.shape[1] * layer.whole.parts


@functools.lru_cache(maxsize=256)
def _on_device(count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A number that steps use again and again, as torch's kernels take it."""
    return torch.full((1,), count, dtype=dtype, device=device)


def _is_channels_last(x: Tensor) -> bool:
    return x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
