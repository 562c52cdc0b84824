"""What goes to a terminal: names come from data, and a name may hold the commands that move a terminal's cursor."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from ialcms.reading.words import printable

# Of progress bars and log lines: back to the beginning of the line, and clear it.
_ALLOWED = ("\r\x1b[K", "\r")


class PlainOutput:
    """A text stream in which control characters come out as escapes like \\x1b, and so do bytes that are no UTF-8."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        start = next((allowed for allowed in _ALLOWED if text.startswith(allowed)), "")
        self._stream.write(start + printable(text[len(start) :]))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def plain_output() -> Iterator[None]:
    """Within it, `sys.stdout` and `sys.stderr` write plain text."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (PlainOutput(stream) for stream in before)  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
