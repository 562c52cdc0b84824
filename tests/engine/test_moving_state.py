from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ialcms.engine.moving_state import MovingState
from ialcms.models.critic import spectral_norm


def network() -> nn.Module:
    """Two BatchNorm layers, one of them frozen, a spectral norm, a constant."""
    layers = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3).requires_grad_(False), spectral_norm(nn.Linear(3, 3)))
    layers.register_buffer("constant", torch.ones(2), persistent=False)
    return layers


def buffers(module: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in module.named_buffers()}


def changed(before: dict[str, Tensor], module: nn.Module) -> set[str]:
    return {name for name, buffer in module.named_buffers() if not torch.equal(before[name], buffer)}


def test_what_moves_is_put_back_and_nothing_else() -> None:
    module = network()
    start, storages = buffers(module), {b.untyped_storage().data_ptr() for b in module.buffers()}
    moving = MovingState(module)
    assert changed(start, module) == set()
    assert len({b.untyped_storage().data_ptr() for b in module.buffers()}) < len(storages)
    moving.save()
    for buffer in module.buffers():
        buffer.add_(1)
    everything = changed(start, module)
    moving.restore()
    left = changed(start, module)
    assert left == {"1.running_mean", "1.running_var", "1.num_batches_tracked", "constant"}
    assert {name.split(".")[0] for name in everything - left} == {"0", "2"}


def test_a_flag_on_the_device_decides() -> None:
    module = network()
    moving = MovingState(module)
    moving.save()
    start = buffers(module)
    module[0].running_mean.fill_(torch.nan)  # type: ignore[union-attr, operator]
    moving.restore(where=torch.tensor(False))
    assert changed(start, module) == {"0.running_mean"}
    moving.restore(where=torch.tensor(True))
    assert changed(start, module) == set()


def test_views_survive_loading_and_copying() -> None:
    module = network()
    moving = MovingState(module)
    state = {name: value + 1 for name, value in module.state_dict().items()}
    module.load_state_dict(state)
    twin = copy.deepcopy(module)
    loaded = buffers(module)
    moving.save()
    module[0].running_mean.zero_()  # type: ignore[union-attr, operator]
    assert changed(loaded, twin) == set()  # a copy has memory of its own
    moving.restore()
    assert changed(loaded, module) == set()


def test_a_change_of_one_buffer_is_none_of_another() -> None:
    """Autograd keeps the running statistics of the first layer for its backward pass."""
    first, second = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    MovingState(nn.Sequential(first, second))
    output = first(torch.randn(4, 3, generator=torch.Generator().manual_seed(1)))
    assert second.running_mean is not None
    second.running_mean.lerp_(torch.ones(3), 0.1)
    output.square().sum().backward()
    assert first.weight.grad is not None
