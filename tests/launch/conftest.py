"""A project's folder with a stand-in for the program."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import ROOT


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_project(tmp_path)


def make_project(folder: Path) -> Path:
    """A folder to submit from: our batch scripts, and a program that only counts steps."""
    (folder / "ialcms").mkdir()
    (folder / "ialcms" / "__init__.py").touch()
    shutil.copy(Path(__file__).with_name("stand_in.py"), folder / "ialcms" / "__main__.py")
    (folder / "slurm").symlink_to(ROOT / "slurm")
    return folder


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(ready: Callable[[], bool], what: str, timeout_s: float = 300) -> None:
    deadline = time.monotonic() + timeout_s
    while not ready():
        assert time.monotonic() < deadline, f"waited {timeout_s:.0f} s for {what}"
        time.sleep(0.05)


def program_environment() -> dict[str, str]:
    """Of a program that imports this checkout, on one thread and without GPUs."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
