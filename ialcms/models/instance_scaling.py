"""BatchNorm, then instance normalisation, then gain and offset per instance: one scale and shift of each channel.

With mean m_n and variance v_n of a channel of instance n, BatchNorm multiplies by a = weight / sqrt(V + eps) and adds
a constant, which the instance normalisation takes out again; V is the variance over the batch, which follows from
those of the instances: the mean of v_n + (m_n - mean of m_n)^2. So

    y_n = s_n (x_n - m_n) + offset_n    with    s_n = gain_n a / sqrt(a^2 v_n + eps)

and all that looks at x is one reduction and one pass over it, forward and backward. BatchNorm's own offset has no
effect; its gradient, rounding in the direct form, is zero here.

Shapes: x (n, c, h, w); gain and offset (n, c); weight, bias and statistics of BatchNorm (c,).
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ialcms.models.norm import BatchStatistics, MovedBatchNorm


class Moments(NamedTuple):
    mean: Tensor
    variance: Tensor  # biased


class Whole(Protocol):
    """A batch of which each of several ranks has an equal part."""

    parts: int

    def moments(self, mean: Tensor, variance: Tensor, about: Tensor) -> Moments:
        """Of all parts together, from those of the local one; rounding may make the variance negative.

        about: near the mean, the same on all ranks.
        """
        ...

    def sum(self, values: Tensor) -> Tensor:
        """Over all ranks."""
        ...


def instance_moments(x: Tensor) -> Moments:
    """Of each channel of each instance, (n, c); in float32 where x has 16 bits, without a copy of x in 32."""
    if x.dtype not in (torch.bfloat16, torch.float16):
        variance, mean = torch.var_mean(x, (2, 3), correction=0)
        return Moments(mean, variance)
    cells = x.shape[2] * x.shape[3]
    mean = torch.mean(x, (2, 3), dtype=torch.float32)
    length = torch.linalg.vector_norm(x, dim=(2, 3), dtype=torch.float32)
    return Moments(mean, torch.addcmul(-mean * mean, length, length, value=1 / cells).clamp_(min=0))


def batch_moments(instances: Moments) -> Moments:
    """Of each channel over all instances, (c,)."""
    between, mean = torch.var_mean(instances.mean, 0, correction=0)
    return Moments(mean, between + instances.variance.mean(0))


def scale_instances(
    x: Tensor, norm: MovedBatchNorm, gain: Tensor, offset: Tensor, *, whole: Whole | None = None, eps: float = 1e-5
) -> Tensor:
    """instance_norm(norm(x)) * gain + offset; moves the running statistics of `norm` while it trains.

    whole: where the statistics of BatchNorm are those of all ranks' instances. eps: of the instance normalisation.
    """
    fixed = None if norm.training else norm.running_var
    tensors = (x, norm.weight, norm.bias, gain, offset, norm.running_mean, fixed)
    result, mean, variance = _ScaleInstances.apply(*tensors, (norm.eps, eps, whole))
    if norm.training:
        count = x.numel() // x.shape[1] * (1 if whole is None else whole.parts)
        norm.note_pass(BatchStatistics(mean, variance, count))
    return result  # type: ignore[no-any-return]


class _ScaleInstances(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0913 - autograd takes tensors one by one
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        gain: Tensor,
        offset: Tensor,
        running_mean: Tensor,
        fixed: Tensor | None,
        settings: tuple[float, float, Whole | None],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Result, mean and variance of the batch. fixed: the variance that BatchNorm divides by in evaluation mode.

        x (n, c, h, w). weight, bias, running_mean: (c,), of the BatchNorm. gain, offset: (n, c). settings: eps of the
        BatchNorm, eps of the instance norm, and what merges the statistics of all ranks.
        """
        batch_eps, eps, whole = settings
        instances = instance_moments(x)
        batch = batch_moments(instances)
        if whole is not None and fixed is None:
            mean, variance = whole.moments(batch.mean, batch.variance, running_mean)
            batch = Moments(mean, variance.clamp(min=0).to(mean.dtype))
        inverse = torch.rsqrt((batch.variance if fixed is None else fixed) + batch_eps)
        slope = weight * inverse
        root = torch.rsqrt(slope.square() * instances.variance + eps)
        steepness = slope * root
        scale = gain * steepness
        result = _affine(x, scale, torch.addcmul(offset, scale, instances.mean, value=-1))
        ctx.save_for_backward(x, gain, instances.mean, batch.mean, inverse, slope, root, steepness, scale)
        ctx.eps, ctx.whole, ctx.moves = eps, whole, fixed is None
        ctx.mark_non_differentiable(batch.mean, batch.variance)
        ctx.set_materialize_grads(False)  # of the two
        return result, batch.mean, batch.variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, gain, mean, batch_mean, inverse, slope, root, steepness, scale = ctx.saved_tensors
        gradient = gradients[0]
        count, cells = len(x), x.shape[2] * x.shape[3]
        d_offset = gradient.sum((2, 3), dtype=mean.dtype)
        d_scale = torch.addcmul((gradient * x).sum((2, 3), dtype=mean.dtype), mean, d_offset, value=-1)
        # The derivative of slope * root by the slope is eps * root^3, by the variance -slope^3 * root^3 / 2. With
        # -2 / cells before it, the sum of both ways to the variances is `steep`, the factor of x - mean in d_x.
        cube = d_scale * gain * root.pow(3)
        d_slope = cube.sum(0).mul_(ctx.eps)
        steep = cube * slope.pow(3)
        shift = steep * mean
        if ctx.moves:
            # The gradient of the whole batch's loss at the slope, spread over the instances of the whole batch.
            d_whole = d_slope if ctx.whole is None else ctx.whole.sum(d_slope) / ctx.whole.parts
            share = d_whole * slope * inverse.square() / count
            steep = steep + share
            shift = torch.addcmul(shift, share, batch_mean)
        shift = torch.addcmul(shift, scale, d_offset, value=-1) / cells
        d_x = _affine(x, steep, shift, -1 / cells).addcmul_(gradient, scale[:, :, None, None])
        d_bias = torch.zeros_like(slope) if ctx.needs_input_grad[2] else None
        return d_x, d_slope * inverse, d_bias, d_scale * steepness, d_offset, None, None, None


def _affine(x: Tensor, scale: Tensor, shift: Tensor, factor: float = 1.0) -> Tensor:
    """factor * scale * x + shift, each (n, c), in the type of x; computed in theirs. factor: of all."""
    scale, shift = scale[:, :, None, None], shift[:, :, None, None]
    if x.dtype == scale.dtype:  # no `to` that does nothing: in an autograd function dynamo loses the gradient there
        return torch.addcmul(shift, x, scale, value=factor)
    if torch.compiler.is_compiling():
        return torch.addcmul(shift, x, scale, value=factor).to(x.dtype)
    return torch.addcmul(shift, x, scale, value=factor, out=torch.empty_like(x))  # one pass: it casts on its way
