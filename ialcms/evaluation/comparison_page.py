"""The page of several evaluations of the same mixes side by side: figures, charts and tables, as the page of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from ialcms.evaluation.compare import Comparison, Difference
from ialcms.evaluation.metrics import METRICS, Scores, mean_scores
from ialcms.evaluation.page import baseline_scores, instrument_chart, interval_of, mix_title, published_rows
from ialcms.evaluation.result_files import read_results
from ialcms.evaluation.results import MixResult, Summary, summarise
from ialcms.report.content import Cell, Figure, Interval, Report, Table
from ialcms.report.figures import instrument_label
from ialcms.report.page import write_report

MOST_RUNS = 6  # as many colours do the charts have
_SAMPLE_RATE = 1  # there are no sounds


@dataclass(frozen=True)
class _Run:
    letter: str
    about: Mapping[str, Any]
    figures: Summary  # of the mixes that all runs scored

    @property
    def label(self) -> str:
        return f"{self.letter}: {self.about['run']}"


def write_comparison_page(path: Path, comparisons: Sequence[Comparison]) -> Path:
    """comparisons: of the same first run with one other each. Raises ValueError for more than fit on a page."""
    if len(comparisons) >= MOST_RUNS:
        raise ValueError(f"{len(comparisons) + 1} runs are given; a page compares {MOST_RUNS} at most")
    runs = _read_runs(comparisons)
    first, *others = runs
    rows = {run.label: run.figures.per_instrument for run in runs}
    names = ", ".join(run.about["run"] for run in runs)
    differences = [_differences(first, other, comparison) for other, comparison in zip(others, comparisons)]
    report = Report(
        title=f"{names}: compared",
        sample_rate=_SAMPLE_RATE,
        facts={
            "Runs": str(len(runs)),
            "Mixes": f"{len(first.figures.results)} of {comparisons[0].num_mixes} are scored in all",
            "Data set": f"manifest {first.about.get('manifest', '')[:12]}",
        },
        summary=_summary(runs, comparisons),
        baselines=_baselines(runs, comparisons[0].num_sources),
        charts=[instrument_chart(rows, metric) for metric in ("SDR", "SDRi")],
        tables=[_runs_table(runs), *differences, _mixes_table(runs)],
    )
    return write_report(path, report)


def _read_runs(comparisons: Sequence[Comparison]) -> list[_Run]:
    folders = [comparisons[0].folders[0], *(comparison.folders[1] for comparison in comparisons)]
    evaluations = [read_results(folder) for folder in folders]
    in_all = set.intersection(*(_scored_indices(results) for _, results in evaluations))
    runs = []
    for letter, (about, results) in zip(ascii_uppercase, evaluations):
        runs.append(_Run(letter, about, summarise([result for result in results if result.index in in_all])))
    return runs


def _scored_indices(results: Sequence[MixResult]) -> set[int]:
    return {result.index for result in results if not result.scores.problem}


def _summary(runs: Sequence[_Run], comparisons: Sequence[Comparison]) -> dict[str, str | float | Figure]:
    summary: dict[str, str | float | Figure] = {}
    for run in runs:
        row = run.figures.overall
        if row.means:
            summary[f"SDR of {run.letter} (dB)"] = Figure(row.means["SDR"], interval_of(row, "SDR"))
    for run, comparison in zip(runs[1:], comparisons):
        found = comparison.overall
        if found.difference:
            summary[f"{run.letter} - A (dB)"] = Figure(found.difference["SDR"], _interval(found, "SDR"))
    return summary


def _baselines(runs: Sequence[_Run], num_sources: int) -> Table | None:
    """The runs between the unprocessed mix and the published figures; None where nothing was scored."""
    means = runs[0].figures.overall.means
    if not means:
        return None
    rows: list[tuple[Cell, ...]] = []
    for run in runs:
        of_run = run.figures.overall.means
        rows.append((run.label, of_run["SDR"], of_run["SIR"], of_run["SAR"]))
    rows.append(("Unprocessed mix (baseline)", *baseline_scores(means), None))
    rows += published_rows(num_sources)
    caption = (
        "Means in dB over the mixes that all runs scored. The published figures are of their authors' data: they "
        "compare only with runs on the same."
    )
    return Table(
        "Beside the baseline and the published figures",
        ("figures of", "SDR", "SIR", "SAR"),
        tuple(rows),
        caption=caption,
    )


def _runs_table(runs: Sequence[_Run]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for run in runs:
        about = run.about
        rows.append((run.label, about["step"], about.get("state_sha256", "")[:12], about["hop"], about["metrics"]))
    columns = ("run", "step", "checkpoint", "hop (samples)", "metrics")
    return Table("Runs", columns, tuple(rows), caption="Scores compare where hop and metrics are the same.")


def _differences(first: _Run, other: _Run, comparison: Comparison) -> Table:
    rows = [("all", comparison.overall)]
    rows += [(instrument_label(name), found) for name, found in comparison.per_instrument.items()]
    return Table(
        f"{other.letter} - {first.letter}, per instrument",
        ("instrument", "SDRi", "SDR", "SDR, 95% interval", "SIR", "SAR", "SIRi", "mixes"),
        tuple(_difference_row(name, found) for name, found in rows),
        caption=f"Paired differences in dB, {other.label} less {first.label}, over the sources that both scored. "
        "An interval without zero is more than chance over these mixes.",
        kept="SDRi",
    )


def _difference_row(name: str, found: Difference) -> tuple[Cell, ...]:
    scores = {metric: found.difference.get(metric) for metric in METRICS}
    return (name, scores["SDRi"], scores["SDR"], _interval(found, "SDR"), scores["SIR"], scores["SAR"],
            scores["SIRi"], found.num_mixes)  # fmt: skip


def _mixes_table(runs: Sequence[_Run]) -> Table:
    """SDRi of each mix by each run, and how far each is from the first."""
    rows: list[tuple[Cell, ...]] = []
    for of_mix in zip(*(run.figures.results for run in runs)):
        scores: list[Scores] = [mean_scores(result.scores.sources) for result in of_mix]
        first, *others = (of_run["SDRi"] for of_run in scores)
        differences = (value - first for value in others)
        rows.append((mix_title(of_mix[0].instruments), *differences, first, *others, of_mix[0].index))
    letters = [run.letter for run in runs]
    columns = ("instruments", *(f"{letter} - A" for letter in letters[1:]), *letters, "mix")
    caption = "SDRi in dB, means over the sources of a mix, and its differences from the first run."
    return Table("Per mix", columns, tuple(rows), caption=caption, kept="B - A")


def _interval(found: Difference, metric: str) -> Interval | None:
    limits = found.intervals.get(metric)
    return Interval(*limits) if limits else None
