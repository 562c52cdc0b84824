"""The benchmark of scaling runs, and its model keeps to what it states."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import scaling_model as model
from benchmarks.scaling_model import BOTH, CRITIC, Cluster, Measured, Rank, Sent
from tests.support import python


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
    cluster = Cluster(gpus_a_node=8, node_gbit_s=80.0, gpu_gb_s=1e12, launch_us=0, hop_us=0, peer_us=0)
    assert model.collective_s("all-reduce", 1e9, 1, 1, cluster=cluster) == 0
    assert model.collective_s("all-reduce", 1e9, 1, 8, cluster=cluster) == pytest.approx(0, abs=1e-6)
    # two nodes of 10 GB/s: each sends a gigabyte, half of it twice; of an all-to-all each of 8 ranks half a gigabyte
    assert model.collective_s("all-reduce", 1e9, 1, 16, cluster=cluster) == pytest.approx(0.1)
    assert model.collective_s("all-to-all", 1e9, 1, 16, cluster=cluster) == pytest.approx(0.4)
    assert model.collective_s("all-gather", 1e9, 1, 16, cluster=cluster) == pytest.approx(0.8)
    late = Cluster(launch_us=10, hop_us=2, peer_us=1)
    assert model.collective_s("all-reduce", 0, 3, 64, cluster=late) == pytest.approx(3 * (10 + 3 * 2) * 1e-6)
    assert model.collective_s("all-to-all", 0, 1, 64, cluster=late) == pytest.approx((10 + 63) * 1e-6)


def test_gradients_hide_behind_the_backward_pass() -> None:
    rank = Rank()
    sent = {BOTH: Sent({"separator": 1e8, "critic": 1e8}), CRITIC: Sent({"critic": 1e8})}
    alone = model.cycle(sent, 32, 1, rank=rank, cluster=Cluster())
    assert (alone.gradients, alone.pairs, alone.others) == (0, 0, 0)
    assert alone.total == pytest.approx(rank.start_ms + 32 * rank.mix_ms)
    fast, slow = (model.cycle(sent, 32, 64, rank=rank, cluster=Cluster(node_gbit_s=gbit)) for gbit in (400, 10))
    bucket_ms = 1e3 * model.all_reduce_s(model.BUCKET, 64, Cluster(node_gbit_s=400))
    assert fast.gradients == pytest.approx(4 * bucket_ms)  # of each of the four reductions the last bucket shows
    assert slow.gradients > 3 * 1e3 * model.all_reduce_s(1e8, 64, Cluster(node_gbit_s=10))
    assert fast.pairs > 0
