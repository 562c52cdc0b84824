"""Bar charts as the templates draw them: positions in percent of a row's width, so that rows fit any screen."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ialcms.report.content import Bar, Chart
from ialcms.report.figures import MINUS

_BAR_HEIGHT, _GAP = 14, 4  # px
_MOST_TICKS = 6


@dataclass(frozen=True)
class BarView:
    """One bar; without a finite value it has no width."""

    series: int
    value: float | None
    y: int
    height: int
    x: str
    width: str
    whisker: tuple[str, str] | None  # ends of the interval
    middle: int  # y of the whisker


@dataclass(frozen=True)
class GroupView:
    name: str
    height: int
    bars: Sequence[BarView]


@dataclass(frozen=True)
class TickView:
    x: str
    text: str


@dataclass(frozen=True)
class ChartView:
    id: str
    title: str
    unit: str
    caption: str
    series: Sequence[str]
    zero: str
    ticks: Sequence[TickView]
    groups: Sequence[GroupView]


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float

    def percent(self, value: float) -> float:
        return 100 * (value - self.low) / (self.high - self.low)

    def position(self, value: float) -> str:
        return f"{self.percent(value):.2f}%"


def chart_views(charts: Sequence[Chart]) -> list[ChartView]:
    return [_chart(index, chart) for index, chart in enumerate(charts)]


def _chart(index: int, chart: Chart) -> ChartView:
    step, scale = _scale_of(chart)
    count = round((scale.high - scale.low) / step)
    values = [scale.low + step * number for number in range(count + 1)]
    groups = []
    for group in chart.groups:
        edge = _GAP if len(group.bars) == 1 else 2 * _GAP
        bars = [
            _bar(series, bar, edge + series * (_BAR_HEIGHT + _GAP), scale=scale)
            for series, bar in enumerate(group.bars)
        ]
        groups.append(GroupView(group.name, bars[-1].y + _BAR_HEIGHT + bars[0].y, bars))
    return ChartView(
        id=f"chart-{index}",
        title=chart.title,
        unit=chart.unit,
        caption=chart.caption,
        series=chart.series,
        zero=scale.position(0.0),
        ticks=[TickView(scale.position(value), f"{value:g}".replace("-", MINUS)) for value in values],
        groups=groups,
    )


def _scale_of(chart: Chart) -> tuple[float, _Scale]:
    """Distance of the ticks, and a range that begins and ends at one and holds zero and all bars."""
    numbers = [0.0, *_numbers(chart)]
    low, high = min(numbers), max(numbers)
    span = (high - low) or 1.0
    magnitude = 10.0 ** math.floor(math.log10(span / _MOST_TICKS))
    step = next(factor * magnitude for factor in (1, 2, 5, 10, 20) if span / (factor * magnitude) <= _MOST_TICKS)
    first, last = math.floor(low / step), max(math.ceil(high / step), math.floor(low / step) + 1)
    return step, _Scale(first * step, last * step)


def _numbers(chart: Chart) -> Iterator[float]:
    """All finite ones."""
    for group in chart.groups:
        for bar in group.bars:
            limits = (bar.interval.low, bar.interval.high) if bar.interval else ()
            yield from (number for number in (bar.value, *limits) if number is not None and math.isfinite(number))


def _bar(series: int, bar: Bar, y: int, scale: _Scale) -> BarView:
    """series: index of the bar in its group. y: of its upper edge, in pixels. scale: of the chart."""
    value = bar.value if bar.value is not None and math.isfinite(bar.value) else 0.0
    left, right = sorted((scale.percent(0.0), scale.percent(value)))
    whisker = None
    if bar.interval and math.isfinite(bar.interval.low) and math.isfinite(bar.interval.high):
        whisker = (scale.position(bar.interval.low), scale.position(bar.interval.high))
    return BarView(
        series=series,
        value=bar.value,
        y=y,
        height=_BAR_HEIGHT,
        x=f"{left:.2f}%",
        width=f"{right - left:.2f}%",
        whisker=whisker,
        middle=y + _BAR_HEIGHT // 2,
    )
