"""BatchNorm over the batches of several ranks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ialcms.engine import Ranks
from ialcms.engine.batchnorm import synchronise
from tests.support.states import clone


def batchnorm(ranks: Ranks) -> dict[str, Tensor]:
    """GlobalBatchNorm on this rank's rows of `joined_batch`: output, gradients of a loss over all, statistics.

    The ranks' parts have different means and variances.
    """
    layer = nn.BatchNorm2d(5).double()
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(0.5, 1.5, 5))
        layer.bias.copy_(torch.linspace(-1, 1, 5))
    network = synchronise(nn.Sequential(layer), ranks)
    network.to(ranks.device)
    x = joined_batch(ranks.world_size)[ranks.rank].to(ranks.device).requires_grad_()
    output = network(x)
    (output**3).sum().backward()
    sums = [ranks.sum(p.grad) for p in network.parameters() if p.grad is not None]
    again = network(x.detach() + 1)  # a second pass, for the running statistics
    assert x.grad is not None
    result = {"output": output, "again": again, "input_gradient": x.grad}
    result |= {"weight_gradient": sums[0], "bias_gradient": sums[1]}
    single = synchronise(nn.Sequential(nn.BatchNorm2d(5)), ranks).to(ranks.device)
    result["single precision"] = single(x.detach().float())
    return clone({**result, **{name.removeprefix("0."): buffer for name, buffer in network.named_buffers()}})  # type: ignore[no-any-return]


def joined_batch(world_size: int) -> list[Tensor]:
    """Per rank (2, 5, 3, 4) in double precision, with an offset that would cancel in E[x^2] - E[x]^2."""
    generator = torch.Generator().manual_seed(3)
    draw = [torch.randn(2, 5, 3, 4, generator=generator, dtype=torch.float64) for _ in range(world_size)]
    return [1e4 + 3 * r + (1 + r) * x for r, x in enumerate(draw)]
