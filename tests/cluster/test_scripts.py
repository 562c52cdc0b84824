"""What the batch scripts decide, with a program that only counts steps."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from tests.cluster import Cluster
from tests.cluster.jobs import Job, launch_slurm, number_in, train
from tests.launch.conftest import make_project, wait_for

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.distributed]


@pytest.fixture(scope="module")
def limited(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A job whose time limit comes before its end. It takes two minutes: started first, looked at last."""
    project = make_project(tmp_path_factory.mktemp("limited"))
    # SLURM looks for jobs to signal twice a minute.
    return train(cluster, project, "--time=1", "--signal=B:USR1@50", "x.yaml", "steps=90", "step_s=0.5")


@pytest.fixture(scope="module")
def without_daemon(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A job on one node that has lost its step daemon: no other node notices. Started early, too."""
    job = train(cluster, make_project(tmp_path_factory.mktemp("daemon")), "x.yaml", "steps=50")
    job.wait_for_step(1)
    (daemon,) = cluster.processes(rf"^slurmstepd: \[{job.number}\.\d+\]", job.nodes[0][0])
    os.kill(daemon, signal.SIGKILL)
    return job


@pytest.mark.usefixtures("limited", "without_daemon")
@pytest.mark.parametrize(
    ("arguments", "own", "message"),
    [
        ([], {}, "the configuration comes first: sbatch slurm/train.sbatch configs/demo.yaml"),
        (["--gpus-per-task=1", "--ntasks=2", "x.yaml"], {}, "ask for GPUs with --gpus-per-node instead of"),
        (["x.yaml"], {"IALCMS_PYTHON": "/bin/false"}, "/bin/false has no ialcms: run 'make install' in the project"),
    ],
)
def test_faults_are_found_before_a_step_is_started(
    cluster: Cluster, project: Path, arguments: list[str], own: dict[str, str], message: str
) -> None:
    job = train(cluster, project, *arguments, **own)
    assert job.wait().exit_code == 2
    assert message in job.log
    assert not job.run.exists()


def test_scripts_say_where_to_submit_them_from(cluster: Cluster, project: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    job = Job(cluster, elsewhere, cluster.submit(str(project / "slurm" / "pack.sbatch"), cwd=elsewhere), elsewhere)
    assert job.wait().exit_code == 2
    assert "submit from the project's folder, the one with slurm/ in it" in job.log


def test_crashes_are_counted_and_limited(cluster: Cluster, project: Path) -> None:
    arguments = ["--ntasks-per-node=2", "x.yaml", "steps=9", "crash_at=2", "crashes=9"]
    job = train(cluster, project, *arguments, IALCMS_MAX_CRASHES="1")
    ended = job.wait()
    assert (ended.state, ended.exit_code, ended.restarts) == ("FAILED", 1, 1)
    assert len(re.findall(r"launch: on n\d .*rank 1 ended with exit code 3", job.log)) == 2
    assert "crashed (time 1 of 1 before it gives up); back into the queue" in job.log
    assert "crashed 2 times, given up; to resume: sbatch slurm/train.sbatch x.yaml ... --folder run" in job.log


@pytest.mark.parametrize(
    "options",
    [
        ["--gpus-per-node=2", "--cpus-per-task=4"],
        ["--gres=gpu:2"],
        ["--gpus=4"],
        ["--ntasks=4", "--cpus-per-task=2"],
    ],
    ids=" ".join,
)
def test_a_rank_for_each_gpu_or_task(cluster: Cluster, project: Path, options: list[str]) -> None:
    job = train(cluster, project, "--nodes=2", *options, "x.yaml", "steps=2")
    assert job.wait().state == "COMPLETED"
    assert re.findall(r"rank (\d of \d) on n\d", job.log).count("3 of 4") == 1


def test_stops_are_no_crashes(cluster: Cluster, project: Path) -> None:
    job = train(cluster, project, "x.yaml", "steps=150", IALCMS_MAX_CRASHES="0")
    saved = 0
    for _ in range(2):
        job.wait_for_step(saved + 2)
        job.stop()
        before = saved
        wait_for(lambda: number_in(job.run / "saved") > before, "the saved state")  # noqa: B023 - called at once
        saved = number_in(job.run / "saved")
    ended = job.wait()
    assert (ended.state, ended.restarts) == ("COMPLETED", 2)
    assert job.log.count("time is nearly up: asking the ranks to stop") == 2
    assert f"from step {saved}\n" in job.log


def test_a_cancelled_job_saves_and_does_not_come_back(cluster: Cluster, project: Path) -> None:
    job = train(cluster, project, "--nodes=2", "x.yaml", "steps=100000")
    job.wait_for_step(2)
    cluster.run("scancel", job.number)
    assert job.wait().state == "CANCELLED"
    wait_for((job.run / "saved").exists, "the saved state")
    wait_for(lambda: not cluster.processes(rf"--folder {job.run.name}"), "the end of the ranks")
    assert len(job.nodes) == 1


def test_a_sweep_has_a_task_and_a_folder_for_each_line(cluster: Cluster, project: Path) -> None:
    (project / "sweep.txt").write_bytes(b"""seed=5 'data.shards="pipe:cat a b"'\r\nseed=6\n""")
    printed = launch_slurm(cluster, project, "--array=1-2", "sweep", "--list", "sweep.txt", "configs.d/x", "steps=2")
    for task, options in ((1, ["seed=5", 'data.shards="pipe:cat a b"']), (2, ["seed=6"])):
        assert cluster.wait(f"{printed['job']}_{task}").state == "COMPLETED"
        folder = f"{printed['run folder']}/line-{task}"
        words = (project / folder / "arguments").read_text().splitlines()
        assert words[:3] == ["train", "configs.d/x", "steps=2"]
        assert words[3:-2] == [*options, "--folder", folder]


# The jobs that had to wait


def test_a_job_outlives_its_time_limit(limited: Job) -> None:
    ended = limited.wait()
    assert ended.state == "COMPLETED", limited.log
    assert ended.restarts >= 1
    for start in range(ended.restarts):  # the last start may get the signal, too, and finish all the same
        assert f"start {start}: time is nearly up" in limited.log
        assert f"start {start}: stopped; back into the queue" in limited.log
    assert "finished" in os.listdir(limited.run)


def test_a_lost_step_daemon_does_not_keep_a_job_waiting(without_daemon: Job) -> None:
    ended = without_daemon.wait()
    assert (ended.state, ended.restarts) == ("COMPLETED", 1)
    assert "ending the rest of the step" in without_daemon.log
    assert "crashed (time 1 of 3 before it gives up); back into the queue" in without_daemon.log
