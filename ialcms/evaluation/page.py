"""The page of an evaluation: its tables, and sounds and pictures of the examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ialcms.data.evaluation_mixes import EvaluationItem
from ialcms.evaluation.metrics import METRICS, mean_scores
from ialcms.evaluation.results import MixResult, Row, Summary
from ialcms.evaluation.windows import Separated
from ialcms.report.page import Example, Figure, Interval, Source, Table, write_report

_COLUMNS = tuple(f"{name} (dB)" for name in METRICS)


@dataclass(frozen=True)
class SeparatedExample:
    """A mix to listen to."""

    why: str  # it is shown: best, worst or random
    item: EvaluationItem
    separated: Sequence[Separated]  # on the CPU, by the published protocol and, if there is one, by the best
    result: MixResult


def write_evaluation_page(
    path: Path,
    about: Mapping[str, Any],
    sample_rate: int,
    *,
    figures: Summary,
    examples: Sequence[SeparatedExample],
) -> Path:
    """about: what was evaluated, as in summary.json; sample_rate: of the examples, in Hz."""
    shown: dict[str, str | float | Figure] = {}
    for name, mean in figures.overall.means.items():
        shown[f"{name} (dB)"] = Figure(mean, _interval(figures.overall, name))
    if figures.best is not None:
        best, gain = figures.best.overall, figures.best.gain
        shown["SDR, best protocol (dB)"] = Figure(best.means["SDR"], _interval(best, "SDR"))
        shown["gain over published (dB)"] = Figure(gain.means["SDR"], _interval(gain, "SDR"))
    shown |= {
        "mixes scored": figures.overall.num_mixes,
        "mixes not scored": len(figures.unscored),
        "training step": about["step"],
        "scored with": about["metrics"],
    }
    what = (
        f"{about['num_sources']}-mixes of {about['split']} videos" if "split" in about else f"mixes of {about['list']}"
    )
    return write_report(
        path,
        title=f"{about['run']}: {what}",
        summary=shown,
        tables=_tables(figures),
        examples=list(map(_example, examples)),
        sample_rate=sample_rate,
    )


def _tables(figures: Summary) -> list[Table]:
    of_instruments = "Means over the sources of an instrument."
    of_pairs = "Means over the sources of the first instrument in mixes with the second."
    of_mixes = "Means over the sources of a mix. Each source by itself is in mixes.csv, beside this page."
    tables = [
        _table("Per instrument", ("instrument",), figures.per_instrument, caption=of_instruments),
        _table("Per pair", ("instrument", "mixed with"), figures.per_pair, caption=of_pairs),
        Table("Per mix", ("mix", "instruments", *_COLUMNS), tuple(map(_mix_row, figures.results)), of_mixes),
    ]
    problems = [(r.index, " + ".join(r.keys), r.scores.problem) for r in figures.unscored]
    if problems:
        caption = "Silence has no SDR: these mixes count in none of the means."
        tables.append(Table("Not scored", ("mix", "clips", "why"), tuple(problems), caption))
    return tables


def _table(title: str, columns: tuple[str, ...], rows: Sequence[Row], *, caption: str) -> Table:
    lines = []
    for row in rows:
        means = [row.means.get(metric) for metric in METRICS]
        lines.append((*row.names, row.num_mixes, *means, _interval(row, "SDR")))
    columns = (*columns, "mixes", *_COLUMNS, "SDR, 95% interval")
    return Table(title, columns, tuple(lines), f"{caption} Intervals are of the mean, over resampled mixes.")


def _mix_row(result: MixResult) -> tuple:
    means = mean_scores(result.scores.sources)
    return (result.index, " + ".join(result.instruments), *(means.get(metric) for metric in METRICS))


def _interval(row: Row, metric: str) -> Interval | None:
    limits = row.intervals.get(metric)
    return Interval(*limits) if limits else None


def _example(example: SeparatedExample) -> Example:
    item, (published, *others) = example.item, example.separated
    sources = []
    for index, scores in enumerate(example.result.scores.sources):
        source = Source(
            instrument=item.instruments[index],
            clip=item.keys[index],
            picture=item.pictures[index, 0].transpose(1, 2, 0),
            localisation=published.localisation[index].numpy(),
            reference=item.sources[index],
            estimate=published.estimates[index].numpy(),
            best=others[0].estimates[index].numpy() if others else None,
            scores={name: scores.get(name) for name in METRICS},
        )
        sources.append(source)
    title, label = " + ".join(item.instruments), f"mix {example.result.index}"
    return Example(title, example.why, item.sources.sum(0), sources=tuple(sources), label=label)
