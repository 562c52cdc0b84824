from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ialcms.models import strided_conv
from ialcms.models.strided_conv import halving_conv


@pytest.mark.parametrize("size", [(8, 8), (2, 6), (16, 4)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_product_is_the_convolution(
    size: tuple[int, int], layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results and both gradients, in double precision."""
    torch.manual_seed(0)
    x = torch.randn(3, 5, *size, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    weight = torch.randn(7, 5, 4, 4, dtype=torch.float64, requires_grad=True)
    expected = F.conv2d(x, weight, stride=2, padding=1)
    given = torch.randn_like(expected)

    monkeypatch.setattr(strided_conv, "LARGE", 0)
    result = halving_conv(x, weight)
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)
    assert result.is_contiguous(memory_format=torch.channels_last)
    own = torch.autograd.grad(result, (x, weight), given)
    for gradient, reference in zip(own, torch.autograd.grad(expected, (x, weight), given)):
        torch.testing.assert_close(gradient, reference, rtol=1e-12, atol=1e-12)


def test_small_weights_are_convolved(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(strided_conv, "by_product", lambda x, weight: seen.append(weight))
    halving_conv(torch.randn(1, 8, 4, 4), torch.randn(8, 8, 4, 4))
    assert not seen
    halving_conv(torch.randn(1, 512, 4, 4), torch.randn(512, 512, 4, 4))
    assert len(seen) == 1
