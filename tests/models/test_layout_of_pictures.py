"""The layout changes strides, never values."""

from __future__ import annotations

import pytest
import torch

from ialcms.models import layout
from ialcms.models.build import build_networks
from tests.support import make_batch, small_config


@pytest.mark.parametrize("channels", [1, 3])
def test_strides(monkeypatch: pytest.MonkeyPatch, channels: int) -> None:
    x = torch.randn(2, channels, 4, 6)
    for name, last in (("auto", False), ("channels_last", True), ("contiguous", False)):
        monkeypatch.setattr(layout, "LAYOUT", name)
        arranged = layout.arrange(x)
        assert torch.equal(arranged, x)
        assert (arranged.stride(1) == 1) == last
        weight = torch.randn(8, channels, 3, 3)
        assert layout.arrange(x, on_cpu=True).stride(1) == (24 if name == "contiguous" else 1)
        assert torch.nn.functional.conv2d(arranged, weight).is_contiguous(memory_format=torch.channels_last) == last


def test_networks_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients of the critic and the visual net, outputs of all. The encoder's backward pass with channels last writes
    beyond its memory on processors without AVX-512 (torch 2.11): no run uses it there, and `auto` never does.
    """
    config = small_config()
    batch = make_batch(config, 0)
    pairs = torch.tensor([[0, 1], [2, 3]])
    results = []
    for name in ("channels_last", "contiguous"):
        monkeypatch.setattr(layout, "LAYOUT", name)
        separator, critic = build_networks(config)
        assert critic is not None
        with torch.no_grad():
            output = separator(batch.mix, batch.objects)
        visual, _ = separator.visual(batch.objects.flatten(0, 2))
        (visual.square().mean() + critic(output.magnitude.flatten(0, 2), pairs).sum()).backward()
        parameters = [*separator.parameters(), *critic.parameters()]
        gradients = [p.grad for p in parameters if p.grad is not None]
        assert len(gradients) > 20
        results.append([output.mask, visual, *gradients])
    for a, b in zip(*results):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
