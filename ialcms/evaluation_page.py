"""The page of an evaluation: its tables, and sounds and pictures of the examples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ialcms.data.evaluation_sets import EvaluationItem
from ialcms.metrics import METRICS
from ialcms.report.page import Example, Source, Table, write_report
from ialcms.results import MixResult, Row, overall, per_instrument, per_pair, unscored
from ialcms.separation import Separated


def write_evaluation_page(
    path: Path,
    title: str,
    step: int,
    sample_rate: int,
    results: Sequence[MixResult],
    examples: Sequence[tuple[str, EvaluationItem, Separated, MixResult]],
) -> Path:
    """examples: why each is shown (best, worst or random), what was separated, the result and its scores."""
    everything = overall(results)
    summary: dict[str, str | float] = {
        "mixes scored": everything.num_mixes,
        "mixes not scored": len(unscored(results)),
        "training step": step,
    }
    for name, mean in everything.means.items():
        summary[f"{name} (dB)"] = round(mean, 2)
    if everything.intervals:
        summary["SDR, 95% interval"] = _interval(everything, "SDR")
        summary["SDRi, 95% interval"] = _interval(everything, "SDRi")
    tables = [
        _table("Per instrument", ("instrument",), per_instrument(results), "Means over the sources of an instrument."),
        _table("Per pair", ("instrument", "mixed with"), per_pair(results),
               "Means over the sources of the first instrument in mixes with the second."),
    ]  # fmt: skip
    problems = [(r.index, " + ".join(r.keys), r.scores.problem) for r in unscored(results)]
    if problems:
        caption = "Silence has no SDR: these mixes count in none of the means."
        tables.append(Table("Not scored", ("mix", "clips", "why"), tuple(problems), caption))
    return write_report(
        path,
        title=title,
        summary=summary,
        tables=tables,
        examples=[_example(*example) for example in examples],
        sample_rate=sample_rate,
    )


def _table(title: str, columns: tuple[str, ...], rows: Sequence[Row], caption: str) -> Table:
    return Table(
        title,
        (*columns, "mixes", *(f"{name} (dB)" for name in METRICS), "SDR, 95% interval"),
        tuple(
            (*row.names, row.num_mixes, *(row.means.get(metric) for metric in METRICS), _interval(row, "SDR") or None)
            for row in rows
        ),
        f"{caption} Intervals are of the mean, over resampled mixes.",
    )


def _interval(row: Row, metric: str) -> str:
    limits = row.intervals.get(metric)
    return f"{limits[0]:.2f} to {limits[1]:.2f}" if limits else ""


def _example(why: str, item: EvaluationItem, separated: Separated, result: MixResult) -> Example:
    sources = tuple(
        Source(
            instrument=item.instruments[n],
            clip=item.keys[n],
            picture=item.pictures[n].transpose(1, 2, 0),
            localisation=separated.localisation[n].numpy(),
            reference=item.sources[n],
            estimate=separated.estimates[n].numpy(),
            scores={name: result.scores.sources[n].get(name) for name in METRICS},
        )
        for n in range(len(item.keys))
    )
    return Example(title=" + ".join(item.instruments), why=why, mix=item.sources.sum(0), sources=sources)
