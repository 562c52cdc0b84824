"""The same global batches give the same networks on 1, 2 and 4 workers: real processes, gloo, small networks.

Tolerances
----------
In double precision the largest difference after 20 steps is 1e-10 of a tensor's largest value; 1e-8 is asked for.

In float32 a difference of 1e-7 grows where gradients are small differences of large terms, and Adam makes a full step
of what is left. Measured on 2 and 4 workers: losses differ by MEASURED_LOSS, the separator's parameters by MEASURED_SEP
of the way that they have gone, its outputs by MEASURED_OUT; the critic, for which all components look alike at the
start, by MEASURED_CRITIC of its way. Statistics of BatchNorm per worker, a usual mistake, are far outside the
tolerances; a test makes sure of it.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.engine.compare import (
    Run,
    bank_difference,
    largest_in_state,
    loss_difference,
    norm_difference,
    output_difference,
    way_difference,
)
from tests.engine.conftest import Launch
from tests.engine.program import gather_rows, joined_batch

pytestmark = pytest.mark.distributed

WORLDS = ["2 workers", "4 workers"]
LOSS, OUTPUT, SEPARATOR_WAY, CRITIC_WAY = 5e-4, 1e-2, 1e-2, 4e-2  # tolerances in float32
BANK = 1e-3  # the memory bank's 16 bits round a component's last bit up or down


def assert_equal_in_double_precision(ours: Run, reference: Run) -> None:
    assert loss_difference(ours, reference) < 1e-8
    assert norm_difference(ours, reference) < 1e-8
    assert largest_in_state(ours, reference) < (1e-8,)
    assert bank_difference(ours, reference) < BANK


@pytest.mark.parametrize("world", WORLDS)
def test_double_precision(launch: Launch, alone: dict[str, Run], world: str) -> None:
    assert_equal_in_double_precision(launch(world)[0]["alternate_steps:dtype=float64"], alone["float64"])


@pytest.mark.parametrize("world", WORLDS)
def test_single_precision(launch: Launch, alone: dict[str, Run], world: str) -> None:
    ours, reference = launch(world)[0]["alternate_steps"], alone["float32"]
    assert loss_difference(ours, reference) < LOSS
    assert output_difference(ours, reference) < OUTPUT
    assert way_difference(ours, reference, "separator") < SEPARATOR_WAY
    assert way_difference(ours, reference, "critic") < CRITIC_WAY
    assert bank_difference(ours, reference) < OUTPUT


def test_a_mistake_would_show(launch: Launch, alone: dict[str, Run]) -> None:
    """The tolerances of float32 against local statistics of BatchNorm."""
    local = launch("2 workers")[0]["alternate_steps:sync_batchnorm=false"]
    assert loss_difference(local, alone["float32"]) > 10 * LOSS
    assert output_difference(local, alone["float32"]) > 10 * OUTPUT
    assert way_difference(local, alone["float32"], "separator") > 10 * SEPARATOR_WAY


def test_accumulation_on_two_workers(launch: Launch, alone: dict[str, Run]) -> None:
    """The same micro-batches, so the same statistics of BatchNorm, on one worker and on two."""
    ours = launch("2 workers")[0]["alternate_steps:dtype=float64,accumulation=2"]
    assert_equal_in_double_precision(ours, alone["accumulated"])


def test_accumulation_against_one_pass(launch: Launch, alone: dict[str, Run]) -> None:
    """Without BatchNorm's statistics, which are those of a pass, micro-batches give what the batch as a whole gives."""
    ours = launch("2 workers")[0]["alternate_steps_without_batchnorm:accumulation=2"]
    assert_equal_in_double_precision(ours, alone["without batchnorm"])


@pytest.mark.parametrize("world", WORLDS)
def test_workers_are_identical(launch: Launch, world: str) -> None:
    results = launch(world)
    for case in ("alternate_steps:dtype=float64", "alternate_steps"):
        assert len({result[case]["checksum"] for result in results}) == 1


def test_workers_stay_identical_over_200_steps(launch: Launch) -> None:
    first, second = (result["long_run"] for result in launch("2 workers"))
    assert len(set(first)) == 10  # it trains
    assert first == second


@pytest.mark.parametrize("world", WORLDS)
def test_batchnorm_of_the_joined_batch(launch: Launch, world: str) -> None:
    results = [result["batchnorm"] for result in launch(world)]
    layer = nn.BatchNorm2d(5).double()
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(0.5, 1.5, 5))
        layer.bias.copy_(torch.linspace(-1, 1, 5))
    x = torch.cat(joined_batch(len(results))).requires_grad_()
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


@pytest.mark.parametrize("world", WORLDS)
def test_gather_passes_gradients_to_the_worker_whose_rows_they_are(launch: Launch, world: str) -> None:
    results = [result["gather_gradient"] for result in launch(world)]
    x = gather_rows(len(results)).requires_grad_()
    (x @ x.T).exp().mean().backward()
    for result in results:
        assert torch.equal(result["gathered"], x.detach())
    torch.testing.assert_close(torch.cat([result["gradient"] for result in results]), x.grad)
