"""The same global batches give the same networks on 1, 2 and 4 workers: real processes, gloo, small networks.

Tolerances
----------
In double precision the largest difference after 20 steps is 5e-11 of a tensor's largest value; 1e-9 is asked for.

In float32 a difference of 1e-7 grows where gradients are small differences of large terms, and Adam makes a full step
of what is left. Measured on 2 and 4 workers: losses differ by 4e-5, the separator by 8e-5 of the way that it has gone,
its outputs by 1e-3; the critic, for which all components look alike at the start, by 1e-2 of its way. Offsets in
front of a normalisation have no effect, so their true gradient is 0 and their steps are rounding: they are left out.
Statistics of BatchNorm per worker, a usual mistake, give 0.05, 0.03 and 0.26; a test makes sure of it.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.engine.conftest import Launch
from tests.engine.program import gather_rows, joined_batch, tensors

pytestmark = pytest.mark.distributed

WORLD_SIZES = [2, 4]


def largest_difference(ours: Tensor, reference: Tensor) -> float:
    """Relative to the largest value; absolute below 0.01, where an offset without effect may have walked."""
    ours, reference = ours.double(), reference.double()
    return float((ours - reference).abs().max() / reference.abs().max().clamp(min=1e-2))


def of_network(state: Any, network: str) -> dict[str, Tensor]:
    """Parameters and buffers of a network, without offsets that a normalisation takes away again."""
    without_effect = (
        "channel_attention.0.bias",
        "fusion.0.bias",
        "fusion.3.bias",
        "common_space.0.bias",
        "reduce.0.bias",
        *(f"blocks.{n}.norm.bias" for n in range(4)),  # an instance normalisation follows
    )
    named = tensors(state[network]["module"])
    return {name: x for name, x in named if x.is_floating_point() and not name.endswith(without_effect)}


def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return float(torch.stack([(a[name] - b[name]).square().sum() for name in a]).sum().sqrt())


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_double_precision(launch: Launch, alone: dict[str, Any], world_size: int) -> None:
    ours, reference = launch(world_size)[0]["alternate_steps:dtype=float64"], alone["float64"]
    for step, (loss, expected) in enumerate(zip(ours["losses"], reference["losses"])):
        assert loss == pytest.approx(expected, rel=1e-9), step
    for part in ("state", "functions"):
        compared = dict(tensors(ours[part]))
        expected = dict(tensors(reference[part]))
        assert compared.keys() == expected.keys()
        for name, value in compared.items():
            # the bank's 16 bits round a component's last bit up or down
            assert largest_difference(value, expected[name]) < (1e-3 if name == "bank.slots" else 1e-9), name


LOSS, OUTPUT, SEPARATOR_WAY, CRITIC_WAY = 5e-4, 1e-2, 1e-3, 4e-2  # tolerances in float32


def loss_difference(ours: dict[str, Any], reference: dict[str, Any]) -> float:
    """The largest of any step and term; the separation loss, in dB, is of the order of 10."""
    assert [losses.keys() for losses in ours["losses"]] == [losses.keys() for losses in reference["losses"]]
    pairs = zip(ours["losses"], reference["losses"])
    return max(abs(a[name] - b[name]) for a, b in pairs for name in a if not name.startswith("gradient_norm"))


def way_difference(ours: dict[str, Any], reference: dict[str, Any], network: str) -> float:
    """Distance of the ends in units of the way from the start."""
    end, expected, start = (of_network(s, network) for s in (ours["state"], reference["state"], ours["start"]))
    return distance(end, expected) / distance(expected, start)


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_single_precision(launch: Launch, alone: dict[str, Any], world_size: int) -> None:
    ours, reference = launch(world_size)[0]["alternate_steps"], alone["float32"]
    assert loss_difference(ours, reference) < LOSS
    for name, value in ours["functions"].items():
        assert largest_difference(value, reference["functions"][name]) < OUTPUT, name
    assert way_difference(ours, reference, "separator") < SEPARATOR_WAY
    assert way_difference(ours, reference, "critic") < CRITIC_WAY
    assert largest_difference(ours["state"]["bank"]["slots"], reference["state"]["bank"]["slots"]) < OUTPUT


def test_a_mistake_would_show(launch: Launch, alone: dict[str, Any]) -> None:
    """The tolerances of float32 against local statistics of BatchNorm."""
    local, reference = launch(2)[0]["alternate_steps:sync_batchnorm=false"], alone["float32"]
    assert loss_difference(local, reference) > 10 * LOSS
    assert way_difference(local, reference, "separator") > 10 * SEPARATOR_WAY


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_workers_are_identical(launch: Launch, world_size: int) -> None:
    results = launch(world_size)
    for case in ("alternate_steps:dtype=float64", "alternate_steps"):
        assert len({result[case]["checksum"] for result in results}) == 1


def test_workers_stay_identical_over_200_steps(launch: Launch) -> None:
    first, second = (result["long_run"] for result in launch(2))
    assert len(set(first)) == 10  # it trains
    assert first == second


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_batchnorm_of_the_joined_batch(launch: Launch, world_size: int) -> None:
    results = [result["batchnorm"] for result in launch(world_size)]
    layer = nn.BatchNorm2d(5).double()
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(0.5, 1.5, 5))
        layer.bias.copy_(torch.linspace(-1, 1, 5))
    x = torch.cat(joined_batch(world_size)).requires_grad_()
    output = layer(x)
    (output**3).sum().backward()
    again = layer(x.detach() + 1)

    def close(a: Tensor, b: Tensor | None) -> None:
        assert b is not None
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)

    close(torch.cat([r["output"] for r in results]), output.detach())
    close(torch.cat([r["again"] for r in results]), again.detach())
    close(torch.cat([r["input_gradient"] for r in results]), x.grad)
    for result in results:
        close(result["weight_gradient"], layer.weight.grad)
        close(result["bias_gradient"], layer.bias.grad)
        for name, buffer in layer.named_buffers():
            close(result[name], buffer)
            assert torch.equal(result[name], results[0][name])


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_gather_passes_gradients_to_the_worker_whose_rows_they_are(launch: Launch, world_size: int) -> None:
    results = [result["gather_gradient"] for result in launch(world_size)]
    x = gather_rows(world_size).requires_grad_()
    (x @ x.T).exp().mean().backward()
    for result in results:
        assert torch.equal(result["gathered"], x.detach())
    torch.testing.assert_close(torch.cat([result["gradient"] for result in results]), x.grad)
