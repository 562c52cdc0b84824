"""Evaluation and validation end to end on a tiny data set, on one worker and on two."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ialcms.data.manifest import Manifest
from ialcms.engine import Workers
from ialcms.run_folder import RunFolder
from ialcms.validation import Validation
from tests.evaluation_support import evaluation_config, make_run, make_separator, write_evaluation_shards
from tests.support import ROOT, torchrun


def ialcms(*arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "ialcms", *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240,
    )  # fmt: skip


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """The test split's second drum clip is silent."""
    return write_evaluation_shards(tmp_path_factory.mktemp("evaluation") / "shards", silent=["drum_6", "drum_4"])


@pytest.fixture(scope="module")
def run(shards: Manifest, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return make_run(tmp_path_factory.mktemp("run"), evaluation_config(shards.folder), shards)


@pytest.fixture(scope="module")
def evaluated(run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Results and what was printed."""
    out = tmp_path_factory.mktemp("evaluated")
    result = ialcms("evaluate", str(run.path), "--out", str(out))
    assert result.returncode == 0, result.stderr
    return out, result.stdout


def test_every_mix_of_the_list_is_scored_once(evaluated: tuple[Path, str]) -> None:
    rows = rows_of(evaluated[0] / "mixes.csv")
    assert [int(row["mix"]) for row in rows] == [n // 2 for n in range(24)]  # 6 pairs of 4 instruments, 2 draws
    scored = [row for row in rows if not row["problem"]]
    assert all(-60 < float(row["SDR"]) < 60 for row in scored)
    assert len({row["SDR"] for row in scored}) > len(scored) // 2


def test_silent_references_are_counted_and_listed(evaluated: tuple[Path, str]) -> None:
    out, printed = evaluated
    rows = rows_of(out / "mixes.csv")
    silent = {row["mix"] for row in rows if row["clip"] == "drum_6"}
    assert len(silent) == 3  # with each of the three others, at one of the two draws
    assert {row["mix"] for row in rows if row["problem"]} == silent
    summary = json.loads((out / "summary.json").read_text())
    assert {str(entry["mix"]) for entry in summary["unscored"]} == silent
    assert all(f"not scored: mix {mix} " in printed for mix in silent)
    page = (out / "report.html").read_text()
    assert "mixes not scored" in page


@pytest.mark.distributed
def test_two_workers_give_the_same_file(run: RunFolder, evaluated: tuple[Path, str], tmp_path: Path) -> None:
    result = torchrun(2, "-m", "ialcms", "evaluate", str(run.path), "--out", str(tmp_path / "two"))
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "two" / "mixes.csv").read_text() == (evaluated[0] / "mixes.csv").read_text()
    assert result.stdout.count("overall") == 1


def test_a_run_without_checkpoint(shards: Manifest, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.create(evaluation_config(shards.folder), 1)
    result = ialcms("evaluate", str(folder.path))
    assert result.returncode == 2
    assert "there is no checkpoint" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_validation_counts_what_it_cannot_score(shards: Manifest) -> None:
    config = evaluation_config(shards.folder, eval={"validation_draws": 2})
    separator = make_separator(config).train()
    before = {name: value.clone() for name, value in separator.state_dict().items()}
    validation = Validation(config, shards, Workers())
    result = validation.run(separator)
    assert separator.training
    assert all(torch.equal(value, before[name]) for name, value in separator.state_dict().items())
    assert result.num_mixes == 12
    assert len(result.problems) == 3
    assert all("drum_4: silent reference" in line for line in result.problems)
    assert result.means.keys() == {"SDR", "SIR", "SAR", "SDRi", "SIRi"}
    assert result.per_instrument.keys() == {"bell", "drum", "flute", "harp"}
    assert "over 9 mixes; 3 could not be scored" in str(result)
    assert result == validation.run(separator)
