"""What a rank sends and holds on 1 to 512 ranks, and how the time of a step scales by a model.

    python -m benchmarks.scaling --out benchmarks/results/scaling.txt     # a quarter of an hour on two cores
    python -m benchmarks.scaling --small                                  # 1 and 2 ranks, no null GPU

1. Real processes (gloo) of tiny networks with one mix a rank: bytes and messages of a step, and memory.
2. Full-size networks on a null GPU as rank 0 of up to 512 (tests/null_gpu: real CUDA and NCCL calls that compute
   nothing): what is handed to NCCL, and the peak of torch's allocator.
3. A model fitted to the second part, checked against the runs that it was not fitted to, and the weak and strong
   scaling that it predicts for a given network: see benchmarks/scaling_model.py for its assumptions.
"""

from __future__ import annotations

import argparse
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

from benchmarks import scaling_model as model
from benchmarks.scaling_model import BOTH, CRITIC, KINDS, Cluster, Measured, Rank, Sent
from ialcms.engine import Ranks
from ialcms.engine.traffic import all_reduce_bytes
from ialcms.training.step import Experiment
from tests.engine.program import run_steps, tiny_config
from tests.null_gpu.build import build, environment, missing

_STEPS = {BOTH: 3, CRITIC: 4}  # the separator learns at every third
_FITTED = ((8, 8), (8, 32), (64, 32))  # (ranks, mixes a rank)
_CHECKED = ((64, 8), (512, 8), (512, 32))


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    cluster = Cluster(gpus_a_node=options.gpus_a_node, node_gbit_s=options.node_gbit_s)
    worlds = [1, 2] if options.small else options.ranks
    lines = _real_processes(worlds)
    reason = "left out with --small" if options.small else missing()
    if reason is None:
        lines += ["", *_full_size(cluster, options.set)]
    else:
        lines += ["", f"full size on a null GPU: {reason}"]
    print("\n".join(lines))
    if options.out is not None:
        options.out.write_text("\n".join(lines) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32], help="of the real processes")
    parser.add_argument("--gpus-a-node", type=int, default=8)
    parser.add_argument("--node-gbit-s", type=float, default=100.0, help="bandwidth between nodes, of a node")
    parser.add_argument("--set", nargs="*", default=["train.precision=bf16"], help="configuration of the full size")
    parser.add_argument("--small", action="store_true", help="a check that the benchmark runs")
    parser.add_argument("--out", type=Path, default=None, help="write the text to this file, too")
    return parser


# ---- real processes


@dataclasses.dataclass(frozen=True)
class RealStep:
    """Of one rank, the one with most of each."""

    sent: dict[str, float]  # bytes by what they are for
    messages: int  # collectives
    grown_mb: float  # peak memory beyond that at the start of the process


def _real_processes(worlds: Sequence[int]) -> list[str]:
    lines = [
        "1. real processes, gloo, tiny networks, one mix a rank; the rank that sends most",
        "   kB a step: gradients, batchnorm, features of the consistency loss, bank; collectives; memory of a process",
    ]
    runs = {world: _run_world(world) for world in worlds}
    for step in _STEPS:
        lines.append(f"  {step}")
        for world, result in runs.items():
            real = result[step]
            kinds = ("gradients", "batchnorm", "features", "bank")
            sent = "".join(f"{real.sent.get(kind, 0) / 1e3:11.2f}" for kind in kinds)
            lines.append(f"    W = {world:<4}{sent}   {real.messages:5d} collectives   {real.grown_mb:6.0f} MB")
    return lines


def _run_world(world: int) -> dict[str, RealStep]:
    """Forked, so that torch is imported once."""
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
    os.environ |= {
        "CUDA_VISIBLE_DEVICES": "", "RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "scaling",
    }  # fmt: skip
    results = {}
    with Ranks(timeout_s=600) as ranks:
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


def _full_size(cluster: Cluster, overrides: Sequence[str]) -> list[str]:
    runs: dict[tuple[int, int], dict[str, Measured]] = {}
    with tempfile.TemporaryDirectory(prefix="null-gpu-") as folder:
        build(Path(folder))
        for world, mixes in (*_FITTED, *_CHECKED):
            runs[world, mixes] = _null_gpu(Path(folder), world, mixes, overrides=overrides)
            print(f"null GPU: rank 0 of {world}, {mixes} mixes", file=sys.stderr)
    lines = [f"2. full size, rank 0 of W on a null GPU: {' '.join(overrides)}", *_measured_table(runs), ""]
    lines += ["3. the model", *_check(runs), "", f"  assumptions: {cluster}", f"    {Rank()}"]
    return [*lines, "", *_predictions(runs, cluster)]


def _null_gpu(folder: Path, world: int, mixes: int, *, overrides: Sequence[str]) -> dict[str, Measured]:
    """By kind of step. folder: of the compiled library. overrides: of the configuration.

    world: number of ranks. mixes: of a rank in a step.
    """
    out = folder / "counts.json"
    command = ["-m", "tests.null_gpu.count_steps", str(folder), "--world", str(world), "--mixes", str(mixes)]
    command += ["--config", "configs/duet.yaml", "--json", str(out), *overrides]
    subprocess.run([sys.executable, *command], env=environment(folder), check=True, capture_output=True)
    content = json.loads(out.read_text())
    gradients = {step: _unreduced(content[step]["sent"]["gradients"], world) for step in (BOTH, CRITIC)}
    by_network = {
        BOTH: {"critic": gradients[CRITIC], "separator": gradients[BOTH] - gradients[CRITIC]},
        CRITIC: {"critic": gradients[CRITIC]},
    }
    return {step: _measured(content[step], world, mixes, gradients=by_network[step]) for step in (BOTH, CRITIC)}


def _unreduced(sent: float, world: int) -> float:
    """Bytes of the tensors whose all-reduce sends so many."""
    return sent / all_reduce_bytes(1.0, world)


def _measured(step: dict[str, Any], world: int, mixes: int, *, gradients: dict[str, float]) -> Measured:
    """step: of `tests.null_gpu.count_steps`. gradients: bytes by network, which are taken out of the all-reduces.

    world: number of ranks. mixes: of a rank in a step.
    """
    count = {kind: float(step["counts"].get(kind, 0)) for kind in KINDS}
    num_bytes = {kind: float(step["bytes"].get(kind, 0)) for kind in KINDS}
    num_bytes["all-to-all"] += float(step["bytes"].get("send", 0))
    count["all-to-all"] += float(step["counts"].get("send", 0)) / world
    num_bytes["all-reduce"] -= sum(gradients.values())
    sent = Sent(gradients, count, num_bytes)
    return Measured(world, mixes, sent, wire_bytes=step["sent"], peak_memory=step["peak_memory"])


def _measured_table(runs: dict[tuple[int, int], dict[str, Measured]]) -> list[str]:
    lines = ["   MB sent by a rank, by ring algorithms; a cycle: both learn at one step, the critic alone at two"]
    for (world, mixes), steps in sorted(runs.items(), key=lambda item: (item[0][1], item[0][0])):
        cycle: Counter[str] = Counter()
        for step, times in ((BOTH, 1), (CRITIC, 2)):
            cycle.update({kind: times * value for kind, value in steps[step].wire_bytes.items()})
        parts = ", ".join(f"{kind} {value / 1e6:.2f}" for kind, value in cycle.items())
        peak = max(step.peak_memory for step in steps.values())
        collectives = sum(steps[BOTH].sent.count.values())
        lines.append(
            f"  {mixes:3d} mixes, W = {world:3d}: {sum(cycle.values()) / 1e6:9.1f} a cycle ({parts}); "
            f"{collectives:.0f} collectives where both learn; peak {peak / 1e9:.3f} GB"
        )
    return lines


def _check(runs: dict[tuple[int, int], dict[str, Measured]]) -> list[str]:
    lines = [f"  fitted to (W, mixes) = {_FITTED}; largest error of the bytes of the others:"]
    for step in (BOTH, CRITIC):
        fitted = [runs[case][step] for case in _FITTED]
        for kind in KINDS:
            coefficients = model.fit(fitted, kind)
            errors = [
                _relative_error(model.predicted_bytes(coefficients, mixes, world), runs[world, mixes][step], kind)
                for world, mixes in _CHECKED
            ]
            formula = " + ".join(f"{value:.4g}{name}" for value, name in zip(coefficients, ("", " b", " b W")))
            lines.append(f"    {step}, {kind}: {formula} bytes; {max(errors):.1%}")
    return lines


def _relative_error(predicted: float, measured: Measured, kind: str) -> float:
    true = measured.sent.num_bytes[kind]
    return abs(predicted - true) / max(true, 1.0)


def _predictions(runs: dict[tuple[int, int], dict[str, Measured]], cluster: Cluster) -> list[str]:
    sent = _Predictor(runs)
    lines = [f"  weak scaling, {cluster.gpus_a_node} GPUs a node, {cluster.node_gbit_s:g} Gbit/s a node; ms of a cycle"]
    for mixes in (8, 32):
        alone = model.cycle(sent(mixes, 1), mixes, 1, rank=Rank(), cluster=cluster).total
        for world in (1, 8, 64, 512):
            now = model.cycle(sent(mixes, world), mixes, world, rank=Rank(), cluster=cluster)
            lines.append(f"    {mixes:3d} mixes a rank, W = {world:3d}: {_times(now)}   {alone / now.total:6.1%}")
    lines.append("  strong scaling, a global batch of 512 mixes")
    first = None
    for world in (8, 16, 32, 64):
        mixes = 512 // world
        now = model.cycle(sent(mixes, world), mixes, world, rank=Rank(), cluster=cluster)
        first = first or world * now.total
        lines.append(f"    {mixes:3d} mixes a rank, W = {world:3d}: {_times(now)}   {first / (world * now.total):6.1%}")
    return lines


class _Predictor:
    """What a step sends for any number of ranks and mixes."""

    def __init__(self, runs: dict[tuple[int, int], dict[str, Measured]]) -> None:
        self._steps, self._fits = {}, {}
        for step in (BOTH, CRITIC):
            measured = [by_step[step] for by_step in runs.values()]
            self._steps[step] = measured
            self._fits[step] = {kind: model.fit(measured, kind) for kind in KINDS}

    def __call__(self, mixes: float, world: int) -> dict[str, Sent]:
        return {step: self._sent(step, mixes, world) for step in self._steps}

    def _sent(self, step: str, mixes: float, world: int) -> Sent:
        one = self._steps[step][0].sent
        fits = self._fits[step]
        num_bytes = {kind: max(0.0, model.predicted_bytes(fits[kind], mixes, world)) for kind in KINDS}
        return Sent(one.gradients, one.count, num_bytes)


def _times(cycle: model.Cycle) -> str:
    return (
        f"{cycle.total:7.1f} = {cycle.compute:.1f} computing + {cycle.pairs:.1f} pairs of all ranks + "
        f"{cycle.gradients:.1f} gradients + {cycle.others:.1f} other messages"
    )


if __name__ == "__main__":
    sys.exit(main())
