"""The launcher on one machine, and as two nodes of a job, with a program that only counts steps."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch.ranks import default_ranks
from tests.launch.conftest import program_environment, wait_for

pytestmark = pytest.mark.distributed


def start(project: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "launch.ranks", "--notes", ".", *arguments, "--folder", "run"],
        cwd=project,
        env=program_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def notes(project: Path) -> list[str]:
    return [name for name in ("ended", "stopped", "refused", "crashed") if (project / name).exists()]


def test_it_runs_the_ranks_until_they_end(project: Path) -> None:
    process = start(project, "--ranks", "3", "train", "steps=2")
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert sorted(re.findall(r"rank (\d) of 3", output)) == ["0", "1", "2"]
    assert (project / "run" / "finished").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_lets_them_stop_at_the_end_of_a_step(project: Path, number: signal.Signals) -> None:
    process = start(project, "--ranks", "2", "train", "steps=100000")
    wait_for((project / "run" / "progress").exists, "the first step")
    process.send_signal(number)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert len(re.findall(r"rank \d: stopped at step", output)) == 2
    assert notes(project) == ["ended"]
    assert int((project / "run" / "saved").read_text()) > 0


def test_ranks_that_do_not_listen_yet_just_end(project: Path) -> None:
    process = start(project, "--ranks", "2", "train", "steps=100000", "deaf=1")
    wait_for((project / "run" / "progress").exists, "the first step")
    process.terminate()
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert notes(project) == ["stopped"]


def test_a_second_interrupt_ends_them_at_once(project: Path) -> None:
    process = start(project, "--ranks", "2", "train", "steps=100000", "step_s=1000")
    wait_for(lambda: (project / "run").exists(), "the start of the ranks")
    time.sleep(3)  # for the other rank to listen: one that is still starting is ended by the first request
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):  # they are in the middle of a long step
        process.wait(timeout=1.5)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=300)
    assert process.returncode == 1
    assert notes(project) == []


def test_a_crash_is_one_line_that_names_the_rank(project: Path) -> None:
    process = start(project, "--ranks", "2", "train", "steps=100", "crash_at=2")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1
    ours = [line for line in errors.splitlines() if line.startswith("launch:")]
    assert len(ours) == 1
    assert re.fullmatch(r"launch: on \S+ .*rank 1 ended with exit code 3.*", ours[0])
    assert "ChildFailedError" not in errors
    assert notes(project) == ["crashed"]


def test_a_killed_rank_is_a_crash(project: Path) -> None:
    process = start(project, "--ranks", "2", "train", "steps=100", "kill_at=2")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1
    assert re.search(r"^launch: on \S+ .*rank 1 was killed by SIGKILL", errors, re.MULTILINE), errors
    assert notes(project) == ["crashed"]


def test_refused_input_is_reported_by_the_program_alone(project: Path) -> None:
    process = start(project, "--ranks", "2", "train", "refuse=1")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 2
    assert errors.splitlines() == ["ialcms: error: there is no such thing"]
    assert notes(project) == ["refused"]


def test_two_nodes_stop_together_when_one_is_asked(project: Path, unused_port: int) -> None:
    job = ["--ranks", "1", "--nodes", "2", "--head", f"127.0.0.1:{unused_port}", "--id", "7.0"]
    nodes = [start(project, *job, "--node", str(node), "train", "steps=100000") for node in (1, 0)]
    wait_for((project / "run" / "progress").exists, "the first step")
    nodes[0].terminate()
    outputs = [node.communicate(timeout=300)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0]
    assert [re.findall(r"rank (\d) of 2", output) for output in outputs] == [["1"], ["0"]]


def test_a_node_that_waits_for_others_can_be_stopped(project: Path, unused_port: int) -> None:
    process = start(project, "--nodes", "2", "--node", "1", "--head", f"127.0.0.1:{unused_port}", "train", "steps=1")
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=5)
    process.terminate()
    process.communicate(timeout=20)
    assert process.returncode != 0
    assert notes(project) == []


def test_as_many_ranks_as_slurm_grants_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "3")
    assert default_ranks() == 3
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "0")
    assert default_ranks() == 1


def test_it_ends_with_the_process_that_started_it_where_that_is_asked_for(project: Path) -> None:
    command = [sys.executable, "-m", "launch.ranks", "--end-with-parent", "--notes", ".", "--ranks", "2"]
    shell = ["bash", "-c", '"$@" & wait', "bash", *command, "train", "steps=100000", "--folder", "run"]
    parent = subprocess.Popen(shell, cwd=project, env=program_environment(), stdout=subprocess.PIPE, text=True)
    wait_for((project / "run" / "progress").exists, "the first step")
    parent.kill()
    parent.communicate(timeout=60)  # ends when launcher and ranks have closed what they wrote to
    assert notes(project) == ["crashed"]
