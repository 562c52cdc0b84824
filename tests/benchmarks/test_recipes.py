"""The comparison of recipes: its arithmetic, and a small one from data to tables, which is not done twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.recipes import Recipe, difference, main


def scores(seeds: int, mixes: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(seeds, mixes))


def test_a_constant_gain_is_certain_but_for_the_seeds() -> None:
    baseline = scores(1, 40)
    gain = difference(baseline + 0.5, baseline)
    assert (gain.mean, gain.low, gain.high) == pytest.approx((0.5, 0.5, 0.5))  # mixes are paired
    baseline = scores(3, 40)
    gain = difference(baseline + 0.5, baseline)
    assert gain.mean == pytest.approx(0.5)
    assert gain.low < 0.5 < gain.high  # seeds are not


def test_mixes_that_differ_widen_the_interval() -> None:
    baseline = scores(1, 400)
    change = scores(1, 400, seed=1)
    gain = difference(baseline + change, baseline)
    error = change.std() / 20
    assert gain.high - gain.low == pytest.approx(2 * 1.96 * error, rel=0.15)
    assert gain.low < float(change.mean()) < gain.high


def test_as_many_seeds_as_there_are() -> None:
    gain = difference(np.full((2, 5), 3.0), np.full((4, 5), 1.0))
    assert (gain.mean, gain.low, gain.high) == (2.0, 2.0, 2.0)
    assert str(gain) == "+2.00 (+2.00 to +2.00)"


@pytest.mark.parametrize("words", [["name"], ["name", "train.steps=3"], ["a/b", "demo"]])
def test_what_is_no_recipe(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--work", str(tmp_path / "work"), "--recipe", *words]) == 2
    assert "is no recipe; give a name, a configuration and overrides" in capsys.readouterr().err
    assert not (tmp_path / "work").exists()


def test_recipes_by_one_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--work", str(tmp_path), "--recipe", "a", "demo", "--recipe", "a", "duet"]) == 2
    assert "each by a name of its own" in capsys.readouterr().err
    assert Recipe.of(["a", "demo", "seed=1"]) == Recipe("a", "demo", ("seed=1",))


@pytest.mark.slow
def test_a_small_comparison(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    command = ["--small", "--work", str(tmp_path / "work"), "--seeds", "0", "--out", str(tmp_path / "table.md")]
    assert main(command) == 0
    table = (tmp_path / "table.md").read_text()
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith(("| baseline", "| average"))]
    assert [row[0] for row in rows] == ["| baseline", "| average"] * 2
    assert all(len(row) == 7 for row in rows)
    assert "10 of 10 mixes, 1 rank" in table
    assert "* average: `demo train.ema_decay=0.5`" in table
    said = capsys.readouterr().err
    assert said.count(": training") == said.count(": scoring") == 2

    assert main(command) == 0
    assert (tmp_path / "table.md").read_text() == table
    said = capsys.readouterr().err
    assert said.count(": trained") == said.count(": scored") == 2

    changed = tmp_path / "work" / "average" / "seed-0" / "config.yaml"
    changed.write_text(changed.read_text().replace("ema_decay: 0.5", "ema_decay: 0.25"))
    assert main(command) == 2
    assert "is of a recipe with another train.ema_decay" in capsys.readouterr().err
