"""What computes the same as torch's own with fewer launches, against torch's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ialcms.config import Config
from ialcms.losses import si_snr
from ialcms.models import Separator, casting
from ialcms.models.norm import BatchNorm1d, BatchNorm2d, BatchStatistics, move_all, move_together
from ialcms.models.unit_length import unit_length
from tests.support import make_batch, small_config


@pytest.mark.parametrize("p", [1, 2])
def test_unit_length(p: int) -> None:
    x = torch.randn(3, 5, 4, 2, dtype=torch.float64)
    x[0, :, 0, 0] = 0
    direction = torch.randn_like(x)
    found = []
    for function in (unit_length, lambda each, p: F.normalize(each, p=p, dim=1)):
        leaf = x.clone().requires_grad_()
        result = function(leaf, p)
        found.append((result, *torch.autograd.grad((result * direction).sum(), leaf)))
    for ours, theirs in zip(*found):
        torch.testing.assert_close(ours, theirs)


def test_unit_length_of_16_bits_is_float32() -> None:
    x = torch.randn(3, 5).bfloat16().requires_grad_()
    result = unit_length(x)
    torch.testing.assert_close(result, F.normalize(x.float(), dim=1))
    result.sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.bfloat16


def networks() -> tuple[nn.Sequential, nn.Sequential]:
    """Of our layers and of torch's; one layer sees a single value per channel, which torch refuses."""
    ours = nn.Sequential(BatchNorm2d(3), nn.Flatten(2), BatchNorm1d(3))
    theirs = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(2), nn.BatchNorm1d(3))
    return ours, theirs


@pytest.mark.parametrize("together", [True, False])
def test_statistics_of_all_layers(together: bool) -> None:
    ours, theirs = networks()
    layers = move_together(ours, together)
    for _ in range(3):
        x = torch.randn(2, 3, 4, 4)
        torch.testing.assert_close(ours(x), theirs(x))
        if together:
            assert int(ours[0].num_batches_tracked) == int(theirs[0].num_batches_tracked) - 1
            move_all(layers)
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name


def test_a_single_value_is_not_counted() -> None:
    layer = BatchNorm1d(3)
    layers = move_together(layer, True)
    layer(torch.randn(1, 3))
    move_all(layers)
    assert int(layer.num_batches_tracked) == 0
    layer(torch.randn(2, 3))
    move_all(layers)
    assert int(layer.num_batches_tracked) == 1


def test_statistics_that_are_moved_later() -> None:
    """As torch's layer moves them; `added` is taken out of the variance first, in its own type."""
    ours, theirs = BatchNorm2d(3), nn.BatchNorm2d(3)
    layers = move_together(ours, True)
    x = 3 * torch.randn(2, 3, 4, 4) + 1
    theirs(x)
    variance, mean = torch.var_mean(x.double(), (0, 2, 3), correction=0)
    ours.note_pass(BatchStatistics(mean.float(), variance + 1e-5, num_values=32, added=1e-5))
    move_all(layers)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value)


def outputs_and_gradients(config: Config) -> dict[str, Tensor]:
    """Of a pass of the separator in 16 bits."""
    torch.manual_seed(1)
    separator = Separator(config.model, config.audio).train()
    batch = make_batch(config, 0)
    torch.manual_seed(2)
    with torch.autocast("cpu", torch.bfloat16):
        output = separator(batch.mix, batch.objects)
    (output.mask.sum() + output.audio_embedding.square().sum() + output.visual_for_loss.sum()).backward()
    gradients = {name: p.grad for name, p in separator.named_parameters() if p.grad is not None}
    return {"mask": output.mask.detach(), "audio": output.audio_embedding.detach(), **gradients}


def test_weights_cast_together_compute_the_same_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_config()
    cast = []
    original = casting._copied
    monkeypatch.setattr(casting, "_copied", lambda tensors, dtype: cast.append(dtype) or original(tensors, dtype))
    together = outputs_and_gradients(config)
    assert torch.bfloat16 in cast
    assert torch.float32 in cast  # their gradients
    for module in ("separator", "visual", "unet"):
        monkeypatch.setattr(f"ialcms.models.{module}.with_cast_weights", _plain_call)
    one_by_one = outputs_and_gradients(config)
    assert together.keys() == one_by_one.keys()
    for name, value in one_by_one.items():
        assert torch.equal(together[name], value), name


def test_the_encoders_last_stage_has_its_gradients_before_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cast with the others it would have them when the backward pass has left the stem, too late to hide their sum."""
    arrived: list[str] = []
    original = Separator.__init__

    def observed(self: Separator, *args: Any) -> None:
        original(self, *args)
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(lambda _, name=name: arrived.append(name))

    monkeypatch.setattr(Separator, "__init__", observed)
    outputs_and_gradients(small_config())
    last = [arrived.index(name) for name in arrived if name.startswith("encoder.stages.3.")]
    assert len(last) > 4
    assert max(last) < arrived.index("encoder.stem.1.weight")


def _plain_call(part: nn.Module, *args: Any, apart: nn.Module | None = None, **options: Any) -> Any:
    return part(*args, **options)


def test_gradient_of_si_snr() -> None:
    """Against autograd through the definition, from noise to a nearly perfect estimate, and for silence."""
    torch.manual_seed(0)
    target = torch.randn(5, 400, dtype=torch.float64) + 0.3
    error = torch.tensor([10.0, 1.0, 0.1, 0.01, 1.0], dtype=torch.float64).unsqueeze(1)
    estimate = (2 * target + error * torch.randn_like(target)).requires_grad_()
    target[4] = 0
    e, t = (wave - wave.mean(-1, keepdim=True) for wave in (estimate, target))
    projection = (e * t).sum(-1, keepdim=True) / (t.square().sum(-1, keepdim=True) + 1e-8) * t
    signal, residual = projection.square().sum(-1), (e - projection).square().sum(-1)
    expected = 10 * torch.log10(signal / (residual + signal * 10**-2 + 1e-8) + 1e-8)
    ours = si_snr(estimate, target, cap_db=20)
    torch.testing.assert_close(ours, expected)
    weights = torch.randn(5, dtype=torch.float64)
    gradients = [torch.autograd.grad((score * weights).sum(), estimate)[0] for score in (ours, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-12)
