"""Training as a job of slurm/train.sbatch: interrupted in every way, it finishes with the losses of a quiet run."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster import Cluster
from tests.cluster.jobs import Job, check_finished, check_losses, launch_slurm, train, train_here
from tests.support import write_small_config

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.distributed]


def test_two_nodes_of_one_rank_lose_a_rank_a_step_daemon_a_node_and_the_power_of_another(
    cluster: Cluster, checkout: Path, config_file: Path, uninterrupted: Callable[[int], Path]
) -> None:
    job = train(cluster, checkout, "--nodes=2", str(config_file))

    job.wait_for_training(0)
    (rank,) = cluster.processes(r"-m ialcms train", job.nodes[0][1])
    os.kill(rank, signal.SIGKILL)

    job.wait_for_training(1)
    assert "rank 1 was killed by SIGKILL" in job.log
    (daemon,) = cluster.processes(rf"^slurmstepd: \[{job.number}\.\d+\]", job.nodes[1][1])
    os.kill(daemon, signal.SIGKILL)

    job.wait_for_training(2)
    assert "crashed (time 2 of 3 before it gives up); back into the queue" in job.log
    down = job.nodes[2][1]
    cluster.run("scontrol", "update", f"nodename={down}", "state=down", "reason=test")

    job.wait_for_training(3)
    assert down not in job.nodes[3]
    cluster.resume(down)
    dark = job.nodes[3][1]
    cluster.cut_power(dark)

    check_finished(job, 4, uninterrupted(2))
    assert dark not in job.nodes[4]
    cluster.boot(dark)


def test_two_nodes_of_two_ranks_stop_before_the_limit_and_are_preempted(
    cluster: Cluster, checkout: Path, config_file: Path, uninterrupted: Callable[[int], Path]
) -> None:
    options = ["--nodes=2", "--ntasks-per-node=2", "--partition", "low"]
    printed = launch_slurm(cluster, checkout, *options, "train", str(config_file))
    assert printed["curves"] == f"tensorboard --logdir {Path(printed['run folder']).parent}"
    job = Job(cluster, checkout, printed["job"], checkout / printed["run folder"])

    job.wait_for_training(0)
    job.stop()

    job.wait_for_training(1)
    # at the time limit; at the preemption SLURM signals only the steps, not the batch shell
    assert job.log.count("time is nearly up: asking the ranks to stop") == 1
    assert job.log.count("stopped on request after step") == 1
    urgent = cluster.submit("--partition=high", "--nodes=4", "--exclusive", "--wrap=true", cwd=checkout)
    assert cluster.wait(urgent).state == "COMPLETED"
    assert not (job.run / "finished").exists()

    check_finished(job, 2, uninterrupted(4))
    assert job.log.count("stopped on request after step") == 2
    assert job.log.count("stopped; back into the queue") == 2


def test_four_nodes_of_four_ranks_train_as_one_rank_does(
    cluster: Cluster, checkout: Path, demo_shards: Path, tmp_path: Path
) -> None:
    """One mix a rank. The sums over 16 ranks are rounded in another order, so the losses are not equal to the bit."""
    options = {"global_batch": 16, "steps": 6, "validate_every": 6, "checkpoint_every": 3}
    config = write_small_config(tmp_path / "sixteen.yaml", demo_shards, **options)
    job = train(cluster, checkout, "--nodes=4", "--ntasks-per-node=4", str(config))
    train_here(config, 1, tmp_path / "alone")
    ended = job.wait()
    assert (ended.state, ended.restarts) == ("COMPLETED", 0), job.log
    assert sorted(job.nodes[0]) == cluster.names
    check_losses(job.run, tmp_path / "alone", tolerance=1e-2)
