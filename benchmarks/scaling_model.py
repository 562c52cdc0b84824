"""How long a cycle of training takes on W ranks: a model of what is sent, what hides it, and what it costs.

All of a rank's collectives are summed by kind, as the null GPU counts them: their number and the bytes of one rank's
part. What a step sends is linear in 1, b and b * W, with b mixes a rank, which `fit` finds from a few measured steps.

The clock is a sum of stated assumptions:

* A rank computes as long as one rank alone does, in `start_ms` + b * `mix_ms` a cycle, divided among the phases as
  their multiply-adds are.
* Gradients are reduced while the backward pass of their network runs, all but the last bucket. Nothing else overlaps.
* Ranks of a node are joined by `gpu_gb_s`, nodes by `node_gbit_s`; a collective passes both one after the other, and
  passes the network of a node once for all its ranks, as NCCL's rings and trees do. An all-to-all passes it once for
  each rank.
* Each collective costs `launch_us`, reductions to all ranks `hop_us` for each doubling of the nodes, gathers and
  scatters `hop_us` a node, all-to-alls `peer_us` a rank.
* The scores of the consistency loss grow with W: three products of 2 * n * N * cells * channels operations at
  `product_tflops`, and `table_bytes` of traffic for each cell of each pair at `memory_gb_s`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

BUCKET = 25 * 2**20  # bytes, DDP's
BOTH, CRITIC = "both learn", "critic only"
KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all")


@dataclass(frozen=True)
class Cluster:
    gpus_a_node: int = 8
    node_gbit_s: float = 100.0
    gpu_gb_s: float = 150.0  # that an NVLink collective reaches between the GPUs of a node
    launch_us: float = 15.0
    hop_us: float = 5.0
    peer_us: float = 0.5


@dataclass(frozen=True)
class Rank:
    """One rank's speed without the others. The shares are those of the multiply-adds of a cycle."""

    start_ms: float = 33.0  # two measured rates, of 8 and 32 mixes a step: benchmarks/results/gpu-nvidia-h200.txt
    mix_ms: float = 3.88
    share_of_both: float = 0.53  # of a cycle; each of the two others has half of the rest
    separator_backward: float = 0.21  # of a step in which both learn
    critic_backward: float = 0.24
    critic_backward_alone: float = 0.43  # of a step in which only the critic learns
    product_tflops: float = 370.0
    memory_gb_s: float = 4_000.0
    objects_a_mix: int = 4
    cells: int = 784
    channels: int = 512
    table_bytes: float = 16.0  # a cosine is written and read once forward; backward a table is filled and read twice


@dataclass(frozen=True)
class Sent:
    """What a rank hands over in a step."""

    gradients: dict[str, float] = field(default_factory=dict)  # bytes by network
    count: dict[str, float] = field(default_factory=dict)  # of other collectives, by kind
    num_bytes: dict[str, float] = field(default_factory=dict)  # of one rank's part (all-to-all: of its parts for all)


@dataclass(frozen=True)
class Measured:
    """A step as the null GPU counted it."""

    world_size: int
    mixes: int  # of a rank
    sent: Sent
    wire_bytes: dict[str, float]  # by what they are for: as `ialcms.engine.traffic` computes them
    peak_memory: float  # bytes


def fit(measured: Sequence[Measured], kind: str) -> np.ndarray:
    """Coefficients (3,) of 1, b and b * W for the bytes of a kind of collective, by least squares."""
    rows = np.array([[1.0, m.mixes, m.mixes * m.world_size] for m in measured])
    scale = np.abs(rows).max(axis=0)
    values = np.array([m.sent.num_bytes.get(kind, 0.0) for m in measured])
    return np.linalg.lstsq(rows / scale, values, rcond=None)[0] / scale


def predicted_bytes(coefficients: np.ndarray, mixes: float, world_size: int) -> float:
    return float(coefficients @ np.array([1.0, mixes, mixes * world_size]))


def all_reduce_s(num_bytes: float, world_size: int, cluster: Cluster) -> float:
    """Of `num_bytes` on each rank."""
    nodes, gpus = _nodes(world_size, cluster)
    inside = 2 * (gpus - 1) / gpus * num_bytes / (1e9 * cluster.gpu_gb_s)
    between = 2 * (nodes - 1) / nodes * num_bytes / (0.125e9 * cluster.node_gbit_s)
    return inside + between


def collective_s(kind: str, num_bytes: float, count: float, world_size: int, cluster: Cluster) -> float:
    """All collectives of a kind in a step.

    num_bytes, count: as in `Sent`. 0 on one rank.
    """
    if world_size == 1 or not count:
        return 0.0
    nodes, gpus = _nodes(world_size, cluster)
    hops_s = cluster.hop_us * 1e-6 * {"all-reduce": math.log2(nodes), "all-to-all": 0.0}.get(kind, nodes - 1)
    peers_s = cluster.peer_us * 1e-6 * (world_size - 1) if kind == "all-to-all" else 0.0
    latency_s = count * (cluster.launch_us * 1e-6 + hops_s + peers_s)
    if kind == "all-reduce":
        return latency_s + all_reduce_s(num_bytes, world_size, cluster)
    # of a gather or scatter the whole passes a node's network once; of an all-to-all what its ranks send
    through_node = num_bytes * (gpus if kind == "all-to-all" else world_size)
    inside = (gpus - 1) / gpus * through_node / (1e9 * cluster.gpu_gb_s)
    return latency_s + inside + (nodes - 1) / nodes * through_node / (0.125e9 * cluster.node_gbit_s)


def _nodes(world_size: int, cluster: Cluster) -> tuple[int, int]:
    """Nodes, and ranks on each."""
    gpus = min(world_size, cluster.gpus_a_node)
    return max(1, world_size // gpus), gpus


@dataclass(frozen=True)
class Cycle:
    """Milliseconds of a cycle, a step in which both learn and two in which only the critic does."""

    compute: float
    pairs: float  # the scores of the consistency loss beyond those of one rank
    gradients: float  # that no backward pass hides
    others: float  # all other collectives

    @property
    def total(self) -> float:
        return self.compute + self.pairs + self.gradients + self.others


def cycle(sent: dict[str, Sent], mixes: float, world_size: int, *, rank: Rank, cluster: Cluster) -> Cycle:
    """sent: by kind of step. mixes: of a rank in a step."""
    compute = rank.start_ms + mixes * rank.mix_ms
    both, alone = rank.share_of_both * compute, (1 - rank.share_of_both) / 2 * compute
    hidden = {
        (BOTH, "separator"): rank.separator_backward * both,
        (BOTH, "critic"): rank.critic_backward * both,
        (CRITIC, "critic"): rank.critic_backward_alone * alone,
    }
    gradients, others = 0.0, 0.0
    for step, times in ((BOTH, 1), (CRITIC, 2)):
        for network, num_bytes in sent[step].gradients.items():
            exposed = 1e3 * all_reduce_s(num_bytes, world_size, cluster) - hidden[step, network]
            last = 1e3 * all_reduce_s(min(BUCKET, num_bytes), world_size, cluster)
            gradients += times * max(exposed, last)
        for kind in KINDS:
            count, num_bytes = sent[step].count.get(kind, 0), sent[step].num_bytes.get(kind, 0.0)
            others += times * 1e3 * collective_s(kind, num_bytes, count, world_size=world_size, cluster=cluster)
    return Cycle(compute, _pairs_ms(rank, mixes, world_size), gradients if world_size > 1 else 0.0, others=others)


def _pairs_ms(rank: Rank, mixes: float, world_size: int) -> float:
    local = rank.objects_a_mix * mixes
    cosines = local * local * (world_size - 1) * rank.cells
    return (
        1e3
        * cosines
        * (3 * 2 * rank.channels / (1e12 * rank.product_tflops) + rank.table_bytes / (1e9 * rank.memory_gb_s))
    )
