"""Numbers and names as people read them."""

from __future__ import annotations

import math
import re

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
    return _typographic(text)


def decibels(value: float, with_sign: bool = False) -> str:
    """One decimal; differences have a sign, but for zero."""
    if not math.isfinite(value):
        return readable(value)
    return _typographic(f"{value:{'+' if with_sign else ''}.1f}")


def clock_time(seconds: float) -> str:
    """Minutes and seconds, like 3:07."""
    whole = round(seconds)
    return f"{whole // 60}:{whole % 60:02}"


def instrument_label(name: str) -> str:
    """An instrument's name without the underscores that data sets put between words."""
    return name.replace("_", " ").strip() or name


def _typographic(number: str) -> str:
    """A real minus sign; what rounds to zero has no sign."""
    if re.fullmatch(r"[+-]0(\.0+)?", number):
        number = number[1:]
    return number.replace("-", MINUS)
