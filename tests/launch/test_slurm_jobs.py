"""Our batch scripts, submitted as they are to a real SLURM cluster on this machine: all that can befall a job.

Where training must not lose anything, the program is the real one; elsewhere it is one that only counts steps.
"""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from ialcms.data.manifest import read_manifest
from tests.launch.conftest import make_project, program_environment, wait_for
from tests.slurm_cluster import Cluster, JobState
from tests.support import ROOT, torchrun, write_small_config

pytestmark = [pytest.mark.long, pytest.mark.slurm, pytest.mark.slow, pytest.mark.distributed]

STEPS = 24


@dataclass(frozen=True)
class Job:
    """A submitted job, its log and its run folder."""

    cluster: Cluster
    project: Path
    number: str
    run: Path

    @property
    def log(self) -> str:
        return "".join(path.read_text() for path in self.project.glob(f"ialcms-*-{self.number}.log"))

    @property
    def nodes(self) -> list[str]:
        """Those of every start."""
        return re.findall(r"start \d+: on (\S+);", self.log)

    def wait(self, timeout_s: float = 400) -> JobState:
        return self.cluster.wait(self.number, timeout_s)

    def wait_for_step(self, step: int) -> None:
        """Until the stand-in has come to a step."""
        wait_for(lambda: _number(self.run / "progress") >= step, f"step {step}, see {self.log}")

    def wait_for_checkpoint(self) -> None:
        """Until the program has saved for the first time."""
        wait_for(lambda: any(self.run.glob("checkpoints/step-*/meta.json")), f"a checkpoint, see {self.log}")


def train(cluster: Cluster, project: Path, *arguments: str, **own: str) -> Job:
    """Submit slurm/train.sbatch with these options and arguments, and the folder `run`."""
    options = [argument for argument in arguments if argument.startswith("--")]
    rest = [argument for argument in arguments if not argument.startswith("--")]
    script = ["slurm/train.sbatch", *rest, *(["--folder", "run"] if rest else [])]
    return Job(
        cluster, project, cluster.submit(*options, *script, cwd=project, **{**variables(), **own}), project / "run"
    )


def variables() -> dict[str, str]:
    """The environment that a job is submitted with."""
    return {**program_environment(), "IALCMS_PYTHON": sys.executable}


def _number(path: Path) -> int:
    return int((path.read_text() if path.exists() else "") or 0)


# With a program that only counts steps


@pytest.fixture(scope="module")
def limited(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A job whose time limit comes before its end. It takes a minute or two: started early, looked at last."""
    project = make_project(tmp_path_factory.mktemp("limited"))
    # SLURM looks for jobs to signal twice a minute.
    return train(cluster, project, "--time=1", "--signal=B:USR1@50", "x.yaml", "steps=100", "step_s=0.5")


@pytest.fixture(scope="module")
def without_daemon(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A job that has lost a step daemon on its second node. The same."""
    project = make_project(tmp_path_factory.mktemp("daemon"))
    job = train(cluster, project, "--nodes=2", "x.yaml", "steps=50")
    job.wait_for_step(1)
    (daemon,) = cluster.processes(rf"^slurmstepd: \[{job.number}\.0\]", cluster.expand(job.nodes[0])[1])
    os.kill(daemon, signal.SIGKILL)
    return job


@pytest.mark.usefixtures("limited", "without_daemon")
def test_wrong_input_is_one_line_and_no_new_start(cluster: Cluster, project: Path) -> None:
    job = train(cluster, project, "--nodes=2", "x.yaml", "refuse=1")
    ended = job.wait()
    assert (ended.state, ended.exit_code, ended.restarts) == ("FAILED", 2, 0)
    assert job.log.count("ialcms: error: there is no such thing\n") == 1
    assert "not started again: correct the input first" in job.log
    assert "Traceback" not in job.log
    assert not job.run.exists()


@pytest.mark.parametrize(
    ("arguments", "own", "message"),
    [
        ([], {}, "the configuration comes first: sbatch slurm/train.sbatch configs/demo.yaml"),
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


def test_crashes_are_counted_and_limited(cluster: Cluster, project: Path) -> None:
    arguments = ["--ntasks-per-node=2", "x.yaml", "steps=9", "crash_at=2", "crashes=9"]
    job = train(cluster, project, *arguments, IALCMS_MAX_CRASHES="1")
    ended = job.wait()
    assert (ended.state, ended.exit_code, ended.restarts) == ("FAILED", 1, 1)
    assert len(re.findall(r"launch: on n\d .*worker 1 ended with exit code 3", job.log)) == 2
    assert "crashed (time 1 of 1 that are put up with); back into the queue" in job.log
    assert "crashed 2 times, given up; to go on: sbatch slurm/train.sbatch x.yaml ... --folder run" in job.log


def test_a_killed_worker_ends_the_step_and_the_job_starts_again(cluster: Cluster, project: Path) -> None:
    job = train(
        cluster, project, "--nodes=2", "--gpus-per-node=2", "--cpus-per-task=4", "x.yaml", "steps=9", "kill_at=4"
    )
    ended = job.wait()
    assert (ended.state, ended.restarts) == ("COMPLETED", 1)
    assert re.search(r"launch: on n\d .*worker 1 was killed by SIGKILL", job.log)
    assert job.log.count("worker 3 of 4 on") == 2  # one worker for each GPU, both times
    assert (job.run / "finished").exists()


def test_stops_are_no_crashes(cluster: Cluster, project: Path) -> None:
    job = train(cluster, project, "x.yaml", "steps=150", IALCMS_MAX_CRASHES="0")
    saved = 0
    for _ in range(2):
        job.wait_for_step(saved + 2)
        cluster.run("scancel", "--signal=USR1", "--batch", job.number)
        before = saved
        wait_for(lambda: _number(job.run / "saved") > before, "the saved state")  # noqa: B023 - called at once
        saved = _number(job.run / "saved")
    ended = job.wait()
    assert (ended.state, ended.restarts) == ("COMPLETED", 2)
    assert job.log.count("time is nearly up: asking the workers to stop") == 2
    assert f"from step {saved}\n" in job.log


def test_a_cancelled_job_saves_and_does_not_come_back(cluster: Cluster, project: Path) -> None:
    job = train(cluster, project, "--nodes=2", "x.yaml", "steps=100000")
    job.wait_for_step(2)
    cluster.run("scancel", job.number)
    assert job.wait().state == "CANCELLED"
    wait_for((job.run / "saved").exists, "the saved state")
    wait_for(lambda: not cluster.processes(rf"--folder {job.run.name}"), "the end of the workers")
    assert len(job.nodes) == 1


def test_a_sweep_has_a_task_and_a_folder_for_each_line(cluster: Cluster, project: Path) -> None:
    (project / "sweep.txt").write_text("seed=5 data.num_mix=3\nseed=6\n")
    command = [sys.executable, "-m", "launch.slurm", "--array=1-2", "sweep", "--list", "sweep.txt", "x.yaml", "steps=2"]
    result = cluster.run(*command, cwd=project, **variables())
    assert result.returncode == 0, result.stderr
    number = result.stdout.splitlines()[0].removeprefix("job: ")
    for task, options in ((1, ["seed=5", "data.num_mix=3"]), (2, ["seed=6"])):
        assert cluster.wait(f"{number}_{task}").state == "COMPLETED"
        folder = f"runs/x-{number}/line-{task}"
        words = (project / folder / "arguments").read_text().splitlines()
        assert words[:3] == ["train", "x.yaml", "steps=2"]
        assert words[3:-2] == [*options, "--folder", folder]


# With the real program


@pytest.fixture(scope="module")
def config_file(tmp_path_factory: pytest.TempPathFactory, demo_shards: Path) -> Path:
    path = tmp_path_factory.mktemp("config") / "small.yaml"
    return write_small_config(path, demo_shards, steps=STEPS, validate_every=STEPS, checkpoint_every=2)


@pytest.fixture(scope="module")
def uninterrupted(config_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], dict[int, dict]]:
    """What a run on that many workers of one machine logs at every step."""

    @functools.cache
    def run(workers: int) -> dict[int, dict]:
        folder = tmp_path_factory.mktemp("runs") / str(workers)
        result = torchrun(workers, "-m", "ialcms", "train", str(config_file), "--folder", str(folder))
        assert result.returncode == 0, result.stderr
        return losses(folder)

    return run


def losses(run: Path) -> dict[int, dict]:
    """The scalars of every step, bar those that measure time; a step that was done twice must give the same."""
    by_step: dict[int, dict] = {}
    for line in (run / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        if "lambda/ind" not in row:
            continue
        kept = {name: value for name, value in row.items() if name.startswith(("loss/", "gradient_norm/", "lambda/"))}
        assert by_step.setdefault(row["step"], kept) == kept
    return by_step


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder to submit from that has the program itself."""
    for name in ("ialcms", "launch", "shards", "slurm", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def check_finished(job: Job, restarts: int, expected: dict[int, dict]) -> None:
    ended = job.wait()
    assert (ended.state, ended.restarts) == ("COMPLETED", restarts), job.log
    assert job.log.count("going on from step") == restarts
    assert losses(job.run) == expected
    assert len(list((job.run / "tensorboard").glob("events.*"))) == restarts + 1
    assert (job.run / "train.log").read_text().count("finished after step") == 1


def test_two_nodes_of_two_workers_stop_before_the_limit_and_go_on(
    cluster: Cluster, checkout: Path, config_file: Path, uninterrupted: Callable[[int], dict[int, dict]]
) -> None:
    job = train(cluster, checkout, "--nodes=2", "--ntasks-per-node=2", str(config_file))
    job.wait_for_checkpoint()
    cluster.run("scancel", "--signal=USR1", "--batch", job.number)
    check_finished(job, 1, uninterrupted(4))
    assert "stopped on request after step" in job.log


def test_preemption_by_a_higher_partition(
    cluster: Cluster, checkout: Path, config_file: Path, uninterrupted: Callable[[int], dict[int, dict]]
) -> None:
    job = train(cluster, checkout, "--nodes=2", "--partition=low", str(config_file))
    job.wait_for_checkpoint()
    urgent = cluster.submit("--partition=high", "--nodes=4", "--exclusive", "--wrap=true", cwd=checkout)
    assert cluster.wait(urgent).state == "COMPLETED"
    assert not (job.run / "finished").exists()
    check_finished(job, 1, uninterrupted(2))
    assert "stopped on request after step" in job.log


def test_a_node_set_down(
    cluster: Cluster, checkout: Path, config_file: Path, uninterrupted: Callable[[int], dict[int, dict]]
) -> None:
    job = train(cluster, checkout, "--nodes=2", str(config_file))
    job.wait_for_checkpoint()
    lost = cluster.expand(job.nodes[0])[1]
    cluster.run("scontrol", "update", f"nodename={lost}", "state=down", "reason=test")
    check_finished(job, 1, uninterrupted(2))
    assert lost not in cluster.expand(job.nodes[1])
    cluster.resume(lost)


def test_a_power_cut(
    cluster: Cluster, checkout: Path, config_file: Path, uninterrupted: Callable[[int], dict[int, dict]]
) -> None:
    job = train(cluster, checkout, "--nodes=2", str(config_file))
    job.wait_for_checkpoint()
    lost = cluster.expand(job.nodes[0])[1]
    cluster.cut_power(lost)
    check_finished(job, 1, uninterrupted(2))
    assert lost not in cluster.expand(job.nodes[1])
    cluster.boot(lost)


def test_evaluation_on_several_workers(cluster: Cluster, checkout: Path, config_file: Path) -> None:
    run = checkout / "run"
    program = [sys.executable, "-m", "ialcms"]
    trained = [*program, "train", str(config_file), "--folder", str(run), "train.steps=1"]
    subprocess.run(trained, cwd=checkout, env=program_environment(), check=True, capture_output=True)
    job = cluster.submit("--ntasks-per-node=2", "slurm/evaluate.sbatch", "run", cwd=checkout, **variables())
    assert cluster.wait(job, 400).state == "COMPLETED"
    assert "all" in (checkout / f"ialcms-evaluate-{job}.log").read_text()
    summary = json.loads((run / "evaluation" / "test-2mix" / "summary.json").read_text())
    assert summary["mixes"] == 10  # every pair of 5 instruments, once


def test_an_array_packs_and_a_job_joins(cluster: Cluster, checkout: Path, demo_shards: Path) -> None:
    data = [str(demo_shards.parent / "tree"), "--out", "shards", "--dataset", "demo"]
    job = cluster.submit("--array=3-4", "slurm/pack.sbatch", *data, cwd=checkout, **variables())
    assert cluster.wait(f"{job}_3").state == "COMPLETED"
    (log,) = (path.read_text() for path in checkout.glob("*.log") if "joins the 2 parts" in path.read_text())
    found = re.search(r"job (\d+) joins the 2 parts when all are packed", log)
    assert found
    assert cluster.wait(found.group(1)).state == "COMPLETED"
    manifest = read_manifest(checkout / "shards")
    assert {clip.key for clip in manifest.clips} == {clip.key for clip in read_manifest(demo_shards).clips}


# The jobs that had to wait


def test_a_job_outlives_its_time_limit(limited: Job) -> None:
    ended = limited.wait()
    assert ended.state == "COMPLETED", limited.log
    assert ended.restarts >= 1
    assert limited.log.count("time is nearly up") == ended.restarts
    assert "finished" in os.listdir(limited.run)


def test_a_lost_step_daemon_does_not_keep_the_job_waiting(without_daemon: Job) -> None:
    assert without_daemon.wait().state == "COMPLETED"
    assert "Timed out waiting for job step to complete" in without_daemon.log
