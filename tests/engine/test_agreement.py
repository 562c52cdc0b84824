"""Ranks that differ are found: real processes, gloo."""

from __future__ import annotations

import re

import pytest

from tests.engine.conftest import Launch

pytestmark = pytest.mark.distributed


def test_a_difference_is_named(launch: Launch) -> None:
    first, second = (result["disagreement"] for result in launch("2 ranks"))
    assert first == second
    assert first["nothing"] == "no fault found"
    assert "before step 2, separator.encoder.stem.0.weight of rank 1 differs from rank 0's" in first["weight"]
    assert "as do 0 other tensors" in first["weight"]
    assert "rank 1 is at step 4, rank 0 at 2" in first["step"]
    assert first["field"] == (
        "train.validate_every is 10 on rank 1 and 9 on rank 0; start all ranks with the same configuration"
    )
    assert re.search(r"rank 1 is at configuration \w{16}, rank 0 at \w{16}", first["configuration"])
