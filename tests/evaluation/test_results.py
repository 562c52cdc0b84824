"""Figures, intervals and files of an evaluation, from results made by hand."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ialcms.evaluation.bootstrap import mean_intervals
from ialcms.evaluation.metrics import METRICS, MixScores, Scores
from ialcms.evaluation.result_files import read_results, write_results
from ialcms.evaluation.results import MixResult, choose_examples, format_tables, summarise


def scores(value: float) -> Scores:
    return {metric: value for metric in METRICS}


def result(index: int, names: tuple[str, ...], values: tuple[float, ...], problem: str = "") -> MixResult:
    sources = tuple({} if problem else scores(value) for value in values)
    keys = tuple(f"{name}_{index}" for name in names)
    return MixResult(index, names, keys, (index,) * len(names), (0,) * len(names), MixScores(sources, problem))


@pytest.fixture
def results() -> list[MixResult]:
    return [
        result(0, ("cello", "flute"), (1.0, 3.0)),
        result(1, ("cello", "flute"), (5.0, 7.0)),
        result(2, ("cello", "tuba"), (9.0, -1.0)),
        result(3, ("flute", "tuba"), (0.0, 0.0), "silent reference 2"),
    ]


def test_means(results: list[MixResult]) -> None:
    figures = summarise(results)
    assert figures.overall.num_mixes == 3
    assert figures.overall.means == scores(4.0)
    rows = {row.names: (row.num_mixes, row.means.get("SDR")) for row in figures.per_instrument}
    assert rows == {("cello",): (3, 5.0), ("flute",): (2, 5.0), ("tuba",): (1, -1.0)}
    pairs = {row.names: (row.num_mixes, row.means.get("SIR")) for row in figures.per_pair}
    assert pairs == {
        ("cello", "flute"): (2, 3.0), ("flute", "cello"): (2, 5.0), ("cello", "tuba"): (1, 9.0),
        ("tuba", "cello"): (1, -1.0), ("flute", "tuba"): (0, None), ("tuba", "flute"): (0, None),
    }  # fmt: skip


def test_pairs_within_larger_mixes() -> None:
    """A source counts with each of the others of its mix; two of one instrument are a pair, too."""
    mixes = [result(0, ("cello", "flute", "tuba"), (1.0, 2.0, 3.0)), result(1, ("cello", "cello"), (4.0, 6.0))]
    means = {row.names: row.means["SDR"] for row in summarise(mixes).per_pair}
    assert means == {
        ("cello", "flute"): 1.0, ("cello", "tuba"): 1.0, ("flute", "cello"): 2.0, ("flute", "tuba"): 2.0,
        ("tuba", "cello"): 3.0, ("tuba", "flute"): 3.0, ("cello", "cello"): 5.0,
    }  # fmt: skip


def test_intervals_cover_as_often_as_they_say() -> None:
    """Of 95% intervals of the means of 40 mixes, about 95% hold the true mean; resampling sources would not do."""
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        levels = 3 + rng.normal(size=40)  # of the mixes, shared by both sources
        groups = [[scores(level), scores(level + 0.1)] for level in levels]
        low, high = mean_intervals(groups, "trial", trial)["SDR"]
        covered += low < 3.05 < high
    assert 180 <= covered <= 198


def test_intervals_depend_on_their_key_and_data_alone() -> None:
    groups = [[scores(float(n))] for n in range(10)]
    assert mean_intervals(groups, "a") == mean_intervals(groups, "a")
    assert mean_intervals(groups, "a") != mean_intervals(groups, "b")
    low, high = mean_intervals(groups, "a")["SDR"]
    assert 0 < low < 4.5 < high < 9


def test_no_interval_from_a_single_mix() -> None:
    assert mean_intervals([[scores(1.0), scores(2.0)]], "a") == {}
    assert mean_intervals([[scores(1.0)], []], "a") == {}
    assert mean_intervals([], "a") == {}


def test_mixes_count_by_their_sources() -> None:
    groups = [[scores(0.0)] * 3, [scores(1.0)]] * 50
    low, high = mean_intervals(groups, "a")["SDR"]
    assert low < 0.25 < high
    assert high - low < 0.2


def test_what_could_not_be_scored_is_listed_everywhere(results: list[MixResult], tmp_path: Path) -> None:
    figures = summarise(results)
    assert [r.index for r in figures.unscored] == [3]
    assert "not scored: mix 3 (flute_3 + tuba_3): silent reference 2" in format_tables(figures)
    write_results(tmp_path, figures, {"run": "small"})
    rows = list(csv.DictReader((tmp_path / "mixes.csv").read_text().splitlines()))
    assert len(rows) == 8  # a line a source, scored or not
    assert [row["problem"] for row in rows if row["mix"] == "3"] == ["silent reference 2"] * 2
    assert {row["SDR"] for row in rows if row["mix"] == "3"} == {""}
    assert float(rows[4]["SDR"]) == 9.0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["run"] == "small"
    assert summary["mixes"] == 4
    assert summary["unscored"] == [{"mix": 3, "clips": ["flute_3", "tuba_3"], "problem": "silent reference 2"}]


def test_files(results: list[MixResult], tmp_path: Path) -> None:
    write_results(tmp_path, summarise(results), {"run": "small", "step": 7})
    instruments = {row["instrument"]: row for row in csv.DictReader(open_lines(tmp_path / "instruments.csv"))}
    assert float(instruments["cello"]["SDR"]) == 5.0
    assert float(instruments["cello"]["SDR_low"]) < 5.0 < float(instruments["cello"]["SDR_high"])
    assert instruments["tuba"]["SDR_low"] is None  # of one mix only
    pairs = {(row["instrument"], row["with"]): row for row in csv.DictReader(open_lines(tmp_path / "pairs.csv"))}
    assert float(pairs["flute", "cello"]["SIR"]) == 5.0
    assert pairs["flute", "tuba"]["mixes"] == "0"
    summary = json.loads((tmp_path / "summary.json").read_text())
    low, high = summary["overall"]["intervals"]["SDR"]
    assert low <= summary["overall"]["SDR"] <= high
    assert summary["per_instrument"]["flute"]["mixes"] == 2
    read_summary, read = read_results(tmp_path)
    assert read_summary == summary
    assert read == results


def open_lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_infinite_scores_leave_valid_json(tmp_path: Path) -> None:
    write_results(tmp_path, summarise([result(0, ("cello", "flute"), (float("inf"), 1.0))]), {})
    summary = json.loads((tmp_path / "summary.json").read_text(), parse_constant=pytest.fail)
    assert summary["overall"]["SDR"] is None


def test_no_evaluation(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no evaluation in .*; make one with 'ialcms evaluate RUN'"):
        read_results(tmp_path)
    write_results(tmp_path, summarise([result(0, ("cello", "flute"), (2.0, 1.0))]), {})
    path = tmp_path / "mixes.csv"
    path.write_text(path.read_text().replace("2.000000", "two"))
    with pytest.raises(ValueError, match=r"the evaluation in .* is damaged"):
        read_results(tmp_path)


def pairs_of(results: list[MixResult]) -> list[tuple[str, str, str]]:
    return [(r.instruments[0], "+", r.instruments[1]) for r in results]


def test_tables_as_text(results: list[MixResult]) -> None:
    lines = format_tables(summarise(results)).splitlines()
    rows = [line.split() for line in lines]
    assert [row[:3] for row in rows if row[1:2] == ["+"]] == [list(p) for p in dict.fromkeys(pairs_of(results))]
    assert ["cello", "3", *["5.00"] * 5] in rows
    assert ["all", "3", *["4.00"] * 5] in rows
    low, high = (next(line for line in lines if line.startswith(name)).split()[-5:] for name in ("  95%", "  to"))
    assert all(float(a) < 4.0 < float(b) for a, b in zip(low, high))


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


def test_the_gain_of_the_best_protocol_is_paired(tmp_path: Path) -> None:
    results = [result(index, ("cello", "flute"), (float(index), 3.0)) for index in range(3)]
    better = []
    for one in results[:2]:
        best = tuple({name: value + 1.5 for name, value in source.items()} for source in one.scores.sources)
        better.append(replace(one, scores=replace(one.scores, best=best)))
    results = [*better, results[2]]  # of the last one the best protocol gave silence
    figures = summarise(results)
    assert figures.best is not None
    assert (figures.best.gain.num_mixes, figures.best.gain.means["SDR"]) == (2, pytest.approx(1.5))
    assert figures.best.overall.means["SDR"] == pytest.approx((1.5 + 4.5 + 2.5 + 4.5) / 4)
    assert figures.overall.num_mixes == 3
    lines = format_tables(summarise(results)).splitlines()
    assert any(line.startswith("best - published") and "1.50" in line for line in lines)
    write_results(tmp_path, summarise(results), {"run": "small", "step": 7})
    summary, again = read_results(tmp_path)
    assert again == results
    assert summary["best_protocol"]["gain"]["SDR"] == pytest.approx(1.5)
    assert summary["best_protocol"]["gain"]["mixes"] == 2


def test_results_of_the_published_protocol_alone(tmp_path: Path) -> None:
    results = [result(0, ("cello", "flute"), (2.0, 1.0))]
    write_results(tmp_path, summarise(results), {})
    assert "best_protocol" not in read_results(tmp_path)[0]
    assert "protocol" not in format_tables(summarise(results))
