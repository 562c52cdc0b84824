"""Numbers as people read them."""

from __future__ import annotations

import math

from ialcms.report.content import Interval

MINUS = "\u2212"


def readable(value: str | float | int | Interval) -> str:
    """Text as it is, whole numbers with thousands separated, others with two decimals (small ones with two digits)."""
    if isinstance(value, str):
        return value
    if isinstance(value, Interval):
        return f"{readable(value.low)} to {readable(value.high)}"
    if isinstance(value, int):
        text = f"{value:,}"
    elif not math.isfinite(value):
        text = {math.inf: "∞", -math.inf: "-∞"}.get(value, "not a number")
    elif value == 0 or abs(value) >= 0.01:
        text = f"{value:,.2f}"
    else:
        text = f"{value:.2g}"
    return text.replace("-", MINUS)


def decibels(value: float, with_sign: bool = False) -> str:
    """One decimal; differences have a sign always."""
    if not math.isfinite(value):
        return readable(value)
    return f"{value:{'+' if with_sign else ''}.1f}".replace("-", MINUS)
