"""Workers that differ are found, and a worker that hangs ends the run: real processes, gloo."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.engine import program
from tests.engine.conftest import Launch
from tests.support import torchrun

pytestmark = pytest.mark.distributed


def test_a_difference_is_named(launch: Launch) -> None:
    first, second = (result["disagreement"] for result in launch("2 workers"))
    assert first == second
    assert first["nothing"] == "no fault found"
    assert "before step 2, separator.encoder.stem.0.weight of worker 1 differs from worker 0's" in first["weight"]
    assert "as do 0 other tensors" in first["weight"]
    assert "worker 1 is at step 4, worker 0 at 2" in first["step"]
    assert re.search(r"worker 1 is at configuration \w{16}, worker 0 at \w{16}", first["configuration"])


def test_a_sleeping_worker_ends_the_run(tmp_path: Path) -> None:
    """Worker 1 falls asleep in step 2, worker 0 waits for it in a collective: both say where they are."""
    run = torchrun(2, program.__file__, str(tmp_path), "fall_asleep", timeout_s=600)
    assert run.returncode != 0
    for rank, place in ((0, "all_gather_into_tensor"), (1, "fall_asleep")):
        assert f"step 2 took longer than 2 s (train.timeout_s) on worker {rank}" in run.stderr
        stacks = (tmp_path / f"stacks-worker{rank}.txt").read_text()
        assert f" in {place}\n" in stacks
        assert re.search(r"Thread 0x\w+ \(most recent call first\):\n", stacks)
