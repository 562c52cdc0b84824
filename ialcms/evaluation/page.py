"""The page of an evaluation: its tables, and sounds and pictures of the examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ialcms.data.evaluation_mixes import EvaluationItem
from ialcms.evaluation.metrics import METRICS, mean_scores
from ialcms.evaluation.results import (
    MixResult,
    Row,
    by_best_protocol,
    gain_of_best_protocol,
    overall,
    per_instrument,
    per_pair,
    unscored,
)
from ialcms.evaluation.windows import Separated
from ialcms.report.page import Example, Figure, Interval, Source, Table, write_report

_COLUMNS = tuple(f"{name} (dB)" for name in METRICS)


def write_evaluation_page(
    path: Path,
    about: Mapping[str, Any],
    sample_rate: int,
    results: Sequence[MixResult],
    examples: Sequence[tuple[str, EvaluationItem, Sequence[Separated], MixResult]],
) -> Path:
    """about: the summary's words on what was evaluated.

    examples: why each is shown (best, worst or random), what was separated, the result by the published protocol and,
    if there is one, by the best, and its scores.
    """
    everything = overall(results)
    summary: dict[str, str | float | Figure] = {
        f"{name} (dB)": Figure(mean, _interval(everything, name)) for name, mean in everything.means.items()
    }
    gain = gain_of_best_protocol(results)
    if gain.means:
        best = overall(by_best_protocol(results))
        summary["SDR, best protocol (dB)"] = Figure(best.means["SDR"], _interval(best, "SDR"))
        summary["gain over published (dB)"] = Figure(gain.means["SDR"], _interval(gain, "SDR"))
    summary |= {
        "mixes scored": everything.num_mixes,
        "mixes not scored": len(unscored(results)),
        "training step": about["step"],
        "scored with": about["metrics"],
    }
    tables = [
        _table("Per instrument", ("instrument",), per_instrument(results), "Means over the sources of an instrument."),
        _table("Per pair", ("instrument", "mixed with"), per_pair(results),
               "Means over the sources of the first instrument in mixes with the second."),
        Table("Per mix", ("mix", "instruments", *_COLUMNS), tuple(map(_mix_row, results)),
              "Means over the sources of a mix. Each source by itself is in mixes.csv, beside this page."),
    ]  # fmt: skip
    problems = [(r.index, " + ".join(r.keys), r.scores.problem) for r in unscored(results)]
    if problems:
        caption = "Silence has no SDR: these mixes count in none of the means."
        tables.append(Table("Not scored", ("mix", "clips", "why"), tuple(problems), caption))
    what = (
        f"{about['num_sources']}-mixes of {about['split']} videos" if "split" in about else f"mixes of {about['list']}"
    )
    return write_report(
        path,
        title=f"{about['run']}: {what}",
        summary=summary,
        tables=tables,
        examples=[_example(*example) for example in examples],
        sample_rate=sample_rate,
    )


def _table(title: str, columns: tuple[str, ...], rows: Sequence[Row], caption: str) -> Table:
    return Table(
        title,
        (*columns, "mixes", *_COLUMNS, "SDR, 95% interval"),
        tuple(
            (*row.names, row.num_mixes, *(row.means.get(metric) for metric in METRICS), _interval(row, "SDR"))
            for row in rows
        ),
        f"{caption} Intervals are of the mean, over resampled mixes.",
    )


def _mix_row(result: MixResult) -> tuple:
    means = mean_scores(result.scores.sources)
    return (result.index, " + ".join(result.instruments), *(means.get(metric) for metric in METRICS))


def _interval(row: Row, metric: str) -> Interval | None:
    limits = row.intervals.get(metric)
    return Interval(*limits) if limits else None


def _example(why: str, item: EvaluationItem, separated: Sequence[Separated], result: MixResult) -> Example:
    published, *others = separated
    sources = tuple(
        Source(
            instrument=item.instruments[n],
            clip=item.keys[n],
            picture=item.pictures[n, 0].transpose(1, 2, 0),
            localisation=published.localisation[n].numpy(),
            reference=item.sources[n],
            estimate=published.estimates[n].numpy(),
            best=others[0].estimates[n].numpy() if others else None,
            scores={name: result.scores.sources[n].get(name) for name in METRICS},
        )
        for n in range(len(item.keys))
    )
    title, label = " + ".join(item.instruments), f"mix {result.index}"
    return Example(title, why, item.sources.sum(0), sources, label)
