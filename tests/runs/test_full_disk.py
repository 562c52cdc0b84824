"""A disk that cannot be written for a while: training continues, older checkpoints stay, nothing is lost at the end.

On a real small file system, which takes root (and Linux) to mount.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ON_CPU, ROOT, ialcms, wait_for, write_small_config
from tests.training.kill_runs import differences

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


def fill(path: Path) -> None:
    """Write a file until its disk is full."""
    with open(path, "wb", buffering=0) as file:
        for block in (1 << 16, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(block))


def test_no_run_starts_on_a_full_disk(demo_shards: Path, tmp_path: Path, disk: Path) -> None:
    config = write_small_config(tmp_path / "small.yaml", demo_shards)
    fill(disk / "filler")
    done = ialcms("train", str(config), "--folder", str(disk / "run"))
    assert done.returncode == 2
    assert done.stderr == (
        f"ialcms: error: the run's folder {disk}/run cannot be written (No space left on device); make room there or "
        "choose another --folder\n"
    )


def test_a_disk_that_cannot_be_written_for_a_while(demo_shards: Path, tmp_path: Path, disk: Path) -> None:
    config = write_small_config(
        tmp_path / "small.yaml", demo_shards, steps=200, checkpoint_every=10, validate_every=200, visualise_every=0
    )
    command = [sys.executable, "-m", "ialcms", "train", str(config), "--folder"]
    folder, logged = disk / "run", tmp_path / "output.txt"
    checkpoints = folder / "checkpoints"
    with (
        open(logged, "w") as output,
        subprocess.Popen([*command, folder], cwd=ROOT, env=ON_CPU, stderr=output) as run,
    ):
        wait_for(lambda: (checkpoints / "step-00000010").exists(), run)
        mount("--bind", str(checkpoints), str(checkpoints))
        mount("-o", "remount,ro,bind", str(checkpoints))
        wait_for(lambda: "Read-only file system" in logged.read_text(), run)
        subprocess.run(["umount", checkpoints], check=True)
        before = max(checkpoints.glob("step-*"))
        wait_for(lambda: max(checkpoints.glob("step-*")) > before, run)  # a good one: failures are counted anew
        fill(disk / "filler")
        assert run.wait(timeout=240) == 2
    text = logged.read_text()
    assert re.search(
        r"ialcms: error: no checkpoint could be written to \S+ 3 times in a row \(it needs .* free\)", text
    )
    assert len(re.findall("curves cannot be written", text)) <= 6  # when it happens, and at each attempt to resume
    assert not list(checkpoints.glob(".*.tmp"))  # a half-written one would take the room of the next
    assert len(list(checkpoints.glob("step-*"))) == 2

    (disk / "filler").unlink()
    for target in (folder, tmp_path / "whole"):
        subprocess.run([*command, target], cwd=ROOT, env=ON_CPU, check=True, capture_output=True, timeout=300)
    assert differences(folder, tmp_path / "whole") == []
