"""Runs that are killed at random moments, for tests/test_kill.py and tests/kill_soak.py."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from tests.support import ROOT

TARGETS = ("one worker", "all workers", "the agent")
SIGNALS = (signal.SIGKILL, signal.SIGTERM)


@dataclass(frozen=True)
class Kill:
    target: str
    number: signal.Signals
    step: int  # of the run when the signal was sent, as far as its log tells

    def __str__(self) -> str:
        return f"{self.number.name} to {self.target} at about step {self.step}"


def start(config: Path, folder: Path, workers: int = 2, restarts: int = 3) -> subprocess.Popen:
    """torchrun with restarts of its own, in a process group of its own; output appended beside the run's folder."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": str(ROOT),
        # without it a restart over gloo can read the dead workers' addresses and hang
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={workers}",
        f"--max-restarts={restarts}", "--monitor-interval=0.1", "-m", "ialcms", "train", str(config),
        "--folder", str(folder),
    ]  # fmt: skip
    with open(folder.with_suffix(".out"), "a") as output:
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True
        )


def last_step(folder: Path) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["step"])
    return 0


def run_to_the_end(config: Path, folder: Path, kills: int, rng: random.Random, timeout_s: float = 600) -> list[Kill]:
    """Start the run as often as it takes and kill it `kills` times at random moments; returns what was done.

    A moment is a random time after the run has made a step since the last kill, so each kill meets training,
    validation or the writing of a checkpoint. TimeoutError when the run does not end.
    """
    done: list[Kill] = []
    deadline = time.monotonic() + timeout_s
    process = start(config, folder)
    try:
        while not (folder / "finished").exists():
            if process.poll() is not None:
                process = start(config, folder)
            if len(done) < kills and _wait_for_a_step(folder, process, deadline):
                time.sleep(rng.random() * 1.5)
                kill = Kill(rng.choice(TARGETS), rng.choice(SIGNALS), last_step(folder))
                workers = _workers(process)
                if _send(process, workers, kill, rng):
                    done.append(kill)
                    _wait_for_the_blow(process, workers, kill)
            time.sleep(0.05)
            if time.monotonic() > deadline:
                raise TimeoutError(f"the run in {folder} did not end; kills: {', '.join(map(str, done))}")
        process.wait(timeout=60)
    finally:
        _end_group(process)
    return done


def _wait_for_a_step(folder: Path, process: subprocess.Popen, deadline: float) -> bool:
    """Until the run has logged a step that was not there before; False when it ended first."""
    before = (folder / "metrics.jsonl").stat().st_mtime_ns if (folder / "metrics.jsonl").exists() else 0
    while process.poll() is None and time.monotonic() < deadline and not (folder / "finished").exists():
        with contextlib.suppress(OSError):
            if (folder / "metrics.jsonl").stat().st_mtime_ns != before:
                return True
        time.sleep(0.02)
    return False


def _workers(process: subprocess.Popen) -> list[psutil.Process]:
    """The training processes that the agent started, not their loader processes."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return [p for p in psutil.Process(process.pid).children() if "ialcms" in " ".join(p.cmdline())]
    return []


def _send(process: subprocess.Popen, workers: list[psutil.Process], kill: Kill, rng: random.Random) -> bool:
    if not workers or process.poll() is not None:
        return False
    targets = {"one worker": [rng.choice(workers)], "all workers": workers, "the agent": [process]}[kill.target]
    for target in targets:
        with contextlib.suppress(psutil.NoSuchProcess):
            target.send_signal(kill.number)
    return True


def _wait_for_the_blow(process: subprocess.Popen, workers: list[psutil.Process], kill: Kill) -> None:
    """Until a killed agent is gone: its workers must end with it, or they would write beside the next ones."""
    if kill.target == "the agent":
        process.wait(timeout=90)
        _, alive = psutil.wait_procs(workers, timeout=60)
        assert not alive, f"workers outlive {kill}: {alive}"
    else:
        time.sleep(0.3)


def _end_group(process: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def result(folder: Path) -> tuple[dict[int, dict], dict[str, object]]:
    """Losses by step (the last time a step was made) and everything in the final checkpoint, flat."""
    rows: dict[int, dict] = {}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        if "lambda/ind" in row:
            rows[row["step"]] = {k: v for k, v in row.items() if k.startswith(("loss/", "critic/", "lambda/"))}
    newest = max((folder / "checkpoints").glob("step-*"))
    return rows, _flat(torch.load(newest / "state.pt", weights_only=True))


def differences(ours: Path, theirs: Path) -> list[str]:
    """Names of steps and state in which two finished runs differ by a single bit."""
    (rows, state), (other_rows, other_state) = result(ours), result(theirs)
    names = [f"step {step}" for step in rows.keys() | other_rows.keys() if rows.get(step) != other_rows.get(step)]
    for name in state.keys() | other_state.keys():
        a, b = state.get(name), other_state.get(name)
        equal = torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a == b
        if not equal:
            names.append(name)
    return sorted(names)


def _flat(tree: object, name: str = "") -> dict[str, object]:
    if isinstance(tree, dict):
        return {key: value for k, v in tree.items() for key, value in _flat(v, f"{name}/{k}").items()}
    if isinstance(tree, list):
        return {key: value for n, v in enumerate(tree) for key, value in _flat(v, f"{name}/{n}").items()}
    return {name: tree}
