"""BatchNorm over the global batch, on any device; or over each rank's local part, by option.

One all-reduce forward, one backward, so what a rank sends does not grow with the number of ranks. torch's SyncBatchNorm
gathers statistics, is for GPUs only, and makes the program wait for the device three times a layer.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
from ialcms.models.shards import in_shards


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
        output: Tensor = _Normalise.apply([self], input, self.weight, self.bias)[0]
        return output

    @staticmethod
    def of_each(layers: Sequence[MovedBatchNorm], inputs: Sequence[Tensor]) -> list[Tensor]:
        """One exchange of statistics for all layers, unless an engine has their weights in shards."""
        weights, biases = [layer.weight for layer in layers], [layer.bias for layer in layers]
        together = all(isinstance(layer, GlobalBatchNorm) and layer.training for layer in layers)
        if not together or not dist.is_initialized() or in_shards(weights):
            return MovedBatchNorm.of_each(layers, inputs)
        return list(_Normalise.apply(list(layers), *inputs, *weights, *biases))


class _Normalise(torch.autograd.Function):
    """Normalise by the statistics of all ranks, scale and shift; the layers get the statistics.

    The layers take independent inputs, and exchange their sums together.
    """

    @staticmethod
    def forward(ctx: Any, layers: Sequence[GlobalBatchNorm], *tensors: Tensor) -> tuple[Tensor, ...]:
        """layers: whose running means are near the means. tensors: x (n, c, ...) of each layer, then the weights (c,)
        of each, then the biases."""
        kernels = _Gpu if tensors[0].is_cuda else _Cpu
        inputs, weights, biases = _thirds(tensors)
        inputs = [kernels.arrange(x) for x in inputs]
        local = [kernels.moments(x, weight, layer.eps) for x, weight, layer in zip(inputs, weights, layers)]
        running = [layer.running_mean for layer in layers if layer.running_mean is not None]
        means, variances = [moments.mean for moments in local], [moments.variance for moments in local]
        merged = layers[0].whole.moments(_joined(means), _joined(variances), _joined(running))
        spread = kernels.spread(merged)
        sizes = [len(weight) for weight in weights]
        means, variances = list(merged.mean.split(sizes)), list(spread.variance.split(sizes))
        divisors = spread.divisor.split(sizes)
        for x, layer, mean, variance in zip(inputs, layers, means, variances):
            added = layer.eps if kernels is _Gpu else 0.0
            layer.note_pass(BatchStatistics(mean, variance, _count(x, layer), added=added))
        ctx.save_for_backward(*inputs, *weights, *means, *divisors)
        ctx.layers, ctx.kernels = layers, kernels
        eps = [layer.eps for layer in layers]
        return tuple(map(kernels.scale, inputs, weights, biases, means, divisors, eps))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        layers, kernels = ctx.layers, ctx.kernels
        count = len(layers)
        tensors = ctx.saved_tensors
        saved = [tensors[start : start + count] for start in range(0, 4 * count, count)]
        passes = [
            _Pass(kernels.like(gradient, x), x, weight, mean, divisor, layer.eps, _count(x, layer))
            for gradient, x, weight, mean, divisor, layer in zip(gradients, *saved, layers)
        ]
        sums = [kernels.sums(each) for each in passes]
        together = torch.cat([of_one.gradients for of_one in sums] + [of_one.products for of_one in sums])
        layers[0].whole.sum_in_place(together)
        gradient_sums, product_sums = together.split([len(together) // 2] * 2)
        sizes = [len(each.weight) for each in passes]
        wholes = zip(passes, gradient_sums.split(sizes), product_sums.split(sizes))
        d_inputs = [kernels.gradient(each, *whole) for each, *whole in wholes]
        return None, *d_inputs, *(of_one.d_weight for of_one in sums), *(of_one.d_bias for of_one in sums)


@dataclass(frozen=True)
class _Spread:
    variance: Tensor  # for the running statistics; on GPUs with eps
    divisor: Tensor  # what `scale` divides by: the variance, on GPUs the inverse of the standard deviation


@dataclass(frozen=True)
class _Pass:
    """What a layer's backward pass is given."""

    gradient: Tensor  # at the result, (n, c, ...)
    x: Tensor
    weight: Tensor  # (c,), as mean and divisor
    mean: Tensor
    divisor: Tensor  # see `_Spread`
    eps: float
    count: int  # values per channel in the global batch


@dataclass(frozen=True)
class _Sums:
    """Of the gradient over the local part, (c,) each."""

    gradients: Tensor
    products: Tensor  # with x, in the form in which `gradient` wants them
    d_weight: Tensor
    d_bias: Tensor


class _Cpu:
    @staticmethod
    def arrange(x: Tensor) -> Tensor:
        return x.contiguous()

    @staticmethod
    def like(gradient: Tensor, x: Tensor) -> Tensor:
        return gradient

    @staticmethod
    def moments(x: Tensor, weight: Tensor, eps: float) -> Moments:
        variance, mean = torch.var_mean(x.to(weight.dtype), _axes(x), correction=0)
        return Moments(mean, variance)

    @staticmethod
    def spread(merged: Moments) -> _Spread:
        variance = merged.variance.clamp_(min=0).to(merged.mean.dtype)
        return _Spread(variance, variance)

    @staticmethod
    def scale(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, divisor: Tensor, eps: float) -> Tensor:
        return F.batch_norm(x, mean, divisor, weight, bias, training=False, eps=eps)

    @staticmethod
    def sums(of: _Pass) -> _Sums:
        d_bias = of.gradient.sum(_axes(of.x), dtype=of.weight.dtype)
        d_weight = (of.gradient * _Cpu._normalised(of)).sum(_axes(of.x), dtype=of.weight.dtype)
        return _Sums(d_bias, d_weight, d_weight, d_bias)

    @staticmethod
    def gradient(of: _Pass, gradients: Tensor, products: Tensor) -> Tensor:
        shape = _channel_shape(of.x)
        mean_bias, mean_weight = (gradients / of.count).view(shape), (products / of.count).view(shape)
        d_x = torch.addcmul(of.gradient - mean_bias, _Cpu._normalised(of), mean_weight, value=-1)
        return (d_x * (of.weight * torch.rsqrt(of.divisor + of.eps)).view(shape)).to(of.x.dtype)

    @staticmethod
    def _normalised(of: _Pass) -> Tensor:
        shape = _channel_shape(of.x)
        return (of.x - of.mean.view(shape)) * torch.rsqrt(of.divisor + of.eps).view(shape)


class _Gpu:
    """The same by torch's kernels, without a look at what is on the device."""

    @staticmethod
    def arrange(x: Tensor) -> Tensor:
        return x if _is_channels_last(x) else x.contiguous()

    @staticmethod
    def like(gradient: Tensor, x: Tensor) -> Tensor:
        layout = torch.channels_last if _is_channels_last(x) else torch.contiguous_format
        return gradient.contiguous(memory_format=layout)

    @staticmethod
    def moments(x: Tensor, weight: Tensor, eps: float) -> Moments:
        # `scale` is 1 / sqrt(variance + eps). The sum of variance and eps is merged as a variance would be.
        mean, scale = torch.batch_norm_stats(x, eps)
        return Moments(mean, scale.pow(-2))

    @staticmethod
    def spread(merged: Moments) -> _Spread:
        return _Spread(merged.variance, torch.rsqrt(merged.variance, out=torch.empty_like(merged.mean)))

    @staticmethod
    def scale(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, divisor: Tensor, eps: float) -> Tensor:
        return torch.batch_norm_elemt(x, weight, bias, mean, divisor, eps)

    @staticmethod
    def sums(of: _Pass) -> _Sums:
        return _Sums(
            *torch.batch_norm_backward_reduce(of.gradient, of.x, of.mean, of.divisor, of.weight, True, True, True)
        )

    @staticmethod
    def gradient(of: _Pass, gradients: Tensor, products: Tensor) -> Tensor:
        count = _on_device(of.count, torch.int32, of.x.device)
        return torch.batch_norm_backward_elemt(
            of.gradient, of.x, of.mean, of.divisor, of.weight, gradients, products, count
        )


def _joined(vectors: Sequence[Tensor]) -> Tensor:
    return vectors[0] if len(vectors) == 1 else torch.cat(list(vectors))


def _thirds(tensors: Sequence[Tensor]) -> list[Sequence[Tensor]]:
    count = len(tensors) // 3
    return [tensors[start : start + count] for start in range(0, 3 * count, count)]


def _axes(x: Tensor) -> list[int]:
    """All but the channels'."""
    return [axis for axis in range(x.dim()) if axis != 1]


def _channel_shape(x: Tensor) -> list[int]:
    """In which a vector over the channels is spread over x."""
    return [1, -1] + [1] * (x.dim() - 2)


def _count(x: Tensor, layer: GlobalBatchNorm) -> int:
    """Values per channel in the global batch."""
    return x.numel() // x.shape[1] * layer.whole.parts


@functools.lru_cache(maxsize=256)
def _on_device(count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A number that steps use again and again, as torch's kernels take it."""
    return torch.full((1,), count, dtype=dtype, device=device)


def _is_channels_last(x: Tensor) -> bool:
    return x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
