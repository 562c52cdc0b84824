"""Text in the cells of a CSV file that people open in a spreadsheet."""

from __future__ import annotations

import re

from ialcms.reading.words import CONTROL

_BEGINS_A_FORMULA = tuple("=+-@＝＋－＠")
_QUOTE = "'"
_CONTROL = re.compile(f"[\n\t]|{CONTROL.pattern}")


def text_cell(text: str) -> str:
    """A name from data: a spreadsheet would take '=...' for a formula and run it, so that a ' comes before.

    Control characters come out as escapes: people look at such files in terminals too. Bytes that are no UTF-8 stay.
    """
    plain = _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)
    return _QUOTE + plain if _is_formula(plain) else plain


def cell_text(cell: str) -> str:
    """The name in a cell: the inverse of `text_cell`."""
    return cell[1:] if cell.startswith(_QUOTE) and _is_formula(cell[1:]) else cell


def _is_formula(text: str) -> bool:
    return text.lstrip().lstrip(_QUOTE).lstrip().startswith(_BEGINS_A_FORMULA)
