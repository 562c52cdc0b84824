"""Jobs that tests submit, and what is to be seen of them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster, JobState
from tests.launch.conftest import program_environment, wait_for
from tests.support import ROOT


@dataclass(frozen=True)
class Job:
    """A submitted job or array task, its log and its run folder."""

    cluster: Cluster
    project: Path
    number: str
    run: Path

    @property
    def log(self) -> str:
        return "".join(path.read_text() for path in self.project.glob(f"ialcms-*-{self.number}.log"))

    @property
    def nodes(self) -> list[list[str]]:
        """Those of every start."""
        return [self.cluster.expand(nodes) for nodes in re.findall(r"start \d+: on ([^\s;]+)", self.log)]

    def wait(self, timeout_s: float = 400) -> JobState:
        return self.cluster.wait(self.number, timeout_s)

    def wait_for_step(self, step: int) -> None:
        """Until the stand-in has come to a step."""
        wait_for(lambda: number_in(self.run / "progress") >= step, f"step {step}, see {self.log}")

    def wait_for_training(self, start: int) -> None:
        """Until the program has done a step of its own in this start, and has saved."""

        def trains() -> bool:
            saved = any(self.run.glob("checkpoints/step-*/meta.json"))
            return (
                saved
                and re.search(r"^step \d+/", self.log.partition(f"start {start}: on")[2], re.MULTILINE) is not None
            )

        wait_for(trains, f"steps of start {start}, see {self.log}")

    def stop(self) -> None:
        """Send what SLURM sends before the time limit."""
        self.cluster.run("scancel", "--signal=USR1", "--batch", self.number)


def train(cluster: Cluster, project: Path, *arguments: str, **own: str) -> Job:
    """Submit slurm/train.sbatch with these sbatch options, arguments and environment, and the folder `run`."""
    options = [argument for argument in arguments if argument.startswith("--")]
    rest = [argument for argument in arguments if not argument.startswith("--")]
    script = ["slurm/train.sbatch", *rest, *(["--folder", "run"] if rest else [])]
    number = cluster.submit(*options, *script, cwd=project, **{**variables(), **own})
    return Job(cluster, project, number, project / "run")


def train_here(config: Path, ranks: int, folder: Path) -> None:
    """Train on that many ranks of this machine, without SLURM, into a run folder."""
    command = [sys.executable, "-m", "launch.local", "--ranks", str(ranks)]
    command += ["train", str(config), "--folder", str(folder)]
    result = subprocess.run(command, env=program_environment(), cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def launch_slurm(cluster: Cluster, project: Path, *arguments: str) -> dict[str, str]:
    """`python -m launch.slurm` with these arguments; what it prints, by the words before the colon."""
    result = cluster.run(sys.executable, "-m", "launch.slurm", *arguments, cwd=project, **variables())
    assert result.returncode == 0, result.stderr
    return dict(line.split(": ", 1) for line in result.stdout.splitlines())


def variables() -> dict[str, str]:
    """The environment that a job is submitted with."""
    return {**program_environment(), "IALCMS_PYTHON": sys.executable}


def number_in(path: Path) -> int:
    return int((path.read_text() if path.exists() else "") or 0)


def losses(run: Path, gradients: bool = True) -> dict[int, dict]:
    """Losses and their weights, and the norms of the gradients, at every step; of several lines the last one counts."""
    kinds = ("loss/", "lambda/", *(["gradient_norm/"] if gradients else []))
    by_step: dict[int, dict] = {}
    for line in (run / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        if "lambda/ind" in row:
            by_step[row["step"]] = {name: value for name, value in row.items() if name.startswith(kinds)}
    return by_step


def check_finished(job: Job, restarts: int, uninterrupted: Path, tolerance: float = 0.0) -> None:
    """The job has restarted that often, its run is complete, and equals the uninterrupted run."""
    ended = job.wait()
    assert (ended.state, ended.restarts) == ("COMPLETED", restarts), job.log
    assert job.log.count("resumes from step") == restarts
    assert len(list(job.run.glob("events.*"))) == restarts + 1
    assert (job.run / "train.log").read_text().count("finished after step") == 1
    check_losses(job.run, uninterrupted, tolerance)


def check_losses(run: Path, expected: Path, tolerance: float = 0.0) -> None:
    """The losses of every step are equal; norms of gradients too, where no tolerance is asked for."""
    found = losses(run, gradients=not tolerance)
    assert found.keys() == losses(expected).keys()
    for step, scalars in losses(expected, gradients=not tolerance).items():
        assert found[step] == pytest.approx(scalars, rel=tolerance, abs=tolerance), f"step {step}"
