"""What a training step asks of the host on a GPU, counted without one: launches, synchronisations, collectives.

The networks are the small ones: a step at full size asks the same but for the number of DDP's buckets. The limits are
what is counted today and a little more; who lowers a count lowers its limit.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.engine.conftest import Shared
from tests.null_gpu.build import build, environment, missing
from tests.support import ROOT

pytestmark = [pytest.mark.distributed, pytest.mark.skipif(missing() is not None, reason=str(missing()))]

KINDS = ("both learn", "critic only")


@dataclass(frozen=True)
class Case:
    ranks: int
    overrides: tuple[str, ...]
    launches: dict[str, int]
    collectives: dict[str, int]


def zero(stage: int) -> tuple[str, ...]:
    return "train.engine=deepspeed", f"train.deepspeed_config=configs/deepspeed/zero{stage}.json"


GRAPHS = ("train.cuda_graphs=true",)  # a graph is one launch, with the collectives in it
CASES = {
    "one rank": Case(1, (), {"both learn": 1_470, "critic only": 725}, {"both learn": 0, "critic only": 0}),
    "ddp": Case(8, (), {"both learn": 1_765, "critic only": 940}, {"both learn": 68, "critic only": 34}),
    "one rank, graphs": Case(1, GRAPHS, {"both learn": 30, "critic only": 30}, {"both learn": 0, "critic only": 0}),
    "ddp, graphs": Case(8, GRAPHS, {"both learn": 30, "critic only": 30}, {"both learn": 1, "critic only": 1}),
    "zero 2": Case(8, zero(2), {"both learn": 1_785, "critic only": 955}, {"both learn": 74, "critic only": 36}),
    "zero 3": Case(8, zero(3), {"both learn": 2_400, "critic only": 1_220}, {"both learn": 315, "critic only": 62}),
}
Counted = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="module")
def null_gpu(shared: Shared) -> Path:
    """The folder that it is compiled into."""

    def make(folder: Path) -> str:
        compiled = folder.parent / "null_gpu"  # LD_PRELOAD takes no path with a space
        build(compiled)
        return str(compiled)

    return Path(shared("null GPU", make))


@pytest.fixture(scope="module")
def counted(shared: Shared, null_gpu: Path) -> Counted:
    """counted(case) -> by kind of step, counts, bytes and positions of synchronisations."""

    def count(folder: Path, name: str) -> dict[str, Any]:
        case = CASES[name]
        if name.startswith("zero"):
            pytest.importorskip("deepspeed")
        output = folder / "counts.json"
        arguments = [str(null_gpu), "--world", str(case.ranks), "--json", str(output), "train.precision=bf16"]
        run_on_null_gpu(null_gpu, "-m", "tests.null_gpu.count_steps", *arguments, *case.overrides)
        return json.loads(output.read_text())  # type: ignore[no-any-return]

    return functools.lru_cache(lambda name: shared(f"null GPU, {name}", lambda folder: count(folder, name)))


def run_on_null_gpu(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**environment(folder), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [name for name in CASES if name != "zero 3"])
def test_no_step_waits_for_the_device(counted: Counted, name: str, kind: str) -> None:
    step = counted(name)[kind]
    assert step["synchronisations"] == {}
    assert [what for what in step["counts"] if what.startswith("synchronise")] == []
    assert not any(what.endswith("pageable") for what in step["counts"])  # for such a copy the program waits too


@pytest.mark.parametrize("kind", KINDS)
def test_with_zero_3_only_deepspeed_waits(counted: Counted, kind: str) -> None:
    """It compares the order of the layers over the ranks, and collects small parameters at the end."""
    positions = counted("zero 3")[kind]["synchronisations"]
    other = {position for position in positions if "DeepSpeed" not in position}
    assert other == set()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CASES)
def test_launches_and_collectives(counted: Counted, name: str, kind: str) -> None:
    counts = counted(name)[kind]["counts"]
    assert counts["launches"] <= CASES[name].launches[kind]
    collectives = ("all-reduce", "all-gather", "reduce-scatter", "broadcast")
    assert sum(counts.get(what, 0) for what in collectives) <= CASES[name].collectives[kind]


@pytest.mark.parametrize("name", CASES)
def test_nccl_gets_memory_of_the_device_alone(counted: Counted, name: str) -> None:
    for step in counted(name).values():
        assert "host memory for NCCL" not in step["counts"]
        assert CASES[name].ranks == 1 or min(step["counts"][kind] for kind in ("all-reduce", "send", "receive")) > 0


COMPILED = """
import sys
from ialcms.training import passes
from tests.null_gpu.count_steps import main
passes.BACKEND = "aot_eager"  # traced as ever; the code generator takes minutes
main()
"""


@pytest.mark.slow
def test_no_compiled_step_waits_for_the_device(null_gpu: Path, tmp_path: Path) -> None:
    """As it would for a constant that the compiled code builds on the host."""
    output = tmp_path / "counts.json"
    arguments = ["--first-step", "30", "--json", str(output), "train.compile=true"]
    run_on_null_gpu(null_gpu, "-c", COMPILED, str(null_gpu), *arguments)
    for step in json.loads(output.read_text()).values():
        assert step["synchronisations"] == {}
        assert not any(what.endswith("pageable") or what.startswith("synchronise") for what in step["counts"])


WAITS = """
import json, torch
from tests.null_gpu.watch import NullGpu
gpu = NullGpu()
x = torch.ones(4, device="cuda")
ways = {
    "item": lambda: x[0].item(),
    "truth": lambda: bool(x.isfinite().all()),
    "constant": lambda: torch.tensor([1.0, 2.0], device="cuda"),
    "boolean index": lambda: x[x > 0],
    "cuda.synchronize": lambda: torch.cuda.synchronize(),
    "none": lambda: x + 1,
    "pinned": lambda: torch.ones(4).pin_memory().to("cuda", non_blocking=True),
}
seen = {}
for name, way in ways.items():
    with gpu.watch() as watched:
        way()
    seen[name] = sum(watched.synchronisations.values()), watched.launches
print(json.dumps(seen))
"""


def test_each_way_of_waiting_is_noticed(null_gpu: Path) -> None:
    seen = json.loads(run_on_null_gpu(null_gpu, "-c", WAITS))
    waits = {name: count for name, (count, _) in seen.items()}
    assert waits.pop("none") == waits.pop("pinned") == 0
    assert all(count >= 1 for count in waits.values()), waits
    assert seen["none"][1] == 1  # a sum is one launch


RECORDINGS = """
import os, sys, torch
from tests.null_gpu.watch import NullGpu
gpu = NullGpu()
x, other = torch.ones(4, device="cuda"), torch.cuda.Stream()
own = torch.cuda.Stream()

def on_another_stream(waits):
    other.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(other):
        y = x + 1
    if waits:
        torch.cuda.current_stream().wait_stream(other)

def on_the_default_stream():
    with torch.cuda.stream(torch.cuda.default_stream()):
        x + 1

def event_from_outside():
    torch.cuda.current_stream().wait_event(outside)

with torch.cuda.stream(own):
    outside = own.record_event()
    ways = {
        "sum": lambda: x + 1,
        "joined": lambda: on_another_stream(True),
        "not joined": lambda: on_another_stream(False),
        "default stream": on_the_default_stream,
        "event from outside": event_from_outside,
        "item": lambda: x.sum().item(),
    }
    sys.stderr = sys.stdout
    os.dup2(1, 2)
    try:
        with torch.cuda.graph(torch.cuda.CUDAGraph(), stream=own):
            ways[sys.argv[1]]()
        print("recorded")
    except RuntimeError as error:
        while error.__context__ is not None:
            error = error.__context__
        print("refused:", error)
"""


@pytest.mark.parametrize(
    ("way", "reason"),
    [
        ("sum", ""),
        ("joined", ""),
        ("not joined", "work of another stream that nobody waits for"),
        ("default stream", "on a stream that is not recorded"),
        ("event from outside", "a recorded stream waits for an event from outside"),
        ("item", "operation not permitted when stream is capturing"),
    ],
)
def test_what_must_not_be_recorded_is_refused(null_gpu: Path, way: str, reason: str) -> None:
    said = run_on_null_gpu(null_gpu, "-c", RECORDINGS, way)
    assert ("refused" in said) == bool(reason)
    assert reason in said
