"""Words for messages about values and errors that may be anything: one line, of bounded length."""

from __future__ import annotations

import re
import reprlib
import unicodedata

_LONGEST = 200  # characters of a reason
_repr = reprlib.Repr()
_repr.maxlevel, _repr.maxstring, _repr.maxlong, _repr.maxother = 2, 60, 40, 60


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
    """Text that can go to a terminal: control characters, and those that turn its direction, as escapes."""
    if text.isprintable():
        return text
    return "".join(character if _is_harmless(character) else _escape(character) for character in text)


def _is_harmless(character: str) -> bool:
    return character.isprintable() or (character == "\n") or unicodedata.category(character) == "Zs"


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode()
