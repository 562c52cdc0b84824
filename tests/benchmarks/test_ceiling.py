"""Ideal masks: by closed form, and beside a run's separation on a small evaluation."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from benchmarks.ceiling import ideal_ratio_masks, ideal_wiener_masks
from ialcms.evaluation.metrics import METRICS
from tests.support import python
from tests.support.evaluation import evaluation_config, make_run, write_evaluation_shards


def test_ideal_masks_share_every_cell_out() -> None:
    magnitudes = torch.tensor([3.0, 1.0]).view(2, 1, 1)
    torch.testing.assert_close(ideal_ratio_masks(magnitudes).flatten(), torch.tensor([0.75, 0.25]))
    torch.testing.assert_close(ideal_wiener_masks(magnitudes).flatten(), torch.tensor([0.9, 0.1]))


def test_the_model_lies_between_the_mixture_and_ideal_masks(tmp_path: Path) -> None:
    shards = write_evaluation_shards(tmp_path / "shards", silent=["drum_6"])
    run = make_run(tmp_path / "run", evaluation_config(shards.folder), shards)
    done = python("-m", "benchmarks.ceiling", str(run.path), "--small", "--out", str(tmp_path / "table.txt"))
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "table.txt").read_text()
    assert done.stdout.strip() == text.strip()
    rows = {
        name.strip(): list(map(float, figures.split()[:5]))
        for name, figures in re.findall(r"^([a-z][\w., ]*?) {2,}(-?\d.*)$", text, re.MULTILINE)
    }
    assert list(rows) == [
        "mixture", "ideal ratio mask", "ideal Wiener filter", "the model, published", "the model, eval.protocol",
    ]  # fmt: skip
    improvement = {name: figures[METRICS.index("SDRi")] for name, figures in rows.items()}
    assert improvement["mixture"] == 0
    assert improvement["ideal Wiener filter"] > improvement["ideal ratio mask"] > 2
    for name in ("the model, published", "the model, eval.protocol"):  # an untrained one
        assert improvement[name] < improvement["ideal ratio mask"]
    assert 0 < int(text.split()[0]) < 6  # the silent clip's mixes are left out
