"""How long a cycle of training takes on W ranks: a model of what is sent, what hides it, and what it costs.

All of a rank's collectives are summed by kind, as the null GPU counts them: their number and the bytes of one rank's
part. What a step sends is linear in 1, b and b * W, with b mixes a rank, which `fit` finds from a few measured steps.
Partners from the memory bank are counted by the program's own plan, for all ranks: benchmarks/scaling_plan.py.

The clock is a sum of stated assumptions:

* A rank computes as long as one rank alone does, in `start_ms` + b * `mix_ms` a cycle, divided among the phases as
  their multiply-adds are.
* Ranks of a node are joined by `gpu_gb_s`, nodes by `node_gbit_s`, which all ranks of a node share in each direction.
  Both work at the same time, so that the slower one counts. No rank is late, and no other job uses the network.
* Rings reduce, gather and scatter, as NCCL's do: each byte passes a node's network once a round, an all-reduce has two.
  Of an all-to-all that counts which goes to other nodes, for the node with most.
* Each collective costs `launch_us`, reductions to all ranks `hop_us` for each doubling of the nodes, gathers and
  scatters `hop_us` a node and `gpu_hop_us` a rank, all-to-alls `peer_us` a rank, which torch calls NCCL for even where
  nothing is sent.
* Gradients are reduced bucket by bucket while the backward pass of their network runs. A bucket starts when its last
  gradient is there (benchmarks/scaling_plan.py) and the one before is reduced.
* The exchange of partners is hidden by the comparison of the consistency loss and, on more than 8 ranks, by nine
  tenths of the critic's forward pass of the rank's own components. The critic's update hides the sum of the
  comparison's gradients, which passes the network before the critic's gradients. Nothing else overlaps.
* The scores of the consistency loss grow with W: a product of 2 * n * N * cells * channels operations at
  `product_tflops`, `table_bytes` of traffic for each cell of each pair, and `pair_bytes` for each pair, for the
  gradient at its best cell, at `memory_gb_s`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ialcms.training.step import RANKS_OF_A_NODE

BOTH, CRITIC = "both learn", "critic only"
KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all")


@dataclass(frozen=True)
class Cluster:
    gpus_a_node: int = 8
    node_gbit_s: float = 100.0
    gpu_gb_s: float = 150.0  # that an NVLink collective reaches between the GPUs of a node
    launch_us: float = 15.0
    hop_us: float = 5.0
    gpu_hop_us: float = 1.0
    peer_us: float = 0.5

    def nodes(self, world_size: int) -> int:
        return max(1, world_size // self.gpus_a_node)

    @property
    def node_bytes_s(self) -> float:
        return 0.125e9 * self.node_gbit_s


@dataclass(frozen=True)
class Rank:
    """One rank's speed without the others. The shares are those of the multiply-adds of a cycle."""

    start_ms: float = 33.0  # two measured rates, of 8 and 32 mixes a step: benchmarks/results/gpu-nvidia-h200.txt
    mix_ms: float = 3.88
    share_of_both: float = 0.53  # of a cycle; each of the two others has half of the rest
    separator_backward: float = 0.21  # of a step in which both learn
    critic_forward: float = 0.12
    critic_backward: float = 0.24
    critic_forward_alone: float = 0.21  # of a step in which only the critic learns
    critic_backward_alone: float = 0.43
    before_partners: float = 0.45  # of the critic's forward pass: nine tenths of the half without partners
    product_tflops: float = 370.0  # half of what a large bf16 product reached there
    memory_gb_s: float = 4_000.0
    objects_a_mix: int = 4
    cells: int = 784
    channels: int = 512
    table_bytes: float = 8.0  # float32 cosines are written and read
    pair_bytes: float = 2_400.0  # two rows of 512 channels in 16 bits are read; the cells are sorted


@dataclass(frozen=True)
class Bucket:
    """Gradients that are reduced together."""

    num_bytes: float
    ready: float  # share of the multiply-adds of the backward pass after which all are there


@dataclass(frozen=True)
class Partners:
    """What the memory bank's exchange sends in a step, by the plan for all ranks; means over some steps."""

    rank_bytes: float  # of a rank to others
    largest_rank_bytes: float
    node_bytes: float  # to or from other nodes, of the node with most


@dataclass(frozen=True)
class Sent:
    """What a rank hands over in a step, but for gradients and partners."""

    count: dict[str, float] = field(default_factory=dict)  # collectives by kind
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
    """By a ring, of `num_bytes` on each rank, without latency."""
    return 2 * _ring_s(num_bytes, world_size, cluster)


def _ring_s(whole_bytes: float, world_size: int, cluster: Cluster) -> float:
    """One round: every part of the whole passes every rank but one."""
    passed = (world_size - 1) / world_size * whole_bytes
    between = passed / cluster.node_bytes_s if cluster.nodes(world_size) > 1 else 0.0
    return max(passed / (1e9 * cluster.gpu_gb_s), between)


def collective_s(kind: str, num_bytes: float, count: float, *, world_size: int, cluster: Cluster) -> float:
    """All collectives of a kind in a step, one after the other. 0 on one rank.

    num_bytes, count: as in `Sent`. world_size, cluster: the ranks.
    """
    if world_size == 1 or not count:
        return 0.0
    nodes = cluster.nodes(world_size)
    latency_us = {
        "all-reduce": cluster.hop_us * math.log2(nodes),
        "all-to-all": cluster.peer_us * (world_size - 1),
    }.get(kind, cluster.hop_us * (nodes - 1) + cluster.gpu_hop_us * (world_size - nodes))
    latency_s = 1e-6 * count * (cluster.launch_us + latency_us)
    if kind == "all-reduce":
        return latency_s + all_reduce_s(num_bytes, world_size, cluster)
    if kind == "all-to-all":
        gpus = world_size // nodes
        to_other_nodes = gpus * (nodes - 1) / nodes * num_bytes
        return latency_s + max(num_bytes / (1e9 * cluster.gpu_gb_s), to_other_nodes / cluster.node_bytes_s)
    return latency_s + _ring_s(world_size * num_bytes, world_size, cluster)


def exchange_s(partners: Partners, world_size: int, cluster: Cluster) -> float:
    """Of the independent partners in a step."""
    if world_size == 1:
        return 0.0
    latency_s = 1e-6 * (cluster.launch_us + cluster.peer_us * (world_size - 1))
    inside = partners.largest_rank_bytes / (1e9 * cluster.gpu_gb_s)
    return latency_s + max(inside, partners.node_bytes / cluster.node_bytes_s)


def exposed_ms(
    buckets: Sequence[Bucket], backward_ms: float, world_size: int, *, cluster: Cluster, busy_ms: float = 0.0
) -> float:
    """Time from the end of a network's backward pass until its gradients are reduced.

    buckets: in the order in which they are sent. backward_ms: of the pass. world_size, cluster: the ranks. busy_ms:
    from the beginning of the pass, in which the network still sends something else.
    """
    if world_size == 1:
        return 0.0
    done = busy_ms
    for bucket in buckets:
        latency_s = collective_s("all-reduce", 0.0, 1, world_size=world_size, cluster=cluster)
        duration_ms = 1e3 * (latency_s + all_reduce_s(bucket.num_bytes, world_size, cluster))
        done = max(done, bucket.ready * backward_ms) + duration_ms
    return max(0.0, done - backward_ms)


@dataclass(frozen=True)
class Cycle:
    """Milliseconds of a cycle, a step in which both learn and two in which only the critic does."""

    compute: float
    pairs: float  # the scores of the consistency loss beyond those of one rank
    gradients: float  # that no backward pass hides
    partners: float  # of the memory bank, that no comparison hides
    others: float  # all other collectives: BatchNorm's, and those of the consistency loss that nothing hides

    @property
    def total(self) -> float:
        return self.compute + self.pairs + self.gradients + self.partners + self.others


@dataclass(frozen=True)
class Job:
    """Ranks of equally many mixes, and what they send."""

    world_size: int
    mixes: int  # of a rank in a step
    sent: Mapping[str, Sent]  # by kind of step
    buckets: Mapping[str, Sequence[Bucket]]  # by network
    partners: Partners


def cycle(job: Job, rank: Rank, cluster: Cluster) -> Cycle:
    world_size = job.world_size
    compute = rank.start_ms + job.mixes * rank.mix_ms
    both, alone = rank.share_of_both * compute, (1 - rank.share_of_both) / 2 * compute

    def ms(step: str, kind: str) -> float:
        count, num_bytes = job.sent[step].count.get(kind, 0), job.sent[step].num_bytes.get(kind, 0.0)
        return 1e3 * collective_s(kind, num_bytes, count, world_size=world_size, cluster=cluster)

    exchange = 1e3 * exchange_s(job.partners, world_size, cluster)
    before = rank.before_partners if world_size > RANKS_OF_A_NODE else 0.0
    hidden = pairs_ms(rank, job.mixes, world_size) + before * rank.critic_forward * both
    partners = max(0.0, exchange - hidden) + 2 * max(0.0, exchange - before * rank.critic_forward_alone * alone)

    # the sum of the comparison's gradients begins before the critic's forward pass
    still_summing = max(0.0, ms(BOTH, "reduce-scatter") - rank.critic_forward * both)
    critic = rank.critic_backward * both
    gradients = exposed_ms(job.buckets["critic"], critic, world_size, cluster=cluster, busy_ms=still_summing)
    separator = rank.separator_backward * both
    gradients += exposed_ms(job.buckets["separator"], separator, world_size, cluster=cluster)
    critic = rank.critic_backward_alone * alone
    gradients += 2 * exposed_ms(job.buckets["critic"], critic, world_size, cluster=cluster)

    others = sum(ms(BOTH, kind) for kind in KINDS if kind != "reduce-scatter")
    others += 2 * sum(ms(CRITIC, kind) for kind in KINDS)
    more_pairs = pairs_ms(rank, job.mixes, world_size) - pairs_ms(rank, job.mixes, 1)
    return Cycle(compute, more_pairs, gradients, partners=partners, others=others)


def pairs_ms(rank: Rank, mixes: float, world_size: int) -> float:
    """The comparison of the consistency loss."""
    local = rank.objects_a_mix * mixes
    pairs = local * local * world_size
    product_s = 2 * rank.channels / (1e12 * rank.product_tflops)
    of_cells_s = rank.cells * (product_s + rank.table_bytes / (1e9 * rank.memory_gb_s))
    return 1e3 * pairs * (of_cells_s + rank.pair_bytes / (1e9 * rank.memory_gb_s))
