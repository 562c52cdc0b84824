"""Against BatchNorm, instance normalisation, gain and offset one after the other; in double precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ialcms.models.instance_scaling import Moments, instance_moments, scale_instances
from ialcms.models.norm import BatchNorm2d

pytestmark = pytest.mark.usefixtures("double_precision")


def layer(channels: int) -> BatchNorm2d:
    norm = BatchNorm2d(channels)
    with torch.no_grad():
        norm.weight.uniform_(-1.5, 1.5)
        norm.bias.normal_()
        assert norm.running_var is not None
        norm.running_var.uniform_(0.5, 2)
    return norm


def direct(x: Tensor, norm: BatchNorm2d, gain: Tensor, offset: Tensor) -> Tensor:
    return F.instance_norm(norm(x)) * gain[:, :, None, None] + offset[:, :, None, None]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", [1.0, 0.01])  # small values: the two eps count
@pytest.mark.parametrize("count", [1, 6])
def test_result_gradients_and_running_statistics(training: bool, size: float, count: int) -> None:
    x = (size * torch.randn(count, 5, 8, 7) + 1).requires_grad_()
    gain, offset = torch.randn(2, count, 5).requires_grad_().unbind(0)
    ours, reference = layer(5), layer(5)
    reference.load_state_dict(ours.state_dict())
    weights = torch.randn(x.shape)
    results, gradients = [], []
    for function, norm in ((scale_instances, ours), (direct, reference)):
        norm.train(training)
        result = function(x, norm, gain, offset)
        results.append(result)
        gradients.append(torch.autograd.grad(result, (x, norm.weight, gain, offset), weights))
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-9)
    for a, b in zip(*gradients):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)
    for a, b in zip(ours.buffers(), reference.buffers()):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_the_offset_of_batchnorm_has_no_gradient() -> None:
    norm, gain, offset = layer(3), torch.randn(2, 3), torch.randn(2, 3)
    scale_instances(torch.randn(2, 3, 4, 4), norm, gain, offset).square().sum().backward()
    assert norm.bias.grad is not None
    assert not norm.bias.grad.any()


def test_moments_of_16_bits_are_those_of_32() -> None:
    x = (torch.randn(2, 3, 32, 32, dtype=torch.float32) + 2).bfloat16()
    for ours, exact in zip(instance_moments(x), instance_moments(x.double())):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-5)


def test_bf16() -> None:
    norm = layer(3).float()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float32)
    gain, offset = torch.randn(2, 2, 3, dtype=torch.float32)
    exact = x.clone().requires_grad_()
    rough = x.bfloat16().requires_grad_()
    first, second = (scale_instances(each, norm, gain, offset) for each in (exact, rough))
    assert second.dtype == torch.bfloat16
    assert (first - second).abs().max() < 0.02 * first.abs().max()
    for result in (first, second):
        result.float().pow(3).sum().backward()
    assert exact.grad is not None
    assert rough.grad is not None
    assert rough.grad.dtype == torch.bfloat16
    assert (exact.grad - rough.grad).abs().max() < 0.05 * exact.grad.abs().max()


class Parts:
    """The collectives of ranks that run one after the other, from what they had before."""

    def __init__(self, parts: int, moments: Moments | None = None, total: Tensor | None = None) -> None:
        self.parts, self._moments, self._total = parts, moments, total
        self.local: list[Any] = []

    def moments(self, mean: Tensor, variance: Tensor, about: Tensor) -> Moments:
        self.local.append(Moments(mean, variance))
        return Moments(mean, variance) if self._moments is None else self._moments

    def sum(self, values: Tensor) -> Tensor:
        self.local.append(values.clone())
        return values if self._total is None else self._total


def test_a_batch_in_parts_is_one_batch() -> None:
    """Two ranks' halves: statistics, result and gradients of the loss over both, as DDP averages it."""
    x = (0.02 * torch.randn(4, 5, 6, 6) + torch.randn(4, 1, 1, 1)).requires_grad_()
    gain, offset, weights = torch.randn(4, 5), torch.randn(4, 5), torch.randn(x.shape)
    norm, reference = layer(5), layer(5)
    reference.load_state_dict(norm.state_dict())
    whole = direct(x, reference, gain, offset)
    expected = torch.autograd.grad((whole * weights).sum() / 2, (x, reference.weight))

    halves = [slice(0, 2), slice(2, 4)]

    def run(part: slice, collectives: Parts) -> tuple[Tensor, tuple[Tensor, ...]]:
        fresh = layer(5)
        fresh.load_state_dict(norm.state_dict())
        own = x[part].detach().requires_grad_()
        result = scale_instances(own, fresh, gain[part], offset[part], whole=collectives)
        return result, torch.autograd.grad((result * weights[part]).sum(), (own, fresh.weight))

    first = [Parts(2), Parts(2)]
    for part, collectives in zip(halves, first):
        run(part, collectives)
    means, variances = map(torch.stack, zip(*(collectives.local[0] for collectives in first)))
    mean = means.mean(0)
    moments = Moments(mean, (variances + (means - mean).square()).mean(0))
    second = [Parts(2, moments), Parts(2, moments)]
    for part, collectives in zip(halves, second):
        run(part, collectives)
    total = torch.stack([collectives.local[1] for collectives in second]).sum(0)
    results, gradients = zip(*(run(part, Parts(2, moments, total)) for part in halves))
    torch.testing.assert_close(torch.cat(results), whole)
    torch.testing.assert_close(torch.cat([own for own, _ in gradients]) / 2, expected[0], rtol=1e-7, atol=1e-10)
    torch.testing.assert_close(sum(weight for _, weight in gradients) / 2, expected[1], rtol=1e-7, atol=1e-10)


def test_one_graph_for_the_compiler() -> None:
    x, gain, offset = torch.randn(2, 3, 4, 4), torch.randn(2, 3), torch.randn(2, 3)
    norm, other = layer(3), layer(3)
    other.load_state_dict(norm.state_dict())
    compiled = torch.compile(scale_instances, fullgraph=True, backend="aot_eager")
    gradients = []
    for function, each in ((scale_instances, norm), (compiled, other)):
        own = x.clone().requires_grad_()
        function(own, each, gain, offset).pow(3).sum().backward()
        gradients.append(own.grad)
    torch.testing.assert_close(*gradients)
    torch.testing.assert_close(norm.running_var, other.running_var)
