"""Key figures and sortable tables as markup."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence

from ialcms.report.content import Cell, Table
from ialcms.report.elements import Html, element, join
from ialcms.report.figures import readable


def key_figures(summary: Mapping[str, str | float]) -> Html:
    """A list of names and values; numbers are set large, texts are set as text."""
    return element(
        "dl",
        *(
            element(
                "div",
                element("dt", name),
                element("dd", readable(value)),
                class_="number" if _is_number(value) else "text",
            )
            for name, value in summary.items()
        ),
        class_="key-figures",
    )


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
    if value is None or (_is_number(value) and math.isnan(float(value))):
        dash = element("span", "–", aria_hidden="true")
        return element(name, dash, element("span", "no value", class_="unseen"), scope=scope, class_=f"{kind} missing")
    number = float(value) if _is_number(value) else None
    return element(name, readable(value), scope=scope, class_=kind, data_value=number)


def _is_numeric(table: Table, column: int) -> bool:
    """Whether a column holds numbers only, gaps aside."""
    values = [row[column] for row in table.rows if row[column] is not None]
    return bool(values) and all(_is_number(value) for value in values)


def _is_number(value: Cell) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
