"""One launch of the workers per world size, shared by all tests of a session."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from ialcms.engine import Workers
from tests.engine import program
from tests.support import torchrun

Launch = Callable[[int], list[dict[str, Any]]]

CASES = {
    2: [
        "alternate_steps:dtype=float64",
        "alternate_steps",
        "alternate_steps:sync_batchnorm=false",
        "batchnorm",
        "gather_gradient",
        "long_run",
    ],
    4: ["alternate_steps:dtype=float64", "alternate_steps", "batchnorm", "gather_gradient"],
}


@pytest.fixture(scope="session")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Launch:
    """launch(world_size) -> per worker, a dictionary of case -> result."""
    done: dict[int, list[dict[str, Any]]] = {}

    def results(world_size: int) -> list[dict[str, Any]]:
        if world_size not in done:
            folder = tmp_path_factory.mktemp(f"world{world_size}")
            run = torchrun(world_size, program.__file__, str(folder), *CASES[world_size])
            assert run.returncode == 0, run.stderr
            done[world_size] = [torch.load(folder / f"{rank}.pt") for rank in range(world_size)]
        return done[world_size]

    return results


@pytest.fixture(scope="session")
def alone() -> dict[str, dict[str, Any]]:
    """The alternate steps on one worker without process group, per dtype."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with Workers() as workers:
        result = {dtype: program.alternate_steps(workers, dtype=dtype) for dtype in ("float32", "float64")}
    torch.set_num_threads(threads)
    return result
