"""A disk that cannot be written for a while: training goes on, older checkpoints stay, and nothing is lost at the end.

On a real small file system, which takes root (and Linux) to mount.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kill_runs import differences
from tests.support import ROOT, write_small_config

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        mount("-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder))
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no file system can be mounted here (that takes root)")
    yield folder
    subprocess.run(["umount", "--recursive", folder], check=True)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert process.poll() is None, "the run ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_disk_that_cannot_be_written_for_a_while(demo_shards: Path, tmp_path: Path, disk: Path) -> None:
    config = write_small_config(
        tmp_path / "small.yaml", demo_shards, steps=200, checkpoint_every=10, validate_every=200, visualise_every=0
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "ialcms", "train", str(config), "--folder"]
    folder, told = disk / "run", tmp_path / "told.txt"
    checkpoints = folder / "checkpoints"
    with (
        open(told, "w") as output,
        subprocess.Popen([*command, folder], cwd=ROOT, env=environment, stderr=output) as run,
    ):
        wait_for(lambda: (checkpoints / "step-00000010").exists(), run)
        mount("--bind", str(checkpoints), str(checkpoints))
        mount("-o", "remount,ro,bind", str(checkpoints))
        wait_for(lambda: "Read-only file system" in told.read_text(), run)
        subprocess.run(["umount", checkpoints], check=True)
        before = max(checkpoints.glob("step-*"))
        wait_for(lambda: max(checkpoints.glob("step-*")) > before, run)  # a good one: failures are counted anew
        with open(disk / "filler", "wb", buffering=0) as filler:
            for block in (1 << 16, 1):
                try:
                    while True:
                        filler.write(bytes(block))
                except OSError:
                    pass
        assert run.wait(timeout=240) == 2
    text = told.read_text()
    assert re.search(
        r"ialcms: error: no checkpoint could be written to \S+ 3 times in a row \(it needs .* free\)", text
    )
    assert len(re.findall("curves cannot be written", text)) <= 6  # when it happens, and at each attempt to go on
    assert not list(checkpoints.glob(".*.tmp"))  # a half-written one would take the room of the next
    assert len(list(checkpoints.glob("step-*"))) == 2

    (disk / "filler").unlink()
    for target in (folder, tmp_path / "whole"):
        subprocess.run([*command, target], cwd=ROOT, env=environment, check=True, capture_output=True, timeout=300)
    assert differences(folder, tmp_path / "whole") == []
