"""Against the direct form: upsample, put side by side, convolve; in double precision, gradients included."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ialcms.models import upsampled_conv
from ialcms.models.upsampled_conv import UpsampledConv2d, conv_of_upsampled

pytestmark = pytest.mark.usefixtures("double_precision")


def upsampled(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)


def assert_same(ours: Callable[[], Tensor], direct: Callable[[], Tensor], inputs: list[Tensor]) -> None:
    first, second = ours(), direct()
    torch.testing.assert_close(first, second, rtol=1e-10, atol=1e-11)
    weights = torch.randn_like(first)
    gradients = [torch.autograd.grad(result, inputs, weights) for result in (first, second)]
    for a, b in zip(*gradients):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("form", ["full", "product", "half", "direct", "auto"])
@pytest.mark.parametrize(
    ("cells", "size"), [((4, 3), (8, 6)), ((3, 3), (5, 5)), ((1, 1), (2, 2)), ((2, 1), (4, 2)), ((2, 9), (4, 18))]
)
@pytest.mark.parametrize("outputs", [1, 17])
def test_every_form_and_size(form: str, cells: tuple[int, int], size: tuple[int, int], outputs: int) -> None:
    x = torch.randn(2, 5, *cells, requires_grad=True)
    weight = torch.randn(outputs, 5, 3, 3, requires_grad=True)
    assert_same(
        lambda: conv_of_upsampled(x, weight, size, form),
        lambda: F.conv2d(upsampled(x, size), weight, padding=1),
        [x, weight],
    )


@pytest.mark.parametrize("form", ["full", "half", "direct"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("objects", [1, 2, 6])
@pytest.mark.parametrize("cells", [(1, 1), (3, 2)])
def test_shared_pictures_are_those_of_each_object(
    monkeypatch: pytest.MonkeyPatch, form: str, bias: bool, objects: int, cells: tuple[int, int]
) -> None:
    monkeypatch.setattr(upsampled_conv, "FORM", form)
    conv = UpsampledConv2d(7, 4, bias=bias)
    x = torch.randn(2 * objects, 4, *cells, requires_grad=True)
    shared = torch.randn(2, 3, *cells, requires_grad=True)

    def direct() -> Tensor:
        joined = torch.cat([shared.repeat_interleave(objects, dim=0), x], dim=1)
        return F.conv2d(upsampled(joined, (2 * cells[0], 2 * cells[1])), conv.weight, conv.bias, padding=1)

    assert_same(lambda: conv(x, shared), direct, [x, shared, *conv.parameters()])


@pytest.mark.parametrize("cells", [(1, 1), (1, 4), (3, 2)])
def test_a_constant_half(cells: tuple[int, int]) -> None:
    conv = UpsampledConv2d(7, 4)
    x = torch.randn(3, 2, *cells, requires_grad=True)
    constant = torch.randn(3, 5, requires_grad=True)

    def direct() -> Tensor:
        everywhere = constant[:, :, None, None].expand(-1, -1, *cells)
        joined = torch.cat([everywhere, x], dim=1)
        return F.conv2d(upsampled(joined, (2 * cells[0], 2 * cells[1])), conv.weight, padding=1)

    assert_same(lambda: conv(x, constant=constant), direct, [x, constant, conv.weight])


@pytest.mark.parametrize(("cells", "size"), [((2, 2), (4, 4)), ((3, 3), (5, 5)), ((1, 1), (2, 2))])
def test_a_fine_picture_beside_it(cells: tuple[int, int], size: tuple[int, int]) -> None:
    conv = UpsampledConv2d(7, 4, bias=True)
    x, fine = torch.randn(3, 5, *cells, requires_grad=True), torch.randn(3, 2, *size, requires_grad=True)
    assert_same(
        lambda: conv(x, fine=fine),
        lambda: F.conv2d(torch.cat([upsampled(x, size), fine], 1), conv.weight, conv.bias, padding=1),
        [x, fine, *conv.parameters()],
    )


@pytest.mark.parametrize("form", ["full", "product", "half", "direct"])
def test_bf16_stays_in_16_bits(form: str) -> None:
    x = torch.randn(2, 8, 6, 6, dtype=torch.float32)
    weight = torch.randn(4, 8, 3, 3, dtype=torch.float32)
    exact = conv_of_upsampled(x, weight, (12, 12), form)
    with torch.autocast("cpu", torch.bfloat16):
        rough = conv_of_upsampled(x, weight, (12, 12), form)
    assert rough.dtype == torch.bfloat16
    assert (rough - exact).abs().max() < 0.02 * exact.abs().max()


def test_constants_do_not_remember_inference_mode() -> None:
    """They are made at the first use, which may be a pass of evaluation; training must be able to save them."""
    x, weight = torch.randn(1, 3, 5, 7), torch.randn(2, 3, 3, 3)
    with torch.inference_mode():
        conv_of_upsampled(x, weight, (10, 14), "full")
    conv_of_upsampled(x.requires_grad_(), weight, (10, 14), "full").sum().backward()


def test_one_graph_for_the_compiler() -> None:
    x, weight = torch.randn(2, 5, 4, 4, requires_grad=True), torch.randn(6, 5, 3, 3)
    compiled = torch.compile(conv_of_upsampled, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, weight, (8, 8), "full"), conv_of_upsampled(x, weight, (8, 8), "full"))
    torch.testing.assert_close(compiled(x, weight, (8, 8), "half"), conv_of_upsampled(x, weight, (8, 8), "half"))
