"""Jobs in a container image: the batch files run every command in it. The image's program is a stand-in that keeps its
arguments and runs the command on the host, as Apptainer comes from none of the package indexes that tests may use.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.cluster import Cluster
from tests.cluster.jobs import train

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.distributed]


def test_a_job_runs_in_the_image(cluster: Cluster, checkout: Path, config_file: Path, tmp_path: Path) -> None:
    programs, image, calls = tmp_path / "bin", tmp_path / "image.sif", tmp_path / "calls"
    programs.mkdir()
    image.touch()
    (programs / "apptainer").write_text(f'#!/bin/sh\necho "$*" >> {calls}\nshift 3\nexec "$@"\n')
    (programs / "apptainer").chmod(0o755)
    environment = {"IALCMS_IMAGE": str(image), "PATH": f"{programs}:{os.environ['PATH']}"}
    job = train(cluster, checkout, "--nodes=2", str(config_file), "train.step=3", **environment)
    assert job.wait().exit_code == 2
    assert "unknown key 'train.step'" in job.log
    look_up, *ranks = calls.read_text().splitlines()
    assert look_up.startswith(f"exec --nv {image} {sys.executable} -c")
    starts = [line for line in ranks if line.startswith(f"exec --nv {image} {sys.executable} -m launch.ranks")]
    assert len(starts) == 2  # one on each node


def test_an_image_that_is_not_there(cluster: Cluster, checkout: Path, config_file: Path, tmp_path: Path) -> None:
    job = train(cluster, checkout, str(config_file), IALCMS_IMAGE=str(tmp_path / "none.sif"))
    assert job.wait().exit_code == 2
    assert "has neither apptainer nor singularity" in job.log
