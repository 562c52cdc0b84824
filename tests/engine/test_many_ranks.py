"""16 and 32 ranks compute what one does: real processes, gloo, tiny networks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ialcms.engine import Ranks
from tests.engine.cases.steps import few_steps
from tests.engine.compare import Run
from tests.engine.conftest import Shared
from tests.engine.test_world_sizes import assert_equal_in_double_precision
from tests.support import python

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


@pytest.fixture(scope="module")
def one_rank(shared: Shared) -> Run:
    return shared("few steps", lambda folder: few_steps(Ranks()))  # type: ignore[no-any-return]


@pytest.mark.parametrize("count", [16, 32])
def test_many_ranks_are_one(one_rank: Run, tmp_path: Path, count: int) -> None:
    done = python("-m", "tests.engine.many_ranks", str(tmp_path), str(count), timeout_s=900)
    assert done.returncode == 0, done.stderr
    results = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(count)]
    assert {result["checksum"] for result in results} == {results[0]["checksum"]}
    assert_equal_in_double_precision(results[0], one_rank)
