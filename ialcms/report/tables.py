"""Key figures and sortable tables as markup."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence

from ialcms.report.content import Cell, Figure, Interval, Table
from ialcms.report.elements import Html, element, join
from ialcms.report.figures import readable


def key_figures(summary: Mapping[str, str | float | Figure]) -> Html:
    """A list of names and values; numbers are set large, texts are set as text, intervals small below their number."""
    return element("dl", *(_key_figure(name, value) for name, value in summary.items()), class_="key-figures")


def _key_figure(name: str, value: str | float | Figure) -> Html:
    number = value.value if isinstance(value, Figure) else value
    note = None
    if isinstance(value, Figure) and value.interval is not None:
        words = element("span", "95% interval ", class_="unseen")
        note = element("dd", words, readable(value.interval), class_="note")
    kind = "number" if _is_number(number) else "text"
    return element("div", element("dt", name), element("dd", readable(number)), note, class_=kind)


def table_sections(tables: Sequence[Table]) -> Html:
    return join(_table(number, table) for number, table in enumerate(tables))


def _table(number: int, table: Table) -> Html:
    name = f"table-{number}"
    numeric = [_is_numeric(table, column) for column in range(len(table.columns))]
    head = element(
        "tr",
        *(
            element(
                "th",
                element("button", element("span", title), type="button"),
                scope="col",
                aria_sort="none",
                class_="number" if is_number else "text",
            )
            for title, is_number in zip(table.columns, numeric)
        ),
    )
    rows = (
        element("tr", *(_cell(value, column == 0, numeric[column]) for column, value in enumerate(row)))
        for row in table.rows
    )
    box = element(
        "div",
        element("table", element("thead", head), element("tbody", *rows), aria_labelledby=name),
        class_="scroll",
        role="region",  # with a tabindex, so that the arrow keys scroll it
        aria_labelledby=name,
        tabindex=0,
    )
    caption = element("p", table.caption, class_="muted") if table.caption else None
    return element("section", element("h3", table.title, id=name), caption, box, class_="table")


def _cell(value: Cell, is_name: bool, is_number: bool) -> Html:
    kind = "number" if is_number else "text"
    name = "th" if is_name else "td"
    scope = "row" if is_name else None
    place = _place(value)
    if value is None or (place is not None and math.isnan(place)):
        dash = element("span", "–", aria_hidden="true")
        return element(name, dash, element("span", "no value", class_="unseen"), scope=scope, class_=f"{kind} missing")
    return element(name, readable(value), scope=scope, class_=kind, data_value=_as_script_reads(place))


def _as_script_reads(place: float | None) -> float | str | None:
    """JavaScript's Number() does not know Python's "inf"."""
    if place is None or math.isfinite(place):
        return place
    return "Infinity" if place > 0 else "-Infinity"


def _place(value: Cell) -> float | None:
    """What a column of numbers is sorted by."""
    if isinstance(value, Interval):
        return value.low
    return float(value) if isinstance(value, numbers.Real) and not isinstance(value, bool) else None


def _is_numeric(table: Table, column: int) -> bool:
    """Whether a column holds numbers or intervals only, gaps aside."""
    values = [row[column] for row in table.rows if row[column] is not None]
    return bool(values) and all(_place(value) is not None for value in values)


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
