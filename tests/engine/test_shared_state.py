"""All ranks get the state of rank 0 to the bit: real processes, gloo."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ialcms.engine import Ranks, state_from_first
from tests.engine.cases.resuming import unusual_state
from tests.engine.conftest import Launch, Results

pytestmark = pytest.mark.distributed


@pytest.fixture
def results(launch: Launch) -> list[Results]:
    return [result["shared_state"] for result in launch("3 ranks")]


@pytest.mark.parametrize("blocks", ["small blocks", "large blocks"])
def test_to_the_bit(results: list[Results], blocks: str) -> None:
    for result in results:
        assert_same(result[blocks], unusual_state())


def assert_same(state: Any, expected: Any) -> None:
    assert type(state) is type(expected)
    if isinstance(expected, dict):
        assert list(state) == list(expected)
        for key, value in expected.items():
            assert_same(state[key], value)
    elif isinstance(expected, (list, tuple)):
        assert len(state) == len(expected)
        for value, expected_value in zip(state, expected):
            assert_same(value, expected_value)
    elif isinstance(expected, torch.Tensor):
        assert state.dtype == expected.dtype
        assert state.shape == expected.shape
        assert torch.equal(bits(state), bits(expected))
    else:
        assert state == expected


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().flatten().view(torch.uint8)


def test_strides_stay_where_memory_has_no_gaps(results: list[Results]) -> None:
    expected = unusual_state()
    for result in results:
        assert result["strides"]["pictures"] == expected["pictures"].stride()
    assert {result["strides"]["columns"] for result in results[1:]} == {expected["columns"].contiguous().stride()}


def test_a_refusal_stops_all_ranks(results: list[Results]) -> None:
    for result in results:
        missing, sparse = result["refusals"]
        assert missing == "no such checkpoint; give another one"
        assert "not a dense one on the CPU" in sparse


def test_one_rank_gets_the_state_itself() -> None:
    state = unusual_state()
    assert state_from_first(Ranks(), lambda: state) is state
