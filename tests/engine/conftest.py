"""A few launches of ranks, shared by all tests of a session."""

from __future__ import annotations

import fcntl
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engine import program
from tests.support import python, torchrun

Results = dict[str, Any]
Launch = Callable[[str], list[Results]]
Shared = Callable[[str, Callable[[Path], Any]], Any]

DOUBLE = "alternate_steps:dtype=float64"
SINGLE = "alternate_steps:eps=1.0e-3"  # see test_world_sizes.py
ACCUMULATED = "alternate_steps:dtype=float64,accumulation=2"
OPTIONS_DOUBLE = "alternate_steps_with_options:dtype=float64"
OPTIONS_SINGLE = "alternate_steps_with_options:eps=1.0e-3"
MANY_DOUBLE = "alternate_steps_of_many:dtype=float64"
NO_BATCHNORM = "alternate_steps_without_batchnorm"


def single(**options: object) -> str:
    """The alternate steps in single precision with fields of the train section."""
    return ",".join([SINGLE, *(f"{key}={value}" for key, value in options.items())])


def zero(stage: int, **options: object) -> str:
    """The same by DeepSpeed."""
    return single(engine="deepspeed", deepspeed_config=f"configs/deepspeed/zero{stage}.json", **options)


def zero_of_many(stage: int) -> str:
    return zero(stage).replace("alternate_steps", "alternate_steps_of_many")


def zero_with_options(stage: int) -> str:
    return f"{OPTIONS_SINGLE},engine=deepspeed,deepspeed_config=configs/deepspeed/zero{stage}.json"


LOCAL_BATCHNORM = single(sync_batchnorm="false")
COMPRESSED = single(gradient_compression="bf16")
BF16 = single(precision="bf16")

# One launch each: the number of ranks and what they do, one case after the other.
LAUNCHES = {
    "1 rank": (1, [DOUBLE, SINGLE, ACCUMULATED, NO_BATCHNORM, BF16, OPTIONS_DOUBLE, OPTIONS_SINGLE]),
    "2 ranks": (2, [DOUBLE, SINGLE, MANY_DOUBLE, ACCUMULATED, f"{NO_BATCHNORM}:accumulation=2", LOCAL_BATCHNORM,
                      COMPRESSED, BF16, "batchnorm", "gather", "bank_of_ranks", "long_run", "disagreement",
                      OPTIONS_DOUBLE]),
    "3 ranks": (3, ["bank_of_ranks", "resume", "shared_state"]),
    "4 ranks": (4, [DOUBLE, SINGLE, "batchnorm", "gather", "bank_of_ranks"]),
    "deepspeed": (2, [*(zero(stage) for stage in range(4)), "resume", "bf16_passes", "not_finite", "traffic",
                      *(zero_with_options(stage) for stage in range(1, 4)), zero_of_many(3),
                      single(accumulation=2), *(zero(stage, accumulation=2) for stage in (1, 2, 3))]),
    # on GPUs; one rank there runs without torchrun as well as by NCCL
    "1 GPU": (1, [DOUBLE, SINGLE, BF16]),
    "1 GPU, engines": (1, [single(engine="ddp"), *(zero(stage) for stage in range(4))]),
    "2 GPUs": (2, [DOUBLE, SINGLE, LOCAL_BATCHNORM, COMPRESSED, BF16, *(zero(stage) for stage in range(4)),
                   "batchnorm", "gather", "bank_of_ranks", "long_run", "disagreement", "not_finite",
                   "bf16_passes"]),
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
            return torch.load(file, weights_only=True)

    return result


@pytest.fixture(scope="session")
def launch(shared: Shared) -> Launch:
    """launch(name) -> per rank, a dictionary of case -> result."""

    def run(folder: Path, name: str) -> list[Results]:
        ranks, cases = LAUNCHES[name]
        command = [program.__file__, str(folder), *cases]
        alone = ranks == 1 and "engines" not in name
        start = python if alone else functools.partial(torchrun, ranks)
        done = start(*command, timeout_s=1_500, gpus="GPU" in name)
        assert done.returncode == 0, done.stderr
        return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(ranks)]

    return functools.lru_cache(lambda name: shared(name, lambda folder: run(folder, name)))


@pytest.fixture(scope="session")
def alone(launch: Launch) -> Results:
    """Cases on one rank without process group."""
    (result,) = launch("1 rank")
    return result
