"""A real SLURM cluster for the tests, and what they submit to it."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster import Cluster, install
from tests.cluster.jobs import losses
from tests.launch.conftest import make_project, program_environment
from tests.support import ROOT, write_small_config

STEPS = 40


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Four nodes; for all tests of the session."""
    if reason := install():
        pytest.skip(reason)
    probe = subprocess.run(["unshare", "--net", "--mount", "--pid", "--fork", "true"], capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"a SLURM cluster for tests needs network namespaces: {probe.stderr.strip()}")
    with Cluster(tmp_path_factory.mktemp("slurm") / "cluster", num_nodes=4, kill_wait_s=10) as running:
        yield running


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder to submit from that has a stand-in for the program."""
    return make_project(tmp_path)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder to submit from that has the program itself."""
    for name in ("ialcms", "launch", "shards", "slurm", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


@pytest.fixture(scope="session")
def config_file(tmp_path_factory: pytest.TempPathFactory, demo_shards: Path) -> Path:
    path = tmp_path_factory.mktemp("config") / "small.yaml"
    return write_small_config(path, demo_shards, steps=STEPS, validate_every=STEPS, checkpoint_every=2)


@pytest.fixture(scope="session")
def uninterrupted(config_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Run folder of a training on that many ranks of this machine that nothing befell."""

    @functools.cache
    def run(ranks: int) -> Path:
        folder = tmp_path_factory.mktemp("runs") / str(ranks)
        command = [sys.executable, "-m", "launch.local", "--workers", str(ranks)]
        command += ["train", str(config_file), "--folder", str(folder)]
        result = subprocess.run(command, env=program_environment(), cwd=ROOT, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        assert len(losses(folder)) == STEPS
        return folder

    return run
