"""The same on GPUs, by NCCL, one GPU a rank; skipped where there are none.

Tolerances are those of test_world_sizes.py between numbers of ranks. Against the CPU, whose sums and FFTs have
another order throughout, ten times as much is allowed.
"""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import nn

from tests.engine.cases.batchnorm import joined_batch
from tests.engine.cases.communication import gather_rows
from tests.engine.cases.steps import ENGINES
from tests.engine.compare import Run, largest_in_state, loss_difference, output_difference, way_difference
from tests.engine.conftest import BF16, COMPRESSED, DOUBLE, LOCAL_BATCHNORM, SINGLE, Launch, single, zero
from tests.engine.test_world_sizes import (
    LOSS,
    OUTPUT,
    WAY,
    assert_equal_in_double_precision,
    assert_equal_in_single_precision,
)

GPUS = torch.cuda.device_count() if torch.cuda.is_available() else 0
one_gpu = pytest.mark.skipif(GPUS < 1, reason="needs a GPU; this machine shows none to torch")
two_gpus = pytest.mark.skipif(GPUS < 2, reason=f"needs two GPUs; this machine shows {GPUS} to torch")
pytestmark = [pytest.mark.gpu, pytest.mark.distributed]
needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="needs DeepSpeed, which is not installed"
)
BY_ENGINE = [single(engine="ddp"), *(zero(stage) for stage in range(4))]


@one_gpu
def test_a_gpu_computes_what_a_cpu_does(launch: Launch, alone: dict[str, Run]) -> None:
    (ours,) = launch("1 GPU")
    assert loss_difference(ours[DOUBLE], alone[DOUBLE]) < 1e-7
    assert largest_in_state(ours[DOUBLE], alone[DOUBLE]) < (1e-7,)
    assert loss_difference(ours[SINGLE], alone[SINGLE]) < 10 * LOSS
    assert output_difference(ours[SINGLE], alone[SINGLE]) < 10 * OUTPUT
    assert way_difference(ours[SINGLE], alone[SINGLE], "separator") < 10 * WAY


@one_gpu
def test_bf16_on_a_gpu(launch: Launch, alone: dict[str, Run]) -> None:
    assert loss_difference(launch("1 GPU")[0][BF16], alone[SINGLE]) < 0.05


@one_gpu
@needs_deepspeed
@pytest.mark.parametrize("case", BY_ENGINE)
def test_engines_on_one_gpu(launch: Launch, case: str) -> None:
    assert_equal_in_single_precision(launch("1 GPU, engines")[0][case], launch("1 GPU")[0][SINGLE])


@two_gpus
@needs_deepspeed
def test_two_gpus_in_double_precision(launch: Launch) -> None:
    assert_equal_in_double_precision(launch("2 GPUs")[0][DOUBLE], launch("1 GPU")[0][DOUBLE])


@two_gpus
@needs_deepspeed
@pytest.mark.parametrize("case", [SINGLE, *BY_ENGINE[1:]])
def test_engines_on_two_gpus(launch: Launch, case: str) -> None:
    assert_equal_in_single_precision(launch("2 GPUs")[0][case], launch("1 GPU")[0][SINGLE])


@two_gpus
@needs_deepspeed
@pytest.mark.parametrize("case", [DOUBLE, SINGLE, LOCAL_BATCHNORM, COMPRESSED, BF16, *BY_ENGINE[1:]])
def test_two_gpus_are_identical(launch: Launch, case: str) -> None:
    first, second = launch("2 GPUs")
    assert first[case]["checksum"] == second[case]["checksum"]


@two_gpus
@needs_deepspeed
def test_two_gpus_stay_identical_over_200_steps(launch: Launch) -> None:
    first, second = (result["long_run"] for result in launch("2 GPUs"))
    assert first == second


@two_gpus
@needs_deepspeed
@pytest.mark.parametrize("engine", ENGINES)
def test_mixed_precision_in_all_passes(launch: Launch, engine: str) -> None:
    for result in launch("2 GPUs"):
        assert result["bf16_passes"][engine] == ["torch.bfloat16"]


@two_gpus
@needs_deepspeed
def test_batchnorm_and_gather_on_two_gpus(launch: Launch) -> None:
    results = launch("2 GPUs")
    layer = nn.BatchNorm2d(5).double()
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(0.5, 1.5, 5))
        layer.bias.copy_(torch.linspace(-1, 1, 5))
    x = torch.cat(joined_batch(2)).requires_grad_()
    (layer(x) ** 3).sum().backward()
    assert x.grad is not None
    gradients = torch.cat([result["batchnorm"]["input_gradient"] for result in results])
    torch.testing.assert_close(gradients, x.grad, rtol=1e-6, atol=1e-8)
    assert all(torch.equal(result["gather"], gather_rows(2)) for result in results)


@two_gpus
@needs_deepspeed
def test_faults_on_two_gpus(launch: Launch) -> None:
    for result in launch("2 GPUs"):
        assert "encoder.stem.0.weight of rank 1 differs" in result["disagreement"]["weight"]
        for engine in ENGINES:
            case = result["not_finite"][engine]
            assert case["scalars"] == {}
            assert "skipped step 2 and train.max_skipped_steps is 1" in case["error"]
