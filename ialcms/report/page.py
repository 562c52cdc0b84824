"""The report as one HTML file that needs nothing else: no network, no server, no other file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from markupsafe import Markup

from ialcms.files import write_whole
from ialcms.heatmap import LEVEL_RANGE_DB
from ialcms.report.content import Example, Figure, Interval, Source, Table, check_example, check_table
from ialcms.report.examples import example_view
from ialcms.report.rendering import content_hash, source_text, template
from ialcms.report.tables import key_figure_views, table_views

__all__ = ["Example", "Figure", "Interval", "Source", "Table", "write_report"]


def write_report(
    path: str | Path,
    *,
    title: str,
    summary: Mapping[str, str | float | Figure],
    tables: Sequence[Table],
    examples: Sequence[Example],
    sample_rate: int,
    max_bytes: int = 30_000_000,
) -> Path:
    """Write the report to `path` (its folder is made) and return it; an older report stays until the new one is whole.

    Examples that no longer fit into `max_bytes` are left out from the first such one on, and the page says how many.
    Raises ValueError where tables or arrays do not fit together, or where the tables alone are too large.
    """
    if sample_rate <= 0:
        raise ValueError(f"sample_rate is {sample_rate}; give the samples a second of all waves, like 11025")
    for table in tables:
        check_table(table)
    for example in examples:
        check_example(example)
    page = _fit(title, summary, tables, examples, sample_rate, max_bytes)

    path = Path(path)
    write_whole(path, page)
    return path


def _fit(
    title: str,
    summary: Mapping[str, str | float | Figure],
    tables: Sequence[Table],
    examples: Sequence[Example],
    sample_rate: int,
    max_bytes: int,
) -> bytes:
    """The page with as many examples as fit. Examples are drawn one after the other, and none that does not fit."""

    style, script = source_text("page.css"), source_text("page.js")
    fixed = {
        "title": title,
        "style": Markup(style),
        "style_hash": content_hash(style),
        "script": Markup(script),
        "script_hash": content_hash(script),
        "key_figures": key_figure_views(summary),
        "tables": table_views(tables),
        "range_db": f"{LEVEL_RANGE_DB:g}",
    }
    page_template, example_template = template("page.html"), template("example.html").module
    links: list[Markup] = []
    articles: list[Markup] = []

    def assemble() -> bytes:
        left_out = len(examples) - len(articles)
        return _encode(page_template.render(**fixed, links=links, articles=articles, num_left_out=left_out))

    page = assemble()
    if len(page) > max_bytes:
        raise ValueError(
            f"the report takes {len(page)} bytes without any example, but max_bytes is {max_bytes}; "
            "raise it or give fewer tables"
        )
    size = len(page)
    for number, example in enumerate(examples, start=1):
        view = example_view(number, example, sample_rate)
        links.append(example_template.link(view))  # type: ignore[attr-defined]
        articles.append(example_template.article(view))  # type: ignore[attr-defined]
        size += len(_encode(links[-1])) + len(_encode(articles[-1]))
        if size > max_bytes:
            break
    # The notice about examples left out changes the size by some bytes, so the whole page decides.
    while articles and len(page := assemble()) > max_bytes:
        links.pop()
        articles.pop()
    return page if articles else assemble()


def _encode(text: str) -> bytes:
    return text.encode(errors="backslashreplace")  # names may be no UTF-8
