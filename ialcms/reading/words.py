"""Words for messages about values and errors that may be anything: one line, of bounded length."""

from __future__ import annotations

import re
import reprlib

_LONGEST = 280  # characters of a reason
# Of ASCII and Latin-1, ends of lines and paragraphs, and what turns the direction of writing.
CONTROL = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069]")
NO_UTF8 = re.compile("[\\ud800-\\udfff]")  # as Python holds the bytes of such names
_repr = reprlib.Repr()
_repr.maxlevel = 2
_repr.maxstring = _repr.maxother = 60
_repr.maxlong = 40


class Unreadable(ValueError):
    """What a file holds cannot be read; the message is the reason, in one line."""


def one_line(error: BaseException | str) -> str:
    """An error in one line of bounded length, the same in every process; its type where it has no words."""
    text = printable(" ".join(re.sub(r"<([^<>]*) at 0x\w+>", r"<\1>", str(error)).split()))
    if not text:
        return type(error).__name__
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def shown(value: object) -> str:
    """A value as it stands in a message: of bounded length, however large or deep it is."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 128:
        return f"a whole number of {value.bit_length()} bits"  # Python refuses to write the longest ones out
    return printable(_repr.repr(value))


def bare(value: object) -> str:
    """As `shown`, but text without quotes and up to the length of a reason."""
    return one_line(value) if isinstance(value, str) and value.strip() else shown(value)


def printable(text: str) -> str:
    """Text that can go to a terminal: control characters, ones that turn its direction, and bytes that are no UTF-8
    come out as escapes; ends of lines and tabs stay.
    """
    return CONTROL.sub(lambda found: ascii(found[0])[1:-1], NO_UTF8.sub(lambda found: ascii(found[0])[1:-1], text))
