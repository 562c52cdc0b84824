"""DeepSpeed, ZeRO 0 to 3, gives DDP's update, and its states go over to any engine: real processes, gloo.

ZeRO 0 computes what DDP does, to the bit. ZeRO 1 to 3 step through one long vector in place of single parameters, which
rounds otherwise: they meet the tolerances of test_world_sizes.py. (In double precision DeepSpeed keeps some of its
vectors in float32, so there is nothing sharper to compare.)
"""

from __future__ import annotations

import pytest
import torch

from tests.engine.cases.steps import ENGINES
from tests.engine.compare import Run, largest_difference
from tests.engine.conftest import SINGLE, Launch, single, zero, zero_of_many
from tests.engine.test_world_sizes import assert_equal_in_single_precision
from tests.support.states import tensors

pytest.importorskip("deepspeed")
pytestmark = pytest.mark.distributed


def test_zero_0_is_ddp(launch: Launch) -> None:
    assert launch("deepspeed")[0][zero(0)]["checksum"] == launch("2 ranks")[0][SINGLE]["checksum"]


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_single_precision(launch: Launch, alone: dict[str, Run], stage: int) -> None:
    assert_equal_in_single_precision(launch("deepspeed")[0][zero(stage)], alone[SINGLE])


def test_more_ranks_than_a_node_has(launch: Launch, alone: dict[str, Run]) -> None:
    assert_equal_in_single_precision(launch("deepspeed")[0][zero_of_many(3)], alone[SINGLE])


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_accumulation(launch: Launch, stage: int) -> None:
    result = launch("deepspeed")[0]
    assert_equal_in_single_precision(result[zero(stage, accumulation=2)], result[single(accumulation=2)])


@pytest.mark.parametrize("engine", ENGINES)
def test_mixed_precision_in_all_passes(launch: Launch, engine: str) -> None:
    for result in launch("deepspeed"):
        assert result["bf16_passes"][engine] == ["torch.bfloat16"]


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_workers_are_identical(launch: Launch, stage: int) -> None:
    first, second = launch("deepspeed")
    assert first[zero(stage)]["checksum"] == second[zero(stage)]["checksum"]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("ranks", ["deepspeed", "3 ranks"])  # sums of three can be rounded in several ways
def test_resuming_changes_nothing(launch: Launch, engine: str, ranks: str) -> None:
    states = launch(ranks)[0]["resume"][engine]
    at_once, resumed = (dict(tensors(states[name])) for name in ("at once", "resumed"))
    assert at_once.keys() == resumed.keys()
    differing = [name for name in at_once if not torch.equal(at_once[name], resumed[name])]
    assert differing == []


@pytest.mark.parametrize("engine", ENGINES)
def test_resuming_with_another_engine(launch: Launch, engine: str) -> None:
    states = launch("deepspeed")[0]["resume"][engine]
    at_once, changed = (dict(tensors(states[name])) for name in ("at once", "resumed with ddp"))
    before = dict(tensors(states["middle"]))
    assert at_once.keys() == changed.keys() == before.keys()
    for name in at_once:
        assert at_once[name].shape == changed[name].shape
        assert largest_difference(changed[name], at_once[name]) < 1e-3, name
    moved = "separator.module.decoder.blocks.0.conv.weight"
    assert largest_difference(before[moved], at_once[moved]) > 1e-3


@pytest.mark.parametrize("engine", ENGINES)
def test_steps_with_nan_are_skipped_and_counted(launch: Launch, engine: str) -> None:
    for result in launch("deepspeed"):
        case = result["not_finite"][engine]
        before, after = dict(tensors(case["before"])), dict(tensors(case["after"]))
        assert [name for name in before if not torch.equal(before[name], after[name])] == []
        assert case["scalars"] == {}
        assert (case["before"]["skipped_steps"], case["after"]["skipped_steps"]) == (0, 1)


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_said_about_a_skipped_step(launch: Launch, engine: str) -> None:
    (line,) = launch("deepspeed")[0]["not_finite"][engine]["log"]
    assert "step 3: a separated component is not finite" in line
    assert "rank 1: input mix not finite" in line
    assert "clips lane1" in line
    assert "rank 0" not in line  # global statistics carry the NaN to it, but it is not to blame
    assert "Skipped (1 of at most 1)" in line


@pytest.mark.parametrize("engine", ENGINES)
def test_too_many_skipped_steps_end_the_run(launch: Launch, engine: str) -> None:
    cases = [result["not_finite"][engine] for result in launch("deepspeed")]
    error = cases[0]["error"]
    assert cases[1]["error"] == error
    assert error.startswith("step 6: the norm of the gradient of the separator is inf; rank 0: loss/critic 2.")
    assert "; rank 1: loss/critic 2." in error
    assert "loss/separation" in error
    assert "skipped step 2 and train.max_skipped_steps is 1" in error


@pytest.mark.parametrize("engine", ENGINES)
def test_an_infinite_gradient_of_one_network_leaves_it_alone(launch: Launch, engine: str) -> None:
    case = launch("deepspeed")[0]["not_finite"][engine]
    learned, end = dict(tensors(case["learned"])), dict(tensors(case["end"]))
    changed = {name.split(".")[0] for name in learned if not torch.equal(learned[name], end[name])}
    assert changed == {"critic", "bank"}  # the critic's update came first
