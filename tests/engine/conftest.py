"""A few launches of workers, shared by all tests of a session."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from ialcms.engine import Workers
from tests.engine import program
from tests.support import torchrun

Launch = Callable[[str], list[dict[str, Any]]]

BOTH_PRECISIONS = ["alternate_steps:dtype=float64", "alternate_steps"]
ACCUMULATED = [
    "alternate_steps:dtype=float64,accumulation=2",
    "alternate_steps_without_batchnorm:accumulation=2",
]


def zero(stage: int, **options: object) -> str:
    """The case of the alternate steps by DeepSpeed."""
    file = f"configs/deepspeed/zero{stage}.json"
    values = {"engine": "deepspeed", "deepspeed_config": file, **options}
    return "alternate_steps:" + ",".join(f"{key}={value}" for key, value in values.items())


# One launch each: the number of workers and what they do, one case after the other.
LAUNCHES = {
    "2 workers": (2, [*BOTH_PRECISIONS, *ACCUMULATED, "alternate_steps:sync_batchnorm=false", "batchnorm",
                      "gather_gradient", "long_run", "disagreement"]),
    "4 workers": (4, [*BOTH_PRECISIONS, "batchnorm", "gather_gradient"]),
    "deepspeed": (2, [*(zero(stage) for stage in range(4)), *(zero(stage, dtype="float64") for stage in (1, 2, 3)),
                      zero(2, dtype="float64", accumulation=2), "resume", "not_finite"]),
}  # fmt: skip


@pytest.fixture(scope="session")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Launch:
    """launch(name) -> per worker, a dictionary of case -> result."""
    done: dict[str, list[dict[str, Any]]] = {}

    def results(name: str) -> list[dict[str, Any]]:
        if name not in done:
            folder = tmp_path_factory.mktemp("launch")
            workers, cases = LAUNCHES[name]
            run = torchrun(workers, program.__file__, str(folder), *cases, timeout_s=600)
            assert run.returncode == 0, run.stderr
            done[name] = [torch.load(folder / f"{rank}.pt") for rank in range(workers)]
        return done[name]

    return results


@pytest.fixture(scope="session")
def alone() -> dict[str, dict[str, Any]]:
    """Cases on one worker without process group."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with Workers() as workers:
        result = {
            "float32": program.alternate_steps(workers),
            "float64": program.alternate_steps(workers, dtype="float64"),
            "accumulated": program.alternate_steps(workers, dtype="float64", accumulation=2),
            "without batchnorm": program.alternate_steps_without_batchnorm(workers),
        }
    torch.set_num_threads(threads)
    return result
