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
from torch.nn.modules.batchnorm import _BatchNorm

from ialcms.models.norm import move_running_statistics


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
    mean = x.sum((2, 3), dtype=torch.float32) / cells
    square = torch.linalg.vector_norm(x, dim=(2, 3), dtype=torch.float32).square() / cells
    return Moments(mean, (square - mean.square()).clamp(min=0))


def batch_moments(instances: Moments) -> Moments:
    """Of each channel over all instances, (c,)."""
    mean = instances.mean.mean(0)
    return Moments(mean, (instances.variance + (instances.mean - mean).square()).mean(0))


def scale_instances(
    x: Tensor, norm: _BatchNorm, gain: Tensor, offset: Tensor, *, whole: Whole | None = None, eps: float = 1e-5
) -> Tensor:
    """instance_norm(norm(x)) * gain + offset; moves the running statistics of `norm` while it trains.

    whole: where the statistics of BatchNorm are those of all ranks' instances. eps: of the instance normalisation.
    """
    fixed = None if norm.training else norm.running_var
    tensors = (x, norm.weight, norm.bias, gain, offset, norm.running_mean, fixed)
    result, mean, variance = _ScaleInstances.apply(*tensors, (norm.eps, eps, whole))
    if norm.training:
        count = x.numel() // x.shape[1] * (1 if whole is None else whole.parts)
        move_running_statistics(norm, mean, variance, count=count)
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
        scale = gain * slope * root
        result = _affine(x, scale, offset - scale * instances.mean)
        ctx.save_for_backward(x, weight, gain, instances.mean, batch.mean, inverse, root)
        ctx.eps, ctx.whole, ctx.moves = eps, whole, fixed is None
        ctx.mark_non_differentiable(batch.mean, batch.variance)
        return result, batch.mean, batch.variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, gain, mean, batch_mean, inverse, root = ctx.saved_tensors
        gradient = gradients[0]
        cells = x.shape[2] * x.shape[3]
        slope = weight * inverse
        scale = gain * slope * root
        d_offset = gradient.sum((2, 3), dtype=mean.dtype)
        d_scale = (gradient * x).sum((2, 3), dtype=mean.dtype) - mean * d_offset
        # The derivative of slope * root by the slope is eps * root^3, by the variance -slope^3 * root^3 / 2.
        cube = d_scale * gain * root.pow(3)
        d_slope = ctx.eps * cube.sum(0)
        d_variance = cube * slope.pow(3) * -0.5
        d_mean = -scale * d_offset
        if ctx.moves:
            # The gradient of the whole batch's loss at the slope, spread over the instances of the whole batch.
            d_whole = d_slope if ctx.whole is None else ctx.whole.sum(d_slope) / ctx.whole.parts
            d_share = d_whole * weight * inverse.pow(3) * (-0.5 / len(x))
            d_variance = d_variance + d_share
            d_mean = d_mean + 2 * d_share * (mean - batch_mean)
        steep = d_variance * (2 / cells)
        d_x = _affine(x, steep, d_mean / cells - steep * mean).addcmul_(gradient, scale[:, :, None, None])
        d_bias = torch.zeros_like(weight) if ctx.needs_input_grad[2] else None
        return d_x, d_slope * inverse, d_bias, d_scale * slope * root, d_offset, None, None, None


def _affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """scale * x + shift, each (n, c), in the type of x; computed in theirs."""
    scale, shift = scale[:, :, None, None], shift[:, :, None, None]
    if x.dtype == scale.dtype:  # no `to` that does nothing: in an autograd function dynamo loses the gradient there
        return torch.addcmul(shift, x, scale)
    if torch.compiler.is_compiling():
        return torch.addcmul(shift, x, scale).to(x.dtype)
    return torch.addcmul(shift, x, scale, out=torch.empty_like(x))  # one pass: it casts on its way
