"""Programs in processes of their own, as users start them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
# One thread a process; what a test starts finds this checkout's tests, too.
_PATHS = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": _PATHS}
ON_CPU = {**ENVIRONMENT, "CUDA_VISIBLE_DEVICES": ""}


def torchrun(
    ranks: int, *arguments: str, cwd: Path = ROOT, timeout_s: float = 300, gpus: bool = False
) -> subprocess.CompletedProcess:
    """Run `python -m torch.distributed.run` on this machine; as `python`."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    return python(*launcher, *arguments, cwd=cwd, timeout_s=timeout_s, gpus=gpus)


def python(
    *arguments: str, cwd: Path = ROOT, timeout_s: float = 300, gpus: bool = False
) -> subprocess.CompletedProcess:
    """Run this Python with one thread a process, without GPUs unless asked for; output as text."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=ENVIRONMENT if gpus else ON_CPU,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )


def ialcms(*arguments: str, timeout_s: float = 300) -> subprocess.CompletedProcess:
    """Run the program, as `python`."""
    return python("-m", "ialcms", *arguments, timeout_s=timeout_s)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen, timeout_s: float = 240) -> None:
    """Until something happens in a process that must not end before."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, "the process ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.01)
