"""What is printed: control characters in names, which come from data, as escapes; commands that work as printed."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from ialcms.reading.words import printable

# Of progress bars and log lines: back to the beginning of the line, and clear it.
_ALLOWED = ("\r\x1b[K", "\r")
# Programs that are modules under another name.
_MODULES = {"tensorboard": "tensorboard.main"}


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


def runnable(program: str, *arguments: str | Path) -> str:
    """A command line for a program of this Python's environment, which need not be activated where it is pasted."""
    folder = Path(sys.executable).parent
    found = shutil.which(program)
    if found is not None and os.path.samefile(Path(found).parent, folder):
        words = [program]
    elif (folder / program).exists():
        words = [_from_here(folder / program)]
    else:
        words = [_from_here(Path(sys.executable)), "-m", _MODULES.get(program, program)]
    return shlex.join([*words, *map(str, arguments)])


def _from_here(path: Path) -> str:
    """By the shorter of its names."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
