"""The other batch scripts, and options of training, with the program itself."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from ialcms.data.manifest import read_manifest
from tests.cluster import Cluster
from tests.cluster.jobs import Job, check_finished, check_losses, launch_slurm, losses, train, variables
from tests.launch.conftest import program_environment, wait_for

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.distributed]


def test_an_array_packs_and_a_job_joins(cluster: Cluster, checkout: Path, demo_shards: Path) -> None:
    data = [str(demo_shards.parent / "tree"), "--out", "packed", "--dataset", "demo"]
    printed = launch_slurm(cluster, checkout, "--array=3-4", "pack", *data)
    assert printed["shards"] == "packed"
    assert cluster.wait(f"{printed['job']}_3").state == "COMPLETED"
    (log,) = (path.read_text() for path in checkout.glob("*.log") if "joins the 2 parts" in path.read_text())
    found = re.search(r"job (\d+) joins the 2 parts when all are packed", log)
    assert found
    assert cluster.wait(found.group(1)).state == "COMPLETED"
    manifest = read_manifest(checkout / "packed")
    assert {clip.key for clip in manifest.clips} == {clip.key for clip in read_manifest(demo_shards).clips}


def test_a_wrong_option_is_one_line_and_no_new_start(cluster: Cluster, checkout: Path, config_file: Path) -> None:
    job = train(cluster, checkout, "--nodes=2", str(config_file), "train.step=3")
    ended = job.wait()
    assert (ended.state, ended.exit_code, ended.restarts) == ("FAILED", 2, 0)
    (line,) = (line for line in job.log.splitlines() if "error" in line and "srun" not in line)
    assert line.startswith("ialcms: error: ")
    assert "train.step" in line
    assert "not started again: correct the input first" in job.log
    assert "Traceback" not in job.log
    assert not job.run.exists()


def test_deepspeed_is_one_option(
    cluster: Cluster, checkout: Path, config_file: Path, uninterrupted: Callable[[int], Path]
) -> None:
    job = train(cluster, checkout, "--nodes=2", str(config_file), "train.engine=deepspeed")
    job.wait_for_training(0)
    job.stop()
    ended = job.wait()
    assert (ended.state, ended.restarts) == ("COMPLETED", 1), job.log
    # Engines round otherwise, and Adam with its eps as configured makes full steps of rounding: the losses lie 1e-6
    # apart in the first ten steps and were seen to lie up to 2e-2 apart in the last ones.
    check_losses(job.run, uninterrupted(2), tolerance=5e-2)


def test_a_sweep_over_seeds_whose_tasks_stop_and_go_on_by_themselves(
    cluster: Cluster, checkout: Path, config_file: Path, uninterrupted: Callable[[int], Path]
) -> None:
    number = cluster.submit(
        "--array=0-1", "--ntasks-per-node=2", "slurm/sweep.sbatch", str(config_file), cwd=checkout, **variables()
    )
    runs = checkout / "runs" / f"small-{number}"
    first, second = (Job(cluster, checkout, f"{number}_{seed}", runs / f"seed-{seed}") for seed in (0, 1))
    second.wait_for_training(0)
    second.stop()
    check_finished(first, 0, uninterrupted(2))
    ended = second.wait()
    assert (ended.state, ended.restarts) == ("COMPLETED", 1), second.log
    assert losses(second.run).keys() == losses(first.run).keys()
    assert losses(second.run) != losses(first.run)


def test_evaluation_is_shared_by_all_ranks_and_goes_on_after_a_stop(
    cluster: Cluster, checkout: Path, uninterrupted: Callable[[int], Path]
) -> None:
    run = uninterrupted(2)
    options = [str(run), "eval.draws=4"]
    alone = [sys.executable, "-m", "launch.local", "evaluate", *options, "--out", "alone"]
    subprocess.run(alone, cwd=checkout, env=program_environment(), check=True, capture_output=True)

    script = ["slurm/evaluate.sbatch", *options, "--out", "shared"]
    number = cluster.submit("--nodes=2", *script, cwd=checkout, **variables())
    job = Job(cluster, checkout, number, run)
    wait_for(lambda: _lines(checkout.glob("shared/scores/rank-*")) > 4, f"the first scores, see {job.log}")
    job.stop()
    ended = job.wait()
    assert (ended.state, ended.restarts) == ("COMPLETED", 1), job.log
    assert re.search(r"resuming: \d+ of 40 mixes are scored already", job.log)
    assert "stopped; back into the queue" in job.log
    assert json.loads((checkout / "shared" / "summary.json").read_text())["mixes"] == 40  # 10 pairs of 5, 4 draws
    assert _scores(checkout / "shared") == pytest.approx(_scores(checkout / "alone"), rel=1e-3, abs=1e-2)


def _lines(files: Iterable[Path]) -> int:
    return sum(len(path.read_text().splitlines()) for path in files)


def _scores(folder: Path) -> list[float]:
    with open(folder / "mixes.csv") as file:
        return [float(row[name]) for row in csv.DictReader(file) for name in ("SDR", "SIR", "SAR")]
