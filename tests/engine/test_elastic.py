"""A second node joins a running job and leaves it again: the global batch and its order stay, and so do the losses."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.support import ON_CPU, ROOT, write_small_config
from tests.training.kill_runs import last_step, result

pytestmark = [pytest.mark.distributed, pytest.mark.slow]
STEPS = 2_000


def agent(config: Path, folder: Path, port: int, name: str) -> subprocess.Popen:
    """A node's torchrun with one rank, in a process group of its own; one or two nodes make the job."""
    environment = {**ON_CPU, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes=1:2", "--nproc_per_node=1", "--max-restarts=20",
        "--monitor-interval=0.1", "--rdzv_backend=c10d", f"--rdzv_endpoint=127.0.0.1:{port}", "--rdzv_id=elastic",
        "--rdzv_conf=last_call_timeout=3,keep_alive_interval=1,keep_alive_max_attempt=3", "--local_addr=127.0.0.1",
        "-m", "ialcms", "train", str(config), "--folder", str(folder),
    ]  # fmt: skip
    with open(folder.parent / f"{name}.out", "w") as output:
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True
        )


def wait_until(condition: object, process: subprocess.Popen, what: str, timeout_s: float = 180) -> None:
    assert callable(condition)
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, f"the job ended before {what}"
        assert time.monotonic() < deadline, f"no sign of {what}"
        time.sleep(0.1)


def world_sizes(folder: Path) -> list[int]:
    """Numbers of ranks that the run was started with, one after the other, as its log shows."""
    return [int(n) for n in re.findall(r"mixes a step on (\d+) rank", (folder / "train.log").read_text())]


def test_a_node_joins_and_leaves(demo_shards: Path, tmp_path: Path) -> None:
    values = {"checkpoint_every": 2, "validate_every": STEPS}
    config = write_small_config(tmp_path / "elastic.yaml", demo_shards, steps=STEPS, **values)
    # Networks that hardly learn do not carry on the rounding that another number of ranks brings: the loss of each
    # step is that of its batch, whose position in the order it tells.
    config.write_text(config.read_text() + "optim: {lr_audio: 1.0e-9, lr_visual: 1.0e-9, lr_critic: 1.0e-9}\n")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path / "elastic"
    first = agent(config, folder, port, "first")
    second = None
    try:
        wait_until(lambda: last_step(folder) >= 3, first, "training on one node")
        second = agent(config, folder, port, "second")
        wait_until(lambda: world_sizes(folder)[-1] == 2, first, "two ranks")
        joined = last_step(folder)
        wait_until(lambda: last_step(folder) >= joined + 3, first, "training on two nodes")
        os.killpg(second.pid, signal.SIGKILL)  # the node is lost
        wait_until(lambda: world_sizes(folder)[-1] == 1, first, "one rank again")
        left = last_step(folder)
        wait_until(lambda: last_step(folder) >= left + 3, first, "training on one node again")
        (folder / "stop").touch()
        assert first.wait(timeout=120) == 0
    finally:
        for process in filter(None, (first, second)):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert world_sizes(folder) == [1, 2, 1]

    losses, _ = result(folder)
    assert sorted(losses) == list(range(1, max(losses) + 1))  # no step is missing
    straight = tmp_path / "straight"
    command = [sys.executable, "-m", "ialcms", "train", str(config), "--folder", str(straight)]
    few = [f"train.steps={left + 3}", f"train.checkpoint_every={STEPS}"]
    subprocess.run([*command, *few], cwd=ROOT, env=ON_CPU, check=True, capture_output=True, timeout=600)
    expected, _ = result(straight)
    assert 3 <= joined < left < len(expected)
    separation = [losses[step]["loss/separation"] for step in expected if "loss/separation" in losses[step]]
    assert np.diff(separation).std() > 0.02  # the batches tell
    for step, scalars in expected.items():
        assert losses[step] == pytest.approx(scalars, rel=1e-4, abs=1e-4), step
