"""Tables, CSV and JSON of an evaluation, from results made by hand."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from ialcms.metrics import METRICS, MixScores
from ialcms.results import (
    MixResult,
    choose_examples,
    format_tables,
    overall,
    per_combination,
    per_instrument,
    unscored,
    write_mixes,
    write_summary,
)
from tests.evaluation_support import evaluation_config


def result(index: int, names: tuple[str, ...], values: tuple[float, ...], problem: str = "") -> MixResult:
    sources = tuple({} if problem else {metric: value for metric in METRICS} for value in values)
    return MixResult(index, names, tuple(f"{name}_{index}" for name in names), MixScores(sources, problem))


@pytest.fixture
def results() -> list[MixResult]:
    return [
        result(0, ("cello", "flute"), (1.0, 3.0)),
        result(1, ("cello", "flute"), (5.0, 7.0)),
        result(2, ("cello", "tuba"), (9.0, -1.0)),
        result(3, ("flute", "tuba"), (0.0, 0.0), "silent reference 2"),
    ]


def test_means(results: list[MixResult]) -> None:
    assert overall(results)[1:] == (3, {metric: 4.0 for metric in METRICS})
    rows = {name: (count, scores.get("SDR")) for name, count, scores in per_instrument(results)}
    assert rows == {"cello": (3, 5.0), "flute": (2, 5.0), "tuba": (1, -1.0)}
    pairs = {name: (count, scores.get("SIR")) for name, count, scores in per_combination(results)}
    assert pairs == {"cello + flute": (2, 4.0), "cello + tuba": (1, 4.0), "flute + tuba": (0, None)}


def test_what_could_not_be_scored_is_listed_everywhere(results: list[MixResult], tmp_path: Path) -> None:
    assert [r.index for r in unscored(results)] == [3]
    assert "not scored: mix 3 (flute_3 + tuba_3): silent reference 2" in format_tables(results)
    write_mixes(tmp_path / "mixes.csv", results)
    rows = list(csv.DictReader((tmp_path / "mixes.csv").read_text().splitlines()))
    assert len(rows) == 8  # a line a source, scored or not
    assert [row["problem"] for row in rows if row["mix"] == "3"] == ["silent reference 2"] * 2
    assert {row["SDR"] for row in rows if row["mix"] == "3"} == {""}
    assert float(rows[4]["SDR"]) == 9.0
    write_summary(tmp_path / "summary.json", results, evaluation_config(), step=7)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["mixes"] == 4
    assert summary["unscored"] == [{"mix": 3, "clips": ["flute_3", "tuba_3"], "problem": "silent reference 2"}]
    assert summary["step"] == 7


def test_examples_are_the_best_the_worst_and_some_others() -> None:
    results = [result(n, ("cello", "flute"), (float(n), float(n))) for n in range(30)]
    results.append(result(30, ("cello", "flute"), (0.0, 0.0), "silent estimate 1"))
    shown = choose_examples(results, 9, seed=0)
    assert [r.index for why, r in shown if why == "best"] == [29, 28, 27]
    assert [r.index for why, r in shown if why == "worst"] == [0, 1, 2]
    drawn = [r.index for why, r in shown if why == "random"]
    assert len(set(drawn)) == 3
    assert set(drawn) <= set(range(3, 27))
    assert shown == choose_examples(results, 9, seed=0)
    assert shown != choose_examples(results, 9, seed=1)
    assert len(choose_examples(results[:2], 9, seed=0)) == 2
