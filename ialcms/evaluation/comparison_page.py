"""The page of several evaluations of the same mixes side by side: figures, charts, examples and tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ialcms.evaluation.compare import Comparison, Difference
from ialcms.evaluation.compared_runs import ComparedRun, compared_runs
from ialcms.evaluation.comparison_examples import ComparedExamples, compared_examples, gain_name
from ialcms.evaluation.metrics import Scores, mean_scores
from ialcms.evaluation.page import baseline_scores, instrument_chart, interval_of, mix_title, published_rows
from ialcms.report.content import Cell, Figure, Interval, Report, Table
from ialcms.report.figures import instrument_label
from ialcms.report.page import write_report

MOST_RUNS = 6  # as many colours do the charts have
_ANY_SAMPLE_RATE = 11_025  # of a page without sounds


@dataclass(frozen=True)
class ComparisonPage:
    path: Path
    no_sounds: str = ""  # why it has no examples to listen to


def write_comparison_page(
    path: Path, comparisons: Sequence[Comparison], overrides: Sequence[str] = ()
) -> ComparisonPage:
    """Write the page of several runs. Where a run or its shards are not there any more, the page has no sounds.

    comparisons: of the same first run with one other each. overrides: of the runs' configurations. Raises ValueError
    for more runs than fit on a page.
    """
    if len(comparisons) >= MOST_RUNS:
        raise ValueError(f"{len(comparisons) + 1} runs are given; a page compares {MOST_RUNS} at most")
    runs = compared_runs(comparisons)
    no_sounds = ""
    try:
        heard = compared_examples(runs, overrides)
    except (OSError, ValueError) as error:
        heard, no_sounds = ComparedExamples((), _ANY_SAMPLE_RATE), str(error)
    first, *others = runs
    rows = {run.label: run.figures.per_instrument for run in runs}
    names = ", ".join(run.about["run"] for run in runs)
    differences = [_differences(first, other, comparison) for other, comparison in zip(others, comparisons)]
    report = Report(
        title=f"Compared: {names}",
        sample_rate=heard.sample_rate,
        facts={
            "Runs": str(len(runs)),
            "Mixes": f"{len(first.figures.results)} of {comparisons[0].num_mixes} are scored by all runs",
            "Data set": f"manifest {first.about.get('manifest', '')[:12]}",
        },
        summary=_summary(runs, comparisons),
        baselines=_baselines(runs, comparisons[0].num_sources),
        charts=[instrument_chart(rows, metric) for metric in ("SDR", "SDRi")],
        examples=heard.examples,
        tables=[_runs_table(runs), *differences, _mixes_table(runs)],
        gain_name=gain_name(runs),
        no_examples=f"There is nothing to listen to: {no_sounds}." if no_sounds else Report.no_examples,
    )
    return ComparisonPage(write_report(path, report), no_sounds)


def _summary(runs: Sequence[ComparedRun], comparisons: Sequence[Comparison]) -> dict[str, str | float | Figure]:
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


def _baselines(runs: Sequence[ComparedRun], num_sources: int) -> Table | None:
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


def _runs_table(runs: Sequence[ComparedRun]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for run in runs:
        about = run.about
        rows.append((run.label, about["step"], about.get("state_sha256", "")[:12], about["hop"], about["metrics"]))
    columns = ("run", "step", "checkpoint", "hop (samples)", "metrics")
    return Table("Runs", columns, tuple(rows), caption="Scores compare where hop and metrics are the same.")


def _differences(first: ComparedRun, other: ComparedRun, comparison: Comparison) -> Table:
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
    of = found.difference.get
    others = (of("SIR"), of("SAR"), of("SIRi"))
    return (name, of("SDRi"), of("SDR"), _interval(found, "SDR"), *others, found.num_mixes)


def _mixes_table(runs: Sequence[ComparedRun]) -> Table:
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
