"""What a rank sends and holds, measured: in real processes, and at full size on a GPU that computes nothing."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing
from torch.profiler import ProfilerActivity, profile

from benchmarks.scaling_model import BOTH, CRITIC, KINDS, Measured, Sent
from ialcms.engine import Ranks
from ialcms.engine.traffic import all_reduce_bytes
from ialcms.training.step import Experiment
from tests.engine.cases.steps import run_steps, tiny_config
from tests.null_gpu.build import environment

_STEPS = {BOTH: 3, CRITIC: 4}  # the separator learns at every third
FIRST_STEP = 33  # of the runs on the null GPU
CONFIG = "configs/duet.yaml"


# ---- real processes


@dataclasses.dataclass(frozen=True)
class RealStep:
    """Of one rank, the one with most of each."""

    sent: dict[str, float]  # bytes by what they are for
    messages: int  # collectives
    grown_mb: float  # peak memory beyond that at the start of the process


def run_world(world: int) -> dict[str, RealStep]:
    """By kind of step. The processes are forked, so that torch is imported once."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        context = torch.multiprocessing.start_processes(
            _one_rank, (world, port, folder), nprocs=world, join=False, start_method="fork"
        )
        while not context.join():
            pass
        content = json.loads(Path(folder, "result.json").read_text())
    return {step: RealStep(**values) for step, values in content.items()}


def _one_rank(rank: int, world: int, port: int, folder: str) -> None:
    """Process of a rank that trains on the CPU and writes what it sent to `folder`.

    world: number of ranks. port: of rank 0.
    """
    torch.set_num_threads(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "scaling"}
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    results = {}
    with Ranks(timeout_s=1_800) as ranks:
        experiment = Experiment(tiny_config(ranks), ranks, pretrained=False)
        run_steps(experiment, range(min(_STEPS.values())))
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        for step, number in _STEPS.items():
            ranks.traffic.take()
            with profile(activities=[ProfilerActivity.CPU]) as profiler:
                run_steps(experiment, range(number, number + 1))
            messages = sum(event.name.startswith("gloo:") for event in profiler.events())
            gathered = ranks.gather_objects({"sent": ranks.traffic.take(), "messages": messages, "grown_mb": grown})
            results[step] = _largest(gathered)
        if rank == 0:
            Path(folder, "result.json").write_text(json.dumps(results))
        ranks.barrier()
        os._exit(0)  # taking down gloo after torch's profiler hangs now and then


def _largest(ranks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    sent: Counter[str] = Counter()
    for rank in ranks:
        sent |= Counter(rank["sent"])
    largest: dict[str, Any] = {"sent": dict(sent)}
    for key in ("messages", "grown_mb"):
        largest[key] = max(rank[key] for rank in ranks)
    return largest


# ---- full size


def null_gpu(folder: Path, world: int, mixes: int, *, overrides: Sequence[str]) -> dict[str, Measured]:
    """By kind of step. folder: of the compiled library. overrides: of the configuration.

    world: number of ranks. mixes: of a rank in a step.
    """
    out = folder / "counts.json"
    command = ["-m", "tests.null_gpu.count_steps", str(folder), "--world", str(world), "--mixes", str(mixes)]
    command += ["--first-step", str(FIRST_STEP), "--config", CONFIG, "--json", str(out), *overrides]
    done = subprocess.run([sys.executable, *command], env=environment(folder), capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"the null GPU failed as rank 0 of {world}:\n{done.stderr}")
    content = json.loads(out.read_text())
    return {step: _measured(content[step], world, mixes) for step in (BOTH, CRITIC)}


def _measured(step: dict[str, Any], world: int, mixes: int) -> Measured:
    """step: of `tests.null_gpu.count_steps`. Gradients are taken out; partners are messages to single ranks.

    world: number of ranks. mixes: of a rank in a step.
    """
    count = {kind: float(step["counts"].get(kind, 0)) for kind in KINDS}
    num_bytes = {kind: float(step["bytes"].get(kind, 0)) for kind in KINDS}
    num_bytes["all-reduce"] -= step["sent"]["gradients"] / all_reduce_bytes(1.0, world)
    sent = Sent(count, num_bytes)
    return Measured(world, mixes, sent, wire_bytes=step["sent"], peak_memory=step["peak_memory"])
