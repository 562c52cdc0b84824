"""A few launches of workers, shared by all tests of a session."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch

from ialcms.engine import Workers
from tests.engine import program
from tests.support import torchrun

Results = dict[str, Any]
Launch = Callable[[str], list[Results]]
Shared = Callable[[str, Callable[[Path], Any]], Any]

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
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """shared(name, make) -> make(folder), made once for all processes of pytest-xdist."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root

    def result(name: str, make: Callable[[Path], Any]) -> Any:
        folder = root / f"engine {name}"
        folder.mkdir(exist_ok=True)
        with open(folder / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            file = folder / "result.pt"
            if not file.exists():
                torch.save(make(folder), folder / "unfinished.pt")
                (folder / "unfinished.pt").rename(file)
            return torch.load(file)

    return result


@pytest.fixture(scope="session")
def launch(shared: Shared) -> Launch:
    """launch(name) -> per worker, a dictionary of case -> result."""

    def run(folder: Path, name: str) -> list[Results]:
        workers, cases = LAUNCHES[name]
        done = torchrun(workers, program.__file__, str(folder), *cases, timeout_s=800)
        assert done.returncode == 0, done.stderr
        return [torch.load(folder / f"{rank}.pt") for rank in range(workers)]

    return lru_cache(lambda name: shared(name, lambda folder: run(folder, name)))


@pytest.fixture(scope="session")
def alone(shared: Shared) -> Results:
    """Cases on one worker without process group."""

    def run(folder: Path) -> Results:
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

    result: Results = shared("alone", run)
    return result
