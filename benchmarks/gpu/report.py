"""The report: a table for people, JSON for programs. Written again after each part."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.part import Outcome
from benchmarks.gpu.setting import shown
from benchmarks.gpu.summary import summary_rows
from ialcms.files import write_whole

TEXT, JSON, LOG = "report.txt", "report.json", "log.txt"


def write_report(folder: Path, about: dict[str, Any], outcomes: Sequence[Outcome]) -> None:
    """report.txt and report.json, each whole at any moment."""
    parts = [dataclasses.asdict(outcome) for outcome in outcomes]
    values = {**about, "summary": summary_rows(outcomes), "parts": parts}
    write_whole(folder / JSON, json.dumps(values, indent=1) + "\n")
    write_whole(folder / TEXT, format_report(about, outcomes))


def format_report(about: dict[str, Any], outcomes: Sequence[Outcome]) -> str:
    """The table for people."""
    lines = [f"GPU benchmark: {about['command']}", f"started {about['started']}, {about['elapsed_s']:.0f} s so far", ""]
    lines += [f"  {outcome.title:<52}{_state(outcome)}" for outcome in outcomes]
    if rows := summary_rows(outcomes):
        lines += ["", "side by side", *_table(rows)]
    for outcome in outcomes:
        if outcome.rows:
            lines += ["", outcome.title, *_table(outcome.rows)]
    return "\n".join(lines) + "\n"


def _state(outcome: Outcome) -> str:
    reason = f": {outcome.reason}" if outcome.reason else ""
    seconds = f"{outcome.seconds:5.1f} s  " if outcome.seconds else " " * 9
    return f"{seconds}{outcome.status}{reason}"


def _table(rows: Sequence[dict[str, Any]]) -> list[str]:
    width = max(len(row["name"]) for row in rows)
    return [
        f"  {row['name']:<{width}}  {shown(row['value']):>12} {row['unit']:<8} {row['note']}".rstrip() for row in rows
    ]
