"""Key figures and tables as the templates show them."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ialcms.report.content import Cell, Figure, Interval, Table


@dataclass(frozen=True)
class KeyFigureView:
    """Numbers are set large, texts are set as text, intervals small below their number."""

    name: str
    value: str | float
    interval: Interval | None
    kind: str  # number or text


@dataclass(frozen=True)
class CellView:
    value: Cell
    kind: str  # number or text, as its column
    missing: bool
    key: float | str | None  # what a column of numbers is sorted by, as JavaScript's Number() reads it


@dataclass(frozen=True)
class ColumnView:
    title: str
    kind: str


@dataclass(frozen=True)
class TableView:
    id: str
    title: str
    caption: str
    columns: list[ColumnView]
    rows: list[list[CellView]]


def key_figure_views(summary: Mapping[str, str | float | Figure]) -> list[KeyFigureView]:
    return [_key_figure(name, value) for name, value in summary.items()]


def _key_figure(name: str, value: str | float | Figure) -> KeyFigureView:
    figure = value if isinstance(value, Figure) else Figure(value, None)  # type: ignore[arg-type]
    kind = "number" if _is_number(figure.value) else "text"
    return KeyFigureView(name, figure.value, figure.interval, kind)


def table_views(tables: Sequence[Table]) -> list[TableView]:
    return [_table(number, table) for number, table in enumerate(tables)]


def _table(number: int, table: Table) -> TableView:
    kinds = ["number" if _is_numeric(table, column) else "text" for column in range(len(table.columns))]
    columns = [ColumnView(title, kind) for title, kind in zip(table.columns, kinds)]
    rows = []
    for row in table.rows:
        rows.append([_cell(value, kind) for value, kind in zip(row, kinds)])
    return TableView(id=f"table-{number}", title=table.title, caption=table.caption, columns=columns, rows=rows)


def _cell(value: Cell, kind: str) -> CellView:
    key = _sort_key(value)
    missing = value is None or (key is not None and math.isnan(key))
    return CellView(value=value, kind=kind, missing=missing, key=None if missing else _as_script_reads(key))


def _as_script_reads(key: float | None) -> float | str | None:
    """JavaScript's Number() does not know Python's "inf"."""
    if key is None or math.isfinite(key):
        return key
    return "Infinity" if key > 0 else "-Infinity"


def _sort_key(value: Cell) -> float | None:
    if isinstance(value, Interval):
        return value.low
    return float(value) if _is_number(value) else None  # type: ignore[arg-type]


def _is_numeric(table: Table, column: int) -> bool:
    """Whether a column holds numbers or intervals only, gaps aside."""
    values = [row[column] for row in table.rows if row[column] is not None]
    return bool(values) and all(_sort_key(value) is not None for value in values)


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
