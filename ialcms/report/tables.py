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
    kept: bool  # visible when the table is scrolled
    key: float | str | None  # what a column of numbers is sorted by, as JavaScript's Number() reads it


@dataclass(frozen=True)
class ColumnView:
    title: str
    kind: str
    kept: bool


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
    return KeyFigureView(name, figure.value, interval=figure.interval, kind=kind)


def table_views(tables: Sequence[Table], name: str = "table") -> list[TableView]:
    """name: what the tables' ids begin with."""
    return [_table(f"{name}-{index}", table) for index, table in enumerate(tables)]


def _table(id: str, table: Table) -> TableView:
    columns = []
    for index, title in enumerate(table.columns):
        kind = "number" if _is_numeric(table, index) else "text"
        columns.append(ColumnView(title, kind, kept=title == table.kept))
    rows = []
    for row in table.rows:
        rows.append([_cell(value, column) for value, column in zip(row, columns)])
    return TableView(id=id, title=table.title, caption=table.caption, columns=columns, rows=rows)


def _cell(value: Cell, column: ColumnView) -> CellView:
    key = _sort_key(value)
    missing = value is None or (key is not None and math.isnan(key))
    shown_key = None if missing else _as_script_reads(key)
    return CellView(value=value, kind=column.kind, missing=missing, kept=column.kept, key=shown_key)


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
