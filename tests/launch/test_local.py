"""`python -m launch.local`: a verb on the ranks of this machine."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from launch import local
from tests.launch.conftest import program_environment, wait_for


def launch_local(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "launch.local", *arguments]
    return subprocess.run(command, cwd=project, env=program_environment(), capture_output=True, text=True, timeout=120)


def test_one_rank_needs_no_torchrun() -> None:
    assert local.command(["info", "x.yaml"], 1) == [sys.executable, "-m", "ialcms", "info", "x.yaml"]
    assert local.command(["info"], 2) == [sys.executable, "-m", "launch.ranks", "--ranks", "2", "info"]
    with pytest.raises(ValueError, match="at least one rank is needed"):
        local.command(["info"], 0)


def test_dry_run_prints_the_command(project: Path) -> None:
    result = launch_local(project, "--ranks", "2", "--dry-run", "train", "a b.yaml")
    assert result.returncode == 0
    assert shlex.split(result.stdout)[1:] == ["-m", "launch.ranks", "--ranks", "2", "train", "a b.yaml"]


def test_faults_are_one_line_and_exit_code_2(project: Path) -> None:
    result = launch_local(project, "--ranks", "0", "train", "x.yaml")
    assert (result.returncode, result.stderr) == (2, "launch: error: --ranks is 0; at least one rank is needed\n")
    assert launch_local(project, "--ranks", "2").returncode == 2


@pytest.mark.distributed
def test_exit_codes_are_those_of_the_program(project: Path) -> None:
    assert launch_local(project, "--ranks", "2", "train", "steps=1", "--folder", "run").returncode == 0
    assert launch_local(project, "--ranks", "2", "train", "refuse=1").returncode == 2
    assert launch_local(project, "--ranks", "2", "train", "steps=9", "crash_at=1", "--folder", "x").returncode == 1


@pytest.mark.distributed
def test_ctrl_c_lets_the_ranks_save(project: Path) -> None:
    command = [sys.executable, "-m", "launch.local", "--ranks", "2", "train", "steps=100000", "--folder", "run"]
    with subprocess.Popen(command, cwd=project, env=program_environment(), process_group=0) as process:
        wait_for((project / "run" / "progress").exists, "the first step")
        subprocess.run(["kill", f"-{signal.SIGINT.value}", "--", f"-{process.pid}"], check=True)  # as a terminal does
        assert process.wait(timeout=300) == 0
    assert (project / "run" / "saved").exists()
