"""A run that is killed at random moments ends as if nothing had happened: same losses, same weights, bit by bit."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.support import write_small_config
from tests.training.kill_runs import differences, run_to_the_end, start

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


def test_five_random_kills(demo_shards: Path, tmp_path: Path) -> None:
    config = write_small_config(tmp_path / "kill.yaml", demo_shards, steps=60, checkpoint_every=3, validate_every=30)
    assert start(config, tmp_path / "whole").wait(timeout=240) == 0
    kills = run_to_the_end(config, tmp_path / "killed", kills=5, rng=random.Random(20))
    assert len(kills) == 5, kills
    assert differences(tmp_path / "killed", tmp_path / "whole") == [], ", ".join(map(str, kills))
