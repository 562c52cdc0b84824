"""The report as one HTML file that needs nothing else: no network, no server, no other file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from ialcms.files import write_whole
from ialcms.heatmap import LEVEL_RANGE_DB
from ialcms.report.charts import chart_views
from ialcms.report.content import (
    Bar,
    BarGroup,
    Chart,
    Example,
    Figure,
    Interval,
    Report,
    Source,
    Table,
    check_report,
)
from ialcms.report.examples import example_view
from ialcms.report.rendering import encode, template, with_hashes
from ialcms.report.tables import key_figure_views, table_views

__all__ = [
    "Bar",
    "BarGroup",
    "Chart",
    "Example",
    "Figure",
    "Interval",
    "Report",
    "Source",
    "Table",
    "write_report",
]


def write_report(path: str | Path, report: Report, max_bytes: int = 30_000_000) -> Path:
    """Write the report to `path` (its folder is made) and return it; an older report stays until the new one is whole.

    Examples that no longer fit into `max_bytes` are left out from the first such one on, and the page says how many.
    Raises ValueError where tables or arrays do not fit together, or where the tables alone are too large.
    """
    check_report(report)
    page = _fit(report, max_bytes)
    path = Path(path)
    write_whole(path, page)
    return path


def _fit(report: Report, max_bytes: int) -> bytes:
    """The page with as many examples as fit. Examples are drawn one after the other, and none that does not fit."""
    baselines = [report.baselines] if report.baselines else []
    fixed = {
        **with_hashes(style=["page.css"], script=["page.js"]),
        "title": report.title,
        "facts": report.facts,
        "key_figures": key_figure_views(report.summary),
        "baselines": table_views(baselines, "baseline"),
        "charts": chart_views(report.charts),
        "tables": table_views(report.tables),
        "gain_name": report.gain_name,
        "no_examples": report.no_examples,
        "range_db": f"{LEVEL_RANGE_DB:g}",
    }
    page_template, example_template = template("page.html"), template("example.html").module
    links: list[Markup] = []
    articles: list[Markup] = []

    def assemble() -> bytes:
        left_out = len(report.examples) - len(articles)
        return encode(page_template.render(**fixed, links=links, articles=articles, num_left_out=left_out))

    page = assemble()
    if len(page) > max_bytes:
        raise ValueError(
            f"the report takes {len(page)} bytes without any example, but max_bytes is {max_bytes}; "
            "raise it or give fewer tables"
        )
    size = len(page)
    unfolded = _first_of_each_kind(report.examples)
    for index, example in enumerate(report.examples):
        is_open = index in unfolded
        view = example_view(index + 1, example, report.sample_rate, gain_name=report.gain_name, is_open=is_open)
        links.append(example_template.link(view))  # type: ignore[attr-defined]
        articles.append(example_template.article(view))  # type: ignore[attr-defined]
        size += len(encode(links[-1])) + len(encode(articles[-1]))
        if size > max_bytes:
            break
    # The notice about examples left out changes the size by some bytes, so the whole page decides.
    while articles and len(page := assemble()) > max_bytes:
        links.pop()
        articles.pop()
    return page if articles else assemble()


def _first_of_each_kind(examples: Sequence[Example]) -> set[int]:
    """Indices of the first best, worst and random example."""
    kinds = [example.why for example in examples]
    return {kinds.index(kind) for kind in kinds}
