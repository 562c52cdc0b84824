"""A real SLURM cluster for the tests, and what they submit to it."""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster import Cluster, install
from tests.cluster.jobs import losses, train_here
from tests.launch.conftest import make_project
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
    """Run folder of an uninterrupted training on that many ranks of this machine."""

    @functools.cache
    def run(ranks: int) -> Path:
        folder = tmp_path_factory.mktemp("runs") / str(ranks)
        train_here(config_file, ranks, folder)
        assert len(losses(folder)) == STEPS
        return folder

    return run
