"""The report as one HTML file that needs nothing else: no network, no server, no other file."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template

from ialcms.files import write_whole
from ialcms.report.content import Example, Figure, Interval, Source, Table, check_example, check_table
from ialcms.report.elements import Html, element, join
from ialcms.report.examples import example_article, example_link
from ialcms.report.spectrogram import RANGE_DB
from ialcms.report.tables import key_figures, table_sections

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

    def assemble(links: Sequence[Html], articles: Sequence[Html]) -> bytes:
        return _assemble(title, summary, tables, links, articles, len(examples) - len(articles))

    links: list[Html] = []
    articles: list[Html] = []
    page = assemble(links, articles)
    if len(page) > max_bytes:
        raise ValueError(
            f"the report takes {len(page)} bytes without any example, but max_bytes is {max_bytes}; "
            "raise it or give fewer tables"
        )
    size = len(page)
    for number, example in enumerate(examples, start=1):
        links.append(example_link(number, example))
        articles.append(example_article(number, example, sample_rate))
        size += len(links[-1].encode()) + len(articles[-1].encode())
        if size > max_bytes:
            break
    # The notice about examples left out changes the size by some bytes, so the whole page decides.
    while articles and len(page := assemble(links, articles)) > max_bytes:
        links.pop()
        articles.pop()
    return page if articles else assemble([], [])


def _assemble(
    title: str,
    summary: Mapping[str, str | float | Figure],
    tables: Sequence[Table],
    links: Sequence[Html],
    articles: Sequence[Html],
    num_left_out: int,
) -> bytes:
    style, script = _package_text("page.css"), _package_text("page.js")
    page = Template(_package_text("page.html")).substitute(
        title=join([title]),
        style=style,
        style_hash=_hash(style),
        script=script,
        script_hash=_hash(script),
        key_figures=key_figures(summary),
        tables=table_sections(tables) if tables else _nothing("This report has no tables."),
        example_links=element("ol", *links, class_="links") if links else "",
        examples=join(articles) if articles else _nothing("This report has no examples."),
        range_db=f"{RANGE_DB:g}",
        left_out=_left_out(num_left_out) if num_left_out else "",
    )
    return page.encode()


def _package_text(name: str) -> str:
    return files("ialcms.report").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """The digest by which the page's own policy lets exactly this style or script in, and no other."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _nothing(text: str) -> Html:
    return element("p", text, class_="muted")


def _left_out(number: int) -> Html:
    examples, are = ("example", "is") if number == 1 else ("examples", "are")
    return element("p", f"{number} more {examples} {are} left out, to keep this file small.", class_="notice")
