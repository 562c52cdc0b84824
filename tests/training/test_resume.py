"""Going on after an end in the middle of writing, or asked for; ranks and output that lose their other end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ialcms.cli import main
from ialcms.runs import checkpoint
from tests.support import ON_CPU, ROOT, ialcms, wait_for, write_small_config


def config_file(folder: Path, shards: Path, **train: object) -> Path:
    return write_small_config(folder / "small.yaml", shards, validate_every=10, visualise_every=0, **train)


SLOW_DISK = """
import sys, time
from pathlib import Path
from ialcms import cli
from ialcms.runs import checkpoint

folder, flush = Path(sys.argv[1]), checkpoint._flush

def slow_flush(file):
    flush(file)
    if (folder / "slow").exists():
        (folder / "writing").touch()
        time.sleep(300)

checkpoint._flush = slow_flush
sys.exit(cli.main(sys.argv[2:]))
"""


def listens_to(process: subprocess.Popen, number: signal.Signals) -> bool:
    """Whether the process has a handler of its own for a signal."""
    (line,) = [
        line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if line.startswith("SigCgt")
    ]
    return bool(int(line.split()[1], 16) >> (number - 1) & 1)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_second_interrupt_ends_at_once_and_leaves_the_last_checkpoint_whole(
    demo_shards: Path, tmp_path: Path
) -> None:
    """In the middle of writing a checkpoint, to a disk that takes minutes."""
    config = config_file(tmp_path, demo_shards, steps=10_000, checkpoint_every=1)
    folder = tmp_path / "run"
    checkpoints = folder / "checkpoints"
    command = [sys.executable, "-c", SLOW_DISK, str(tmp_path), "train", str(config), "--folder", str(folder)]
    command.append("train.validate_every=10000")
    with subprocess.Popen(command, cwd=ROOT, env=ON_CPU, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: checkpoint.newest(checkpoints) is not None, process)
            (tmp_path / "slow").touch()
            wait_for((tmp_path / "writing").exists, process)
            process.send_signal(signal.SIGINT)
            wait_for(lambda: not listens_to(process, signal.SIGINT), process)  # it has taken the first one
            time.sleep(0.5)
            assert process.poll() is None  # and does not end before its checkpoint is on the disk
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=20) == -signal.SIGINT
        finally:
            process.kill()
    assert list(checkpoints.glob(".step-*.tmp"))  # it was in the middle of it
    last = checkpoint.newest_intact(checkpoints)
    assert last is not None
    step = int(last.name.removeprefix("step-"))
    again = ialcms("train", str(config), "--folder", str(folder), f"train.steps={step + 1}")
    assert again.returncode == 0, again.stderr
    assert f"resumes from step {step} of" in again.stderr
    assert not list(checkpoints.glob(".step-*.tmp"))


def test_a_launchers_restart_does_not_repeat_an_explicit_resume(
    demo_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_file(tmp_path, demo_shards, steps=3, checkpoint_every=1, keep_checkpoints=5)
    folder = tmp_path / "run"
    start = ["train", str(config), "--folder", str(folder)]
    assert main([*start, "train.steps=2", "--resume", "none"]) == 0
    first = str(folder / "checkpoints" / "step-00000001")
    with monkeypatch.context() as restart:
        restart.setenv("TORCHELASTIC_RESTART_COUNT", "1")
        assert main([*start, "--resume", first]) == 0
        assert "resumes from step 2 of 3" in (folder / "train.log").read_text()
        assert main([*start, "--resume", "none"]) == 0
    log = folder / "train.log"
    with monkeypatch.context() as launch:  # a node that joins or leaves is no restart to torchrun's count
        launch.setattr("ialcms.training.stop_request.end_with_agent", lambda: None)
        launch.setenv("TORCHELASTIC_RUN_ID", "a")
        assert main([*start, "--resume", first]) == 0
        assert log.read_text().count("resumes from step 1 of 3") == 1
        assert main([*start, "--resume", first]) == 0
        assert log.read_text().count("resumes from step 1 of 3") == 1
        launch.setenv("TORCHELASTIC_RUN_ID", "b")
        assert main([*start, "--resume", first]) == 0
        assert log.read_text().count("resumes from step 1 of 3") == 2
    assert main([*start, "--resume", first]) == 0
    assert log.read_text().count("resumes from step 1 of 3") == 3
    assert checkpoint.best(folder / "checkpoints") is not None  # that of the abandoned future is set aside


def test_output_into_a_closed_pipe(demo_shards: Path, tmp_path: Path) -> None:
    config = config_file(tmp_path, demo_shards)
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as output:
        done = subprocess.run(
            [sys.executable, "-m", "ialcms", "info", str(config)],
            cwd=ROOT, env=ON_CPU, stdout=output, stderr=subprocess.PIPE, text=True, timeout=120,
        )  # fmt: skip
    assert done.stderr == ""
    assert done.returncode == 128 + signal.SIGPIPE


AGENT = "import subprocess, sys; print(subprocess.Popen(sys.argv[1:]).pid, flush=True); sys.stdin.read()"


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help is Linux's")
@pytest.mark.parametrize("after_s", [0.0, 1.0])
def test_a_rank_that_is_starting_ends_with_its_agent(demo_shards: Path, tmp_path: Path, after_s: float) -> None:
    """Also before it has asked the kernel; the seconds that torch's import takes are long for a run that is killed."""
    config = config_file(tmp_path, demo_shards, steps=10_000)
    folder = tmp_path / "run"
    command = [sys.executable, "-c", AGENT, sys.executable, "-m", "ialcms", "train", str(config), "--folder", folder]
    environment = {**ON_CPU, "TORCHELASTIC_RUN_ID": "a test"}
    agent = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert agent.stdin is not None
    assert agent.stdout is not None
    rank = Path(f"/proc/{int(agent.stdout.readline())}")
    time.sleep(after_s)
    agent.kill()
    agent.wait()
    agent.stdin.close()
    agent.stdout.close()
    deadline = time.monotonic() + 60
    while rank.exists() and "zombie" not in (rank / "status").read_text():
        if time.monotonic() > deadline or folder.exists():
            os.kill(int(rank.name), signal.SIGKILL)
            pytest.fail("the rank outlived its agent")
        time.sleep(0.05)
    assert not folder.exists()
