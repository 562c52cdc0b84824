"""The page of an evaluation: its figures, charts and tables, and sounds and pictures of the examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ialcms.evaluation.metrics import METRICS, mean_scores
from ialcms.evaluation.published_scores import published_tables
from ialcms.evaluation.reopened import Heard
from ialcms.evaluation.result_files import SUMMARY
from ialcms.evaluation.results import MixResult, Row, Summary
from ialcms.report.content import Bar, BarGroup, Cell, Chart, Example, Figure, Interval, Report, Source, Table
from ialcms.report.figures import instrument_label
from ialcms.report.page import write_report

_KEPT = "SDRi"  # visible on a phone, whatever the table is sorted by
_COLUMNS = (_KEPT, "SDR", "SDR, 95% interval", "SIR", "SAR", "SIRi")
_PUBLISHED_METHOD = "IAL-CMS"


@dataclass(frozen=True)
class SeparatedExample:
    """A mix to listen to."""

    why: str  # it is shown: best, worst or random
    heard: Heard
    result: MixResult


def write_evaluation_page(
    path: Path,
    about: Mapping[str, Any],
    sample_rate: int,
    *,
    figures: Summary,
    examples: Sequence[SeparatedExample],
) -> Path:
    """Write the page to `path`, beside the summary of the evaluation.

    about: what was evaluated, as in summary.json, and the name of its `data_set`. sample_rate: of the examples, in Hz.
    figures: all scores. examples: to look at and listen to.
    """
    what = (
        f"{about['num_sources']}-mixes of {about['split']} videos" if "split" in about else f"mixes of {about['list']}"
    )
    rows = {"": figures.per_instrument}
    report = Report(
        title=f"{about['run']}: {what}",
        sample_rate=sample_rate,
        facts=_facts(path, about),
        summary=_key_figures(figures),
        baselines=_baselines(about, figures),
        charts=[instrument_chart(rows, metric) for metric in ("SDR", "SDRi")],
        examples=list(map(_example, examples)),
        tables=_tables(figures),
    )
    return write_report(path, report)


def _facts(path: Path, about: Mapping[str, Any]) -> dict[str, str]:
    summary = path.parent / SUMMARY
    evaluated = datetime.fromtimestamp(summary.stat().st_mtime, UTC) if summary.is_file() else datetime.now(UTC)
    data_set = [str(about.get("data_set", "")), f"manifest {about.get('manifest', '')[:12]}"]
    return {
        "Evaluated": f"{evaluated:%d %B %Y, %H:%M} UTC".lstrip("0"),
        "Checkpoint": f"step {about['step']:,}, {about['state_sha256'][:12]}",
        "Data set": ", ".join(filter(None, data_set)),
        "Mixes": f"{about['seconds']:g} s, windows every {about['hop']:,} samples",
        "Metrics": str(about["metrics"]),
    }


def _key_figures(figures: Summary) -> dict[str, str | float | Figure]:
    shown: dict[str, str | float | Figure] = {}
    for name, mean in figures.overall.means.items():
        shown[f"{name} (dB)"] = Figure(mean, interval_of(figures.overall, name))
    if figures.best is not None:
        best, gain = figures.best.overall, figures.best.gain
        shown["SDR, best protocol (dB)"] = Figure(best.means["SDR"], interval_of(best, "SDR"))
        shown["gain over published (dB)"] = Figure(gain.means["SDR"], interval_of(gain, "SDR"))
    shown["mixes scored"] = figures.overall.num_mixes
    if figures.unscored:
        shown["mixes not scored"] = len(figures.unscored)
    return shown


def _baselines(about: Mapping[str, Any], figures: Summary) -> Table | None:
    """This run between the unprocessed mix and the published figures; None where nothing was scored."""
    means = figures.overall.means
    if not means:
        return None
    sources = {len(result.keys) for result in figures.results}
    rows: list[tuple[Cell, ...]] = [
        (f"{about['run']} (this run)", means["SDR"], means["SIR"], means["SAR"]),
        ("Unprocessed mix (baseline)", *baseline_scores(means), None),
    ]
    rows += published_rows(sources.pop() if len(sources) == 1 else 0)
    return Table(
        "Beside the baseline and the published figures",
        ("figures of", "SDR", "SIR", "SAR"),
        tuple(rows),
        caption="Means in dB. The published figures are of their authors' data: "
        "they compare only with runs on the same.",
    )


def baseline_scores(means: Mapping[str, float]) -> tuple[float, float]:
    """SDR and SIR of the unprocessed mix, taken as the estimate of each source."""
    return means["SDR"] - means["SDRi"], means["SIR"] - means["SIRi"]


def published_rows(num_sources: int) -> list[tuple[Cell, ...]]:
    """This method's published SDR, SIR and SAR on mixes of as many sources; none where nothing was published."""
    rows: list[tuple[Cell, ...]] = []
    for title, methods in published_tables(num_sources).items():
        chosen = {name: figures for name, figures in methods.items() if name.startswith(_PUBLISHED_METHOD)}
        rows += [(f"{name}, published on {title}", *figures) for name, figures in chosen.items()]
    return rows


def instrument_chart(runs: Mapping[str, Sequence[Row]], metric: str) -> Chart:
    """Means and intervals of each instrument; runs: their rows per instrument, by the names of their bars."""
    by_name = [_by_instrument(rows) for rows in runs.values()]
    groups = []
    for instrument in sorted(set().union(*by_name)):
        bars = [_bar(of_run.get(instrument), metric) for of_run in by_name]
        groups.append(BarGroup(instrument_label(instrument), tuple(bars)))
    groups.sort(key=_first_value, reverse=True)
    caption = "Means over the sources of an instrument; the thin line is the 95% interval of the mean."
    if metric == "SDRi":
        caption += " SDRi is the gain over the unprocessed mix."
    return Chart(f"{metric} of each instrument", "dB", tuple(runs), groups=tuple(groups), caption=caption)


def _by_instrument(rows: Sequence[Row]) -> dict[str, Row]:
    return {row.names[0]: row for row in rows}


def _bar(row: Row | None, metric: str) -> Bar:
    return Bar(row.means.get(metric), interval_of(row, metric)) if row else Bar(None)


def _first_value(group: BarGroup) -> float:
    return float("-inf") if group.bars[0].value is None else group.bars[0].value


def _tables(figures: Summary) -> list[Table]:
    of_instruments = "Means over the sources of an instrument."
    of_kinds = "Means over all sources of the mixes of the same instruments."
    of_pairs = "Means over the sources of the first instrument in mixes with the second."
    of_mixes = "Means in dB over the sources of a mix. Each source by itself is in mixes.csv, beside this page."
    columns = ("instruments", "SDRi", "SDR", "SIR", "SAR", "SIRi", "mix")
    tables = [
        _table("Per instrument", "instrument", figures.per_instrument, caption=of_instruments),
        _table("Per kind of mix", "instruments", figures.per_combination, caption=of_kinds),
        _table("Per pair", "instrument, mixed with", figures.per_pair, caption=of_pairs),
        Table("Per mix", columns, tuple(map(_mix_row, figures.results)), caption=of_mixes, kept=_KEPT),
    ]
    problems = [(r.index, " + ".join(r.keys), r.scores.problem) for r in figures.unscored]
    if problems:
        caption = "Silence has no SDR: these mixes count in none of the means."
        tables.append(Table("Not scored", ("mix", "clips", "why"), tuple(problems), caption=caption))
    return tables


def _table(title: str, names: str, rows: Sequence[Row], *, caption: str) -> Table:
    """Scores of the rows, one line each. names: the first column's title."""
    lines: list[tuple[Cell, ...]] = []
    for row in rows:
        label = ", with ".join(map(instrument_label, row.names))
        others = (row.means.get(metric) for metric in ("SIR", "SAR", "SIRi"))
        lines.append(
            (label, row.means.get("SDRi"), row.means.get("SDR"), interval_of(row, "SDR"), *others, row.num_mixes)
        )
    caption = f"{caption} In dB. Intervals are of the mean, over resampled mixes."
    return Table(title, (names, *_COLUMNS, "mixes"), tuple(lines), caption=caption, kept=_KEPT)


def _mix_row(result: MixResult) -> tuple[Cell, ...]:
    means = mean_scores(result.scores.sources)
    scores = (means.get(metric) for metric in ("SDRi", "SDR", "SIR", "SAR", "SIRi"))
    return (mix_title(result.instruments), *scores, result.index)


def mix_title(instruments: Sequence[str]) -> str:
    return " + ".join(map(instrument_label, instruments))


def interval_of(row: Row, metric: str) -> Interval | None:
    limits = row.intervals.get(metric)
    return Interval(*limits) if limits else None


def _example(example: SeparatedExample) -> Example:
    item, separated, result = example.heard.item, example.heard.separated, example.result
    sources = []
    for index, scores in enumerate(result.scores.sources):
        waves = [of_protocol.estimates[index].numpy() for of_protocol in separated]
        source = Source(
            instrument=instrument_label(item.instruments[index]),
            clip=item.keys[index],
            picture=item.pictures[index, 0].transpose(1, 2, 0),
            localisations={"": separated[0].localisation[index].numpy()},
            reference=item.sources[index],
            estimates=dict(zip(("Estimate", "Best protocol"), waves)),
            scores={name: scores.get(name) for name in METRICS},
        )
        sources.append(source)
    return Example(
        title=mix_title(item.instruments),
        why=example.why,
        mix=item.sources.sum(0),
        sources=tuple(sources),
        label=f"mix {result.index}",
        gain=mean_scores(result.scores.sources).get("SDRi"),
    )
