"""Data that several tests train on: a small demo data set, made, packed and read as a user would. The log of tests."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _log_as_at_the_start() -> None:
    """A run in this process, of an earlier test, may have set up the log for itself: caplog would see lines twice."""
    logger = logging.getLogger("ialcms")
    logger.propagate = True
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()


@pytest.fixture(autouse=True, scope="session")
def _memory_is_given_back() -> Iterator[None]:
    """Training in this process would keep its memory for all tests after it; a test measures memory."""
    from ialcms.models import arithmetic

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arithmetic, "keep_memory", lambda: None)
        yield


@pytest.fixture(scope="session")
def demo_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of 5 instruments, 3 videos each (one for training, validation and test), one clip a video."""
    return make_demo_shards(tmp_path_factory.mktemp("demo"))


def make_demo_shards(root: Path) -> Path:
    from ialcms.cli import main  # here: tests on a rented GPU need neither pictures nor sound files
    from ialcms.demo.dataset import make_dataset

    instruments = ("violin", "flute", "tuba", "xylophone", "accordion")
    make_dataset(root / "tree", 3, 1, jobs=2, instruments=instruments, show_progress=False)
    code = main(["data", "pack", str(root / "tree"), "--out", str(root / "shards"), "--dataset", "demo", "--jobs", "1"])
    assert code == 0
    return root / "shards"
