"""What a report shows: facts, figures, charts, tables, and examples to hear and see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Wave = NDArray[np.float32]
Scores = Mapping[str, float | None]  # SDR, SIR, SAR, SDRi, SIRi in dB; None: silent, so it has no score


@dataclass(frozen=True)
class Interval:
    low: float
    high: float


@dataclass(frozen=True)
class Figure:
    """A number with its confidence interval."""

    value: float
    interval: Interval | None


Cell = str | float | int | Interval | None

REASONS = {"best": "Best", "worst": "Worst", "random": "Random"}


@dataclass(frozen=True)
class Source:
    """One instrument of a mix: what the separator saw, what it should have given and what it gave."""

    instrument: str
    clip: str
    picture: NDArray[np.uint8]  # (H, W, 3)
    localisations: Mapping[str, NDArray[np.floating]]  # (h, w) in 0..1, over the picture, by run; "": the only one
    reference: Wave  # (S,)
    estimates: Mapping[str, Wave]  # (S,) each, by what made them: a protocol, a run
    scores: Scores = field(default_factory=dict)  # of the first estimate, set large
    estimate_scores: Mapping[str, Scores] = field(default_factory=dict)  # set beside an estimate's name


@dataclass(frozen=True)
class Example:
    title: str
    why: str  # it is shown: best, worst or random
    mix: Wave  # (S,)
    sources: tuple[Source, ...]
    label: str = ""  # where it is found elsewhere, like "mix 17"
    gain: float | None = None  # in dB, by which the best and the worst are chosen; None: not scored


@dataclass(frozen=True)
class Table:
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]  # None: no value
    caption: str
    kept: str = ""  # the column that stays visible, beside the first one, when a narrow screen scrolls the table


@dataclass(frozen=True)
class Bar:
    value: float | None  # None: no value
    interval: Interval | None = None


@dataclass(frozen=True)
class BarGroup:
    """Bars to compare with each other, one for each series of the chart."""

    name: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class Chart:
    """Horizontal bars from zero, all on one scale."""

    title: str
    unit: str
    series: tuple[str, ...]
    groups: tuple[BarGroup, ...]
    caption: str


@dataclass(frozen=True)
class Report:
    """All that a page shows, in its order."""

    title: str
    sample_rate: int  # of all waves
    facts: Mapping[str, str] = field(default_factory=dict)  # when, what and with what
    summary: Mapping[str, str | float | Figure] = field(default_factory=dict)  # set large
    baselines: Table | None = None  # figures of others, to set the summary beside
    charts: Sequence[Chart] = ()
    examples: Sequence[Example] = ()
    tables: Sequence[Table] = ()
    gain_name: str = "SDR improvement"  # what `Example.gain` is
    no_examples: str = "This report has no examples."  # set where there are none


def check_report(report: Report) -> None:
    """Raise ValueError for what does not fit together."""
    if report.sample_rate <= 0:
        raise ValueError(f"sample_rate is {report.sample_rate}; give the samples a second of all waves, like 11025")
    for table in (*([report.baselines] if report.baselines else []), *report.tables):
        check_table(table)
    for chart in report.charts:
        check_chart(chart)
    for example in report.examples:
        check_example(example)


def check_table(table: Table) -> None:
    """Raise ValueError for rows that do not fit the columns."""
    for number, row in enumerate(table.rows, start=1):
        if len(row) != len(table.columns):
            raise ValueError(
                f"table '{table.title}': row {number} has {len(row)} cells; give {len(table.columns)}, one a column"
            )
    if table.kept and table.kept not in table.columns:
        raise ValueError(f"table '{table.title}': '{table.kept}' is none of its columns")


def check_chart(chart: Chart) -> None:
    """Raise ValueError for groups that do not have one bar for each series."""
    for group in chart.groups:
        if len(group.bars) != len(chart.series):
            raise ValueError(
                f"chart '{chart.title}': {group.name} has {len(group.bars)} bars; give {len(chart.series)}, one a "
                "series"
            )


def check_example(example: Example) -> None:
    """Raise ValueError for arrays that cannot be shown side by side."""
    where = f"example '{example.title}'"
    if example.why not in REASONS:
        raise ValueError(f"{where}: why is '{example.why}'; choose {', '.join(REASONS)}")
    if not example.sources:
        raise ValueError(f"{where} has no sources; give one for every instrument of the mix")
    if example.mix.ndim != 1 or not example.mix.size:
        raise ValueError(f"{where}: the mix has shape {example.mix.shape}; give mono samples (S,)")
    for source in example.sources:
        of = f"{where}, {source.instrument}"
        if not source.estimates:
            raise ValueError(f"{of} has no estimate; give one or more")
        for role, wave in (("reference", source.reference), *source.estimates.items()):
            if wave.shape != example.mix.shape:
                raise ValueError(
                    f"{of}: the {role} has shape {wave.shape}, the mix {example.mix.shape}; cut both to one length"
                )
        picture = source.picture
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or not picture.size:
            raise ValueError(f"{of}: the picture is {picture.dtype} {picture.shape}; give uint8 (H, W, 3)")
        if not source.localisations:
            raise ValueError(f"{of} has no localisation; give one or more")
        for heat in source.localisations.values():
            if heat.ndim != 2 or not heat.size:
                raise ValueError(f"{of}: the localisation has shape {heat.shape}; give (h, w)")
        if unknown := set(source.estimate_scores) - set(source.estimates):
            raise ValueError(f"{of}: there are scores of '{min(unknown)}', which is none of its estimates")
