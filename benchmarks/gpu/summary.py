"""Figures from several parts side by side: rates by form, and how many times the naive form in float32 that is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.gpu.part import Outcome

STEPS_OF_A_CYCLE = 3


def summary_rows(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Rows like those of a part; [] while there is nothing to compare."""
    naive_ms = {
        row["name"].removeprefix("naive, float32, batch ").removesuffix(": cycle"): row["value"]
        for row in _rows(outcomes, "cycle")
        if row["name"].startswith("naive, float32, batch ") and row["name"].endswith(": cycle")
    }
    rows = []
    for row in _rows(outcomes, "steps"):
        form, _, what = row["name"].rpartition(": ")
        if what != "rate" or not row["value"]:
            continue
        batch = form.rpartition("batch ")[2]
        note = ""
        if batch in naive_ms:
            naive_rate = 1e3 * STEPS_OF_A_CYCLE * int(batch) / naive_ms[batch]
            note = f"{row['value'] / naive_rate:.2f} times naive float32 of the same batch"
        rows.append({"name": f"steps, {form}", "value": row["value"], "unit": "mixes/s", "note": note})
    for part, title in (("training", "training"), ("loader", "loader"), ("evaluation", "evaluation")):
        for row in _rows(outcomes, part):
            if row["unit"] == "mixes/s" or row["name"].endswith("waiting for data"):
                rows.append({**row, "name": f"{title}, {row['name']}"})
    return rows


def _rows(outcomes: Sequence[Outcome], part: str) -> list[dict[str, Any]]:
    return [row for outcome in outcomes if outcome.part.split()[0] == part for row in outcome.rows]
