"""A run and shards made by version 0.1.0 are resumed and evaluated, with the numbers that 0.1.0 went on to.

`run-0.1.0.tar.xz` holds what it had written after 6 of 12 steps (DDP's and DeepSpeed's checkpoints have the same form)
and its shards; `expected.json` what it logged for steps 7 to 12, and the scores of its best checkpoint.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from ialcms.cli import main
from tests.support import ON_CPU

HERE = Path(__file__).parent
EXPECTED = json.loads((HERE / "expected.json").read_text())


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run's folder; its configuration names the shards relative to the working directory."""
    with tarfile.open(HERE / "run-0.1.0.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ON_CPU["CUDA_VISIBLE_DEVICES"])
    return tmp_path / "run"


def test_it_is_resumed(run: Path) -> None:
    assert main(["train", str(run / "config.yaml"), "--folder", str(run)]) == 0
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = {row["step"]: row for row in rows if "loss/critic" in row}
    assert sorted(steps) == list(range(1, 13))
    for expected in EXPECTED["steps"]:
        # rounding that Adam makes full steps of: see docs/engines.md
        found = {name: steps[expected["step"]][name] for name in expected}
        assert found == pytest.approx(expected, rel=2e-3, abs=2e-3), expected["step"]


def test_it_is_evaluated(run: Path) -> None:
    checkpoint = run / "checkpoints"
    (checkpoint / "step-00000006").rename(checkpoint / "best-00000006")
    assert main(["evaluate", str(run)]) == 0
    summary = json.loads((run / "evaluation/test-2mix/summary.json").read_text())
    found = {name: summary["overall"][name] for name in EXPECTED["evaluation"]}
    assert found == pytest.approx(EXPECTED["evaluation"], abs=1e-3)
