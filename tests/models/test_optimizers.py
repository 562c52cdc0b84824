"""Fused Adam, its saved states, and what of the networks it leaves alone."""

from __future__ import annotations

import copy
from typing import Any

import torch

from ialcms.models import Separator
from ialcms.models.build import build_networks, critic_optimizer, separator_optimizer
from tests.support import make_batch, small_config

CONFIG = small_config()


def trained(separator: Separator, optimizer: torch.optim.Optimizer, steps: int) -> list[torch.Tensor]:
    """Parameters after steps on gradients that depend on parameter and step alone."""
    for step in range(steps):
        for number, parameter in enumerate(separator.parameters()):
            if parameter.requires_grad:
                generator = torch.Generator().manual_seed(100 * number + step)
                parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
    return [parameter.detach().clone() for parameter in separator.parameters()]


def as_earlier_versions(optimizer: torch.optim.Optimizer, separator: Separator) -> dict[str, Any]:
    """The saved state of an Adam that was not fused and had moments of all parameters of its groups."""
    state = copy.deepcopy(optimizer.state_dict())
    for group in state["param_groups"]:
        group["fused"] = None
    audio = state["param_groups"][0]["params"]
    own = optimizer.param_groups[0]["params"]
    for number, parameter in zip(audio, own):
        if number not in state["state"] and not parameter.requires_grad:
            moments = {"exp_avg": torch.ones_like(parameter), "exp_avg_sq": torch.ones_like(parameter)}
            state["state"][number] = {"step": torch.tensor(3.0), **moments}
    return state


def test_fused_is_adam() -> None:
    (first, _), (second, _) = build_networks(CONFIG), build_networks(CONFIG)
    ours = separator_optimizer(first, CONFIG)
    assert ours.defaults["fused"] is True
    plain = torch.optim.Adam([{**g, "fused": False} for g in separator_optimizer(second, CONFIG).param_groups])
    for a, b in zip(trained(first, ours, 3), trained(second, plain, 3)):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_a_state_of_an_earlier_version_goes_on_fused_and_without_what_is_frozen() -> None:
    (at_once, _), (begun, _) = build_networks(CONFIG), build_networks(CONFIG)
    expected = trained(at_once, separator_optimizer(at_once, CONFIG), 5)
    optimizer = separator_optimizer(begun, CONFIG)
    trained(begun, optimizer, 3)
    saved = as_earlier_versions(optimizer, begun)
    numbers = len(saved["state"])
    assert numbers == len(optimizer.state_dict()["state"]) + 4

    resumed, _ = build_networks(CONFIG)
    resumed.load_state_dict(begun.state_dict())
    again = separator_optimizer(resumed, CONFIG)
    again.load_state_dict(saved)
    assert len(saved["state"]) == numbers  # what was loaded is as it was
    assert all(group["fused"] is True for group in again.param_groups)
    assert len(again.state_dict()["state"]) == numbers - 4
    for step in (3, 4):
        for number, parameter in enumerate(resumed.parameters()):
            if parameter.requires_grad:
                generator = torch.Generator().manual_seed(100 * number + step)
                parameter.grad = torch.randn(parameter.shape, generator=generator)
        again.step()
    assert all(torch.equal(a, b) for a, b in zip(expected, resumed.parameters()))


def test_frozen_offsets_have_no_effect_and_are_saved() -> None:
    separator, critic = build_networks(CONFIG)
    assert critic is not None
    assert critic_optimizer(critic, CONFIG).defaults["fused"] is True
    batch = make_batch(CONFIG, 0)
    for training in (True, False):
        separator.train(training)
        with torch.no_grad():
            before = separator(batch.mix, batch.objects).mask
            for block in separator.decoder.blocks:
                block.norm.bias.normal_()
            after = separator(batch.mix, batch.objects).mask
        torch.testing.assert_close(before, after, rtol=0, atol=0)
    assert {f"decoder.blocks.{n}.norm.bias" for n in range(4)} < set(separator.state_dict())
