"""File names for FFmpeg, matplotlib, archives and people. Any name that the file system allows works.

Python holds bytes of a name that are no UTF-8 as surrogates. JSON escapes these by itself; text files of ours are
written and read with `ENCODING_ERRORS`, so that the name's own bytes are in them.
"""

from __future__ import annotations

import os
from pathlib import Path

from ialcms.reading import words

ENCODING_ERRORS = "surrogateescape"


def for_ffmpeg(path: Path) -> str:
    """The address of a file for PyAV. Of a bare name, FFmpeg takes what comes before a colon for a protocol."""
    return f"file:{path}"


def printable(text: str) -> str:
    """A text on one line, in which line ends, control characters and bytes that are no UTF-8 are escaped."""
    return words.printable(text).replace("\n", "\\n").replace("\t", "\\t")


def for_matplotlib(text: str) -> str:
    """A text for a figure. Between two dollar signs, matplotlib expects a formula."""
    return printable(text).replace("$", r"\$")


def is_utf8(name: str) -> bool:
    """Whether the bytes of a name are UTF-8."""
    return words.NO_UTF8.search(name) is None


def num_bytes(name: str) -> int:
    """Of a name on disk, in an archive or in a WebDataset key."""
    return len(os.fsencode(name))


def cut_name(name: str, most_bytes: int) -> str:
    """The beginning of a name, in whole characters."""
    while num_bytes(name) > most_bytes:
        name = name[:-1]
    return name
