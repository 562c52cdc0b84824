"""What a rank sends and holds on 1 to 512 ranks, and how the time of a step scales by a model.

    python -m benchmarks.scaling --out benchmarks/results/scaling.txt     # a quarter of an hour on two cores
    python -m benchmarks.scaling --small                                  # 1 and 2 ranks, no null GPU

1. Real processes (gloo) of tiny networks with one mix a rank: bytes and messages of a step, and memory.
2. Full-size networks on a null GPU as rank 0 of up to 512 (tests/null_gpu: real CUDA and NCCL calls that compute
   nothing): what is handed to NCCL, and the peak of torch's allocator.
3. A model fitted to three runs of the second part and checked against the others, and the weak and strong scaling that
   it predicts for a given network: see benchmarks/scaling_model.py for its assumptions.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import scaling_model as model
from benchmarks import scaling_plan as plan
from benchmarks.scaling_measured import CONFIG, FIRST_STEP, null_gpu, run_world
from benchmarks.scaling_model import BOTH, CRITIC, KINDS, Bucket, Cluster, Job, Measured, Rank, Sent
from ialcms.config import Config, load_config
from ialcms.training.step import RANKS_OF_A_NODE
from tests.null_gpu.build import build, missing
from tests.null_gpu.count_steps import WATCHED

_FITTED = ((8, 8), (8, 32), (64, 32))  # (ranks, mixes a rank)
_CHECKED = ((64, 8), (128, 32), (256, 32), (512, 32))
_LEARNING = {BOTH: ("critic", "separator"), CRITIC: ("critic",)}
_IN_A_CYCLE = {BOTH: 1, CRITIC: 2}
_AVERAGED_STEPS = range(100, 104)

Runs = dict[tuple[int, int], dict[str, Measured]]
Buckets = Mapping[bool, Mapping[str, Sequence[Bucket]]]  # by whether partners are waited for late, and by network


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
    parser.add_argument("--ranks", type=int, nargs="*", default=[1, 2, 4, 8, 16, 32], help="of the real processes")
    parser.add_argument("--gpus-a-node", type=int, default=8)
    parser.add_argument("--node-gbit-s", type=float, default=100.0, help="bandwidth between nodes, of a node")
    parser.add_argument("--set", nargs="*", default=["train.precision=bf16"], help="configuration of the full size")
    parser.add_argument("--small", action="store_true", help="a check that the benchmark runs")
    parser.add_argument("--out", type=Path, default=None, help="write the text to this file, too")
    return parser


def _real_processes(worlds: Sequence[int]) -> list[str]:
    lines = [
        "1. real processes, gloo, tiny networks, one mix a rank; the rank that sends most",
        "   kB a step: gradients, batchnorm, features of the consistency loss, bank; collectives; memory of a process",
    ]
    runs = {}
    for world in worlds:
        runs[world] = run_world(world)
        print(f"real processes: {world}", file=sys.stderr)
    for step in _IN_A_CYCLE:
        lines.append(f"  {step}")
        for world, result in runs.items():
            real = result[step]
            kinds = ("gradients", "batchnorm", "features", "bank")
            sent = "".join(f"{real.sent.get(kind, 0) / 1e3:11.2f}" for kind in kinds)
            lines.append(f"    W = {world:<4}{sent}   {real.messages:5d} collectives   {real.grown_mb:6.0f} MB")
    return lines


def _full_size(cluster: Cluster, overrides: Sequence[str]) -> list[str]:
    config = load_config(CONFIG, ["model.visual.weights=none", *overrides])
    runs: Runs = {}
    with tempfile.TemporaryDirectory(prefix="null-gpu-") as folder:
        build(Path(folder))
        for world, mixes in (*_FITTED, *_CHECKED):
            runs[world, mixes] = null_gpu(Path(folder), world, mixes, overrides=overrides)
            print(f"null GPU: rank 0 of {world}, {mixes} mixes", file=sys.stderr)
    buckets = {waits_late: plan.buckets(config, waits_late=waits_late) for waits_late in (False, True)}
    lines = [f"2. full size, rank 0 of W on a null GPU: {' '.join(overrides)}", *_measured_table(runs), ""]
    lines += ["3. the model", *_check(runs, config, buckets), "", f"  assumptions: {cluster}", f"    {Rank()}", ""]
    predictor = _Predictor(runs, config, cluster=cluster, buckets=buckets)
    lines += predictor.table("float32 gradients")
    halved = {waits_late: _in_16_bits(of_networks) for waits_late, of_networks in buckets.items()}
    predictor = _Predictor(runs, config, cluster=cluster, buckets=halved)
    return [*lines, "", *predictor.table("train.gradient_compression=bf16")]


def _in_16_bits(of_networks: Mapping[str, Sequence[Bucket]]) -> dict[str, list[Bucket]]:
    halved = {}
    for network, parts in of_networks.items():
        halved[network] = [Bucket(part.num_bytes / 2, part.ready) for part in parts]
    return halved


def _cycle_bytes(steps: Mapping[str, Measured]) -> Counter[str]:
    cycle: Counter[str] = Counter()
    for step, times in _IN_A_CYCLE.items():
        cycle.update({kind: times * value for kind, value in steps[step].wire_bytes.items()})
    return cycle


def _measured_table(runs: Runs) -> list[str]:
    lines = ["   MB sent by a rank, by ring algorithms; a cycle: both learn at one step, the critic alone at two"]
    for (world, mixes), steps in sorted(runs.items(), key=lambda item: (item[0][1], item[0][0])):
        cycle = _cycle_bytes(steps)
        parts = ", ".join(f"{kind} {value / 1e6:.2f}" for kind, value in cycle.items())
        first = runs[8, mixes]
        peak, first_peak = _peak(steps), _peak(first)
        ratio = sum(cycle.values()) / sum(_cycle_bytes(first).values())
        collectives = sum(steps[BOTH].sent.count.values()) + 1  # the exchange of partners
        total = sum(cycle.values()) / 1e6
        lines += [
            f"  {mixes:3d} mixes, W = {world:3d}: {total:9.1f} a cycle ({parts}); {collectives:.0f} collectives where "
            f"both learn; peak {peak / 1e9:.3f} GB; of 8 ranks' bytes {ratio:.2f}, memory {peak / first_peak:.3f}"
        ]
    return lines


def _peak(steps: Mapping[str, Measured]) -> float:
    return max(step.peak_memory for step in steps.values())


def _check(runs: Runs, config: Config, buckets: Buckets) -> list[str]:
    lines = [f"  fitted to (W, mixes) = {_FITTED}; largest error of the bytes of the others, {_CHECKED}:"]
    for step in (BOTH, CRITIC):
        fitted = [runs[case][step] for case in _FITTED]
        for kind in KINDS:
            coefficients = model.fit(fitted, kind)
            errors = [
                _relative_error(model.predicted_bytes(coefficients, mixes, world), runs[world, mixes][step], kind)
                for world, mixes in _CHECKED
            ]
            terms = zip(coefficients, ("", " b", " b W"))
            formula = " + ".join(f"{value:.4g}{name}" for value, name in terms if abs(value) > 1e-3)
            lines.append(f"    {step}, {kind}: {formula or '0'} bytes; {max(errors):.1%}")
    differences = []
    for (world, mixes), steps in runs.items():
        for step, number in WATCHED.items():
            planned = plan.rank_0_sends(config, mixes, world, entered=number - FIRST_STEP, step=number)
            differences.append(abs(planned - steps[step].wire_bytes["bank"]))
    lines.append(f"    partners that rank 0 sends, by the plan: at most {max(differences):.0f} bytes off in all runs")
    lines.append("    buckets, with the share of the network's backward pass at which they are ready")
    for waits_late, of_networks in buckets.items():
        for network, parts in of_networks.items():
            text = ", ".join(f"{bucket.num_bytes / 1e6:.1f} MB at {bucket.ready:.2f}" for bucket in parts)
            lines.append(f"      {network}, {'more than' if waits_late else 'up to'} {RANKS_OF_A_NODE} ranks: {text}")
    return lines


def _relative_error(predicted: float, measured: Measured, kind: str) -> float:
    true = measured.sent.num_bytes[kind]
    return abs(predicted - true) / max(true, 1.0)


class _Predictor:
    """The time of a cycle for any number of ranks and mixes."""

    def __init__(self, runs: Runs, config: Config, *, cluster: Cluster, buckets: Buckets) -> None:
        """runs: measured. config: of the full size. cluster: the network. buckets: of the gradients."""
        self._config, self._cluster, self._buckets = config, cluster, buckets
        self._counts, self._fits = {}, {}
        for step in (BOTH, CRITIC):
            measured = [by_step[step] for by_step in runs.values()]
            count = dict(measured[0].sent.count)
            count["all-reduce"] -= sum(len(buckets[False][network]) for network in _LEARNING[step])
            self._counts[step] = count
            self._fits[step] = {kind: model.fit(measured, kind) for kind in KINDS}

    def cycle(self, mixes: int, world: int) -> model.Cycle:
        partners = plan.partners(self._config, mixes, world, cluster=self._cluster, steps=_AVERAGED_STEPS)
        sent = {step: self._sent(step, mixes, world) for step in (BOTH, CRITIC)}
        buckets = self._buckets[world > RANKS_OF_A_NODE]
        return model.cycle(Job(world, mixes, sent, buckets=buckets, partners=partners), Rank(), self._cluster)

    def _sent(self, step: str, mixes: int, world: int) -> Sent:
        fits = self._fits[step]
        num_bytes = {kind: max(0.0, model.predicted_bytes(fits[kind], mixes, world)) for kind in KINDS}
        return Sent(self._counts[step], num_bytes)

    def table(self, title: str) -> list[str]:
        cluster = self._cluster
        lines = [
            f"  {title}; {cluster.gpus_a_node} GPUs a node, {cluster.node_gbit_s:g} Gbit/s a node; ms of a cycle",
            "  weak scaling",
        ]
        for mixes in (8, 32):
            alone = self.cycle(mixes, 1).total
            for world in (1, 8, 16, 64, 512):
                now = self.cycle(mixes, world)
                lines.append(f"    {mixes:3d} mixes a rank, W = {world:3d}: {_times(now)}   {alone / now.total:6.1%}")
        lines.append("  strong scaling, a global batch of 512 mixes")
        first = None
        for world in (8, 16, 32, 64):
            now = self.cycle(512 // world, world)
            first = first or world * now.total
            efficiency = first / (world * now.total)
            lines.append(f"    {512 // world:3d} mixes a rank, W = {world:3d}: {_times(now)}   {efficiency:6.1%}")
        return lines


def _times(cycle: model.Cycle) -> str:
    return (
        f"{cycle.total:7.1f} = {cycle.compute:.1f} computing + {cycle.pairs:.1f} pairs of all ranks + "
        f"{cycle.gradients:.1f} gradients + {cycle.partners:.1f} partners + {cycle.others:.1f} other messages"
    )


if __name__ == "__main__":
    sys.exit(main())
