"""Runs that are killed at random moments, for tests/training/test_kill.py and tests/kill_soak.py."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import torch
import yaml

from tests.support import ON_CPU, ROOT

TARGETS = ("one rank", "all ranks", "the agent")
SIGNALS = (signal.SIGKILL, signal.SIGTERM)
# Moments that a kill waits for: some time after a step, the first sight of a half-written checkpoint, some time after
# the start. Where it strikes is what `_phase` sees then.
MOMENTS = ("after a step", "after a step", "writing", "starting")
_LONGEST_WAIT_S = 1.5  # after a step: some steps, a validation
_LONGEST_START_S = 6.0  # imports, joining the other ranks, loading the checkpoint
_BEGINNING = r"(?:resumes from step (\d+) of \d+|from the start)$"


@dataclass(frozen=True)
class Kill:
    target: str
    number: signal.Signals
    step: int  # of the run when the signal was sent, as far as its log shows
    phase: str  # starting, a step, validation or writing a checkpoint

    def __str__(self) -> str:
        return f"{self.number.name} to {self.target} in {self.phase}, at about step {self.step}"


def start(config: Path, folder: Path, ranks: int = 2, restarts: int = 3) -> subprocess.Popen:
    """torchrun with restarts of its own, in a process group of its own; output appended beside the run's folder."""
    # without it a restart over gloo can read the dead ranks' addresses and hang
    environment = {**ON_CPU, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}",
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


def run_to_the_end(
    config: Path, folder: Path, kills: int, rng: random.Random, ranks: int = 2, timeout_s: float = 600
) -> list[Kill]:
    """Start the run as often as it takes and kill it `kills` times at random moments; returns what was done.

    TimeoutError when the run does not end.
    """
    done: list[Kill] = []
    deadline = time.monotonic() + timeout_s
    process = start(config, folder, ranks)
    try:
        while not (folder / "finished").exists():
            if process.poll() is not None:
                process = start(config, folder, ranks)
            if len(done) < kills and _wait_for_the_moment(folder, process, rng, deadline):
                alive = _ranks(process)
                phase = _phase(folder, alive)
                kill = Kill(rng.choice(TARGETS), rng.choice(SIGNALS), last_step(folder), phase)
                if _send(process, alive, kill, rng):
                    done.append(kill)
                    _wait_for_the_blow(process, alive, kill)
            time.sleep(0.05)
            if time.monotonic() > deadline:
                raise TimeoutError(f"the run in {folder} did not end; kills: {', '.join(map(str, done))}")
        process.wait(timeout=60)
    finally:
        _end_group(process)
    return done


def _wait_for_the_moment(folder: Path, process: subprocess.Popen, rng: random.Random, deadline: float) -> bool:
    """Until it is time to strike; False when the run, or its agent, ended first."""
    moment = rng.choice(MOMENTS)
    wait_s = rng.random() * (_LONGEST_START_S if moment == "starting" else _LONGEST_WAIT_S)
    if moment != "starting" and not _wait_for_a_step(folder, process, deadline):
        return False
    if moment == "writing":
        while not _is_writing(folder):
            if process.poll() is not None or (folder / "finished").exists() or time.monotonic() > deadline:
                return False
            time.sleep(0.0005)
        return True
    time.sleep(wait_s)
    return process.poll() is None and not (folder / "finished").exists()


def _wait_for_a_step(folder: Path, process: subprocess.Popen, deadline: float) -> bool:
    """Until the run has logged a step that was not there before; False when it ended first."""
    before = (folder / "metrics.jsonl").stat().st_mtime_ns if (folder / "metrics.jsonl").exists() else 0
    while process.poll() is None and time.monotonic() < deadline and not (folder / "finished").exists():
        with contextlib.suppress(OSError):
            if (folder / "metrics.jsonl").stat().st_mtime_ns != before:
                return True
        time.sleep(0.02)
    return False


def _is_writing(folder: Path) -> bool:
    return any((folder / "checkpoints").glob(".*.tmp"))


def _phase(folder: Path, ranks: list[psutil.Process]) -> str:
    """What the run does at the moment, as far as its folder shows."""
    if _is_writing(folder):
        return "writing a checkpoint"
    try:
        log_time, lines = (folder / "train.log").stat().st_mtime, (folder / "train.log").read_text().splitlines()
        born = max(rank.create_time() for rank in ranks)
        validate_every = yaml.safe_load((folder / "config.yaml").read_text())["train"]["validate_every"]
    except (OSError, ValueError, psutil.NoSuchProcess):
        return "starting"
    if log_time < born or any(re.search(_BEGINNING, line) for line in lines[-2:]):
        return "starting"
    last = re.search(r" step (\d+)/", lines[-1])
    # the line of a step is followed by that of its validation
    return "validation" if last and int(last[1]) % validate_every == 0 else "a step"


def _ranks(process: subprocess.Popen) -> list[psutil.Process]:
    """The training processes that the agent started, not their loader workers."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return [p for p in psutil.Process(process.pid).children() if "ialcms" in " ".join(p.cmdline())]
    return []


def _send(process: subprocess.Popen, ranks: list[psutil.Process], kill: Kill, rng: random.Random) -> bool:
    if not ranks or process.poll() is not None:
        return False
    targets = {"one rank": [rng.choice(ranks)], "all ranks": ranks, "the agent": [process]}[kill.target]
    for target in targets:
        with contextlib.suppress(psutil.NoSuchProcess):
            target.send_signal(kill.number)
    return True


def _wait_for_the_blow(process: subprocess.Popen, ranks: list[psutil.Process], kill: Kill) -> None:
    """Until a killed agent is gone: its ranks must end with it, or they would write beside the next ones."""
    if kill.target == "the agent":
        process.wait(timeout=90)
        _, alive = psutil.wait_procs(ranks, timeout=60)
        assert not alive, f"ranks outlive {kill}: {alive}"
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
    names += [
        name for name in state.keys() | other_state.keys() if differing_bits(state.get(name), other_state.get(name))
    ]
    return sorted(names)


def differing_bits(a: object, b: object) -> int:
    """In how many bits two values differ; 1 for anything but two tensors of one kind."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and (a.shape, a.dtype) == (b.shape, b.dtype):
        bits = np.bitwise_xor(*(t.contiguous().reshape(-1).numpy().view(np.uint8) for t in (a, b)))
        return int(np.unpackbits(bits).sum())
    return int(type(a) is not type(b) or a != b)


def longest_loss_of_work(folder: Path) -> int:
    """The most steps that a restart of the run had to make again, as its log shows."""
    longest = reached = 0
    for line in (folder / "train.log").read_text().splitlines():
        if begun := re.search(_BEGINNING, line):
            longest = max(longest, reached - int(begun[1] or 0))
        elif step := re.search(r" step (\d+)/", line):
            reached = int(step[1])
    return longest


def _flat(tree: object, name: str = "") -> dict[str, object]:
    if isinstance(tree, dict):
        return {key: value for k, v in tree.items() for key, value in _flat(v, f"{name}/{k}").items()}
    if isinstance(tree, list):
        return {key: value for n, v in enumerate(tree) for key, value in _flat(v, f"{name}/{n}").items()}
    return {name: tree}
