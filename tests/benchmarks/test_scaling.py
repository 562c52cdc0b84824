"""The benchmark of scaling runs, and its model keeps to what it states."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import scaling_model as model
from benchmarks import scaling_plan as plan
from benchmarks.scaling_model import BOTH, CRITIC, Bucket, Cluster, Measured, Partners, Rank, Sent
from ialcms.config import load_config
from tests.support import python, torchrun


@pytest.mark.distributed
def test_small(tmp_path: Path) -> None:
    done = python("-m", "benchmarks.scaling", "--small", "--out", str(tmp_path / "scaling.txt"), timeout_s=900)
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "scaling.txt").read_text().splitlines()
    one, two = (next(line.split() for line in lines if f"W = {world} " in line) for world in (1, 2))
    assert [float(value) for value in one[3:7]] == [0, 0, 0, 0]  # one rank sends nothing
    assert all(float(value) > 0 for value in two[3:7])
    assert "full size on a null GPU: left out with --small" in lines


def step(world: int, mixes: int, num_bytes: float) -> Measured:
    return Measured(world, mixes, Sent(num_bytes={"all-to-all": num_bytes}), wire_bytes={}, peak_memory=0)


def test_fit_finds_the_coefficients() -> None:
    cases = [(8, 8), (64, 8), (64, 32), (512, 32)]
    measured = [step(world, mixes, 5e6 + 2e3 * mixes + 7 * mixes * world) for world, mixes in cases]
    coefficients = model.fit(measured, "all-to-all")
    assert coefficients == pytest.approx([5e6, 2e3, 7])
    assert model.predicted_bytes(coefficients, 16, 128) == pytest.approx(5e6 + 3.2e4 + 14_336)


def test_times_of_collectives() -> None:
    cluster = Cluster(gpus_a_node=8, node_gbit_s=80.0, gpu_gb_s=100, launch_us=0, hop_us=0, gpu_hop_us=0, peer_us=0)

    def seconds(kind: str, world: int) -> float:
        return model.collective_s(kind, 1.6e9, 1, world_size=world, cluster=cluster)

    assert seconds("all-reduce", 1) == 0
    assert seconds("all-reduce", 8) == pytest.approx(2 * 7 / 8 * 0.016)  # 100 GB/s
    # two nodes of 10 GB/s: all but a sixteenth passes each of them, twice
    assert seconds("all-reduce", 16) == pytest.approx(2 * 15 / 16 * 0.16)
    assert seconds("all-gather", 16) == seconds("reduce-scatter", 16) == pytest.approx(15 * 0.16)
    assert seconds("all-to-all", 16) == pytest.approx(8 * 0.5 * 0.16)  # half of what each of 8 ranks sends
    late = Cluster(launch_us=10, hop_us=2, gpu_hop_us=1, peer_us=1)
    for kind, latency_us in {"all-reduce": 10 + 3 * 2, "all-to-all": 10 + 63, "all-gather": 10 + 7 * 2 + 56}.items():
        found = model.collective_s(kind, 0, 3, world_size=64, cluster=late)
        assert found == pytest.approx(3e-6 * latency_us), kind


def test_gradients_hide_behind_the_backward_pass() -> None:
    cluster = Cluster(node_gbit_s=80.0, gpu_gb_s=1e9, launch_us=0, hop_us=0)
    reduced_ms = 1e3 * model.all_reduce_s(1e7, 64, cluster)  # 2 ms each
    early, late = Bucket(1e7, ready=0.1), Bucket(1e7, ready=1.0)

    def exposed(buckets: list[Bucket], backward_ms: float, busy_ms: float = 0.0) -> float:
        return model.exposed_ms(buckets, backward_ms, 64, cluster=cluster, busy_ms=busy_ms)

    assert exposed([early], 100.0) == 0
    assert exposed([early, late], 100.0) == pytest.approx(reduced_ms)  # the last one cannot hide
    assert exposed([early] * 10, 10.0) == pytest.approx(10 * reduced_ms - 9.0)  # longer than the pass
    assert exposed([early] * 10, 10.0, busy_ms=3.0) == pytest.approx(10 * reduced_ms - 7.0)
    assert model.exposed_ms([late], 10.0, 1, cluster=cluster) == 0


def job(world: int, partners_mb: float = 0.0, summed_mb: float = 0.0) -> model.Job:
    """32 mixes a rank."""
    sent = Sent(count={"reduce-scatter": 1}, num_bytes={"reduce-scatter": 1e6 * summed_mb / world})
    buckets = {"critic": [Bucket(1e6, 0.0)], "separator": [Bucket(1e6, 0.0)]}
    partners = Partners(0.0, 0.0, node_bytes=1e6 * partners_mb)
    return model.Job(world, 32, {BOTH: sent, CRITIC: Sent()}, buckets=buckets, partners=partners)


def test_a_cycle_of_one_rank_is_its_computing() -> None:
    rank = Rank()
    alone = model.cycle(job(1), rank, Cluster())
    assert (alone.gradients, alone.pairs, alone.partners, alone.others) == (0, 0, 0, 0)
    assert alone.total == pytest.approx(rank.start_ms + 32 * rank.mix_ms)


def test_what_the_comparison_and_the_critic_hide() -> None:
    rank, cluster = Rank(), Cluster(node_gbit_s=80.0, launch_us=0, peer_us=0)
    compared, cycle_ms = model.pairs_ms(rank, 32, 64), rank.start_ms + 32 * rank.mix_ms
    both = rank.before_partners * rank.critic_forward * rank.share_of_both * cycle_ms
    alone = rank.before_partners * rank.critic_forward_alone * (1 - rank.share_of_both) / 2 * cycle_ms
    assert compared > 4
    assert 2 < alone < 4 < both < 5
    short, long = model.cycle(job(64, 50.0), rank, cluster), model.cycle(job(64, 500.0), rank, cluster)
    assert short.partners == pytest.approx(2 * (5 - alone))  # of three exchanges of 5 ms each
    assert long.partners == pytest.approx(3 * 50 - compared - both - 2 * alone)
    one_node = model.cycle(job(8, 50.0), rank, cluster)  # its critic waits for them first
    assert one_node.partners == pytest.approx(3 * 5 - model.pairs_ms(rank, 32, 8))
    hidden, shown = (
        model.cycle(job(64, summed_mb=50), rank, cluster),
        model.cycle(job(64, summed_mb=900), rank, cluster),
    )
    assert hidden.gradients == 0
    assert shown.gradients > 90 - rank.share_of_both * (rank.start_ms + 32 * rank.mix_ms)


def test_the_plan_of_all_ranks_is_that_of_each() -> None:
    config = load_config("configs/duet.yaml", ["loss.bank_size=50"])
    row_bytes = 2 * config.audio.log_bins * config.audio.num_frames
    steps = range(5, 7)
    whole = plan.partners(config, 2, 16, cluster=Cluster(gpus_a_node=16), steps=steps)
    assert whole.node_bytes == 0
    assert 0.5 * 8 * row_bytes < whole.rank_bytes < 8 * row_bytes  # of 8 partners a few are its rank's
    alone = plan.partners(config, 2, 16, cluster=Cluster(gpus_a_node=1), steps=steps)
    assert alone.node_bytes == alone.largest_rank_bytes >= alone.rank_bytes == whole.rank_bytes
    of_rank_0 = [plan.rank_0_sends(config, 2, 16, entered=step, step=step) for step in steps]
    assert 0 < max(of_rank_0) <= 2 * alone.largest_rank_bytes


BUCKETS = """
import torch
from torch.nn.parallel import DistributedDataParallel
from benchmarks import scaling_plan
from ialcms.engine.learner import BUCKET_MIB, _Network
from ialcms.engine.ranks import Ranks
from ialcms.launched import end_process

def network():
    return torch.nn.ModuleList(torch.nn.Linear(1024, 256 * n, bias=False) for n in (4, 4, 4, 2, 4, 4))

def loss(network):
    return sum(layer(torch.ones(1, 1024)).sum() for layer in network)

def hook(state, bucket):
    sent.append(bucket.buffer().numel() * 4)
    future = torch.futures.Future()
    future.set_result(bucket.buffer())
    return future

with Ranks():
    wrapped = DistributedDataParallel(_Network(network()), gradient_as_bucket_view=True, bucket_cap_mb=BUCKET_MIB)
    wrapped.register_comm_hook(None, hook)
    for _ in range(2):  # buckets are settled in the first pass
        sent = []
        wrapped().backward()
    module = network()
    print(sent, [part.num_bytes for part in scaling_plan._buckets(module, lambda: loss(module))], sep="\\n")
end_process(0)
"""


@pytest.mark.distributed
def test_the_plan_cuts_buckets_as_ddp_does(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(BUCKETS)
    done = torchrun(1, str(tmp_path / "program.py"))
    assert done.returncode == 0, done.stderr
    sent, planned = (json.loads(line) for line in done.stdout.splitlines())
    assert len(sent) > 2
    assert planned == sent


@pytest.mark.slow
@pytest.mark.parametrize("waits_late", [False, True])
def test_buckets_are_those_of_ddp(waits_late: bool) -> None:
    found = plan.buckets(load_config("configs/duet.yaml", ["model.visual.weights=none"]), waits_late=waits_late)
    assert sum(bucket.num_bytes for bucket in found["critic"]) == pytest.approx(124.3e6, rel=1e-3)
    assert sum(bucket.num_bytes for bucket in found["separator"]) == pytest.approx(121.6e6, rel=1e-2)
    for buckets in found.values():
        assert 0 <= buckets[0].ready < 0.5
        assert max(bucket.ready for bucket in buckets) == pytest.approx(1.0)
