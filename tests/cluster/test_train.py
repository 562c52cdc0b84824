"""Training as a job of slurm/train.sbatch: whatever befalls it, it ends finished, with the losses of a quiet run."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster import Cluster
from tests.cluster.jobs import Job, check_finished, launch_slurm, train

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
    told = launch_slurm(cluster, checkout, *options, "train", str(config_file))
    assert told["curves"] == f"tensorboard --logdir {Path(told['run folder']).parent}"
    job = Job(cluster, checkout, told["job"], checkout / told["run folder"])

    job.wait_for_training(0)
    job.stop()

    job.wait_for_training(1)
    # at the time limit; at the preemption SLURM tells the steps alone, not the batch shell
    assert job.log.count("time is nearly up: asking the ranks to stop") == 1
    assert job.log.count("stopped on request after step") == 1
    urgent = cluster.submit("--partition=high", "--nodes=4", "--exclusive", "--wrap=true", cwd=checkout)
    assert cluster.wait(urgent).state == "COMPLETED"
    assert not (job.run / "finished").exists()

    check_finished(job, 2, uninterrupted(4))
    assert job.log.count("stopped on request after step") == 2
    assert job.log.count("stopped; back into the queue") == 2
