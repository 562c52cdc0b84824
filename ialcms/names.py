"""Names of files: any that the file system allows, as other programs and people are to get them.

Python holds bytes of a name that are no UTF-8 as surrogates. JSON escapes these by itself; text files of ours are
written and read with `ENCODING_ERRORS`, so that the name's own bytes are in them.
"""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

ENCODING_ERRORS = "surrogateescape"
_ESCAPED = ("Cc", "Cs", "Zl", "Zp")  # control characters, surrogates, ends of lines and paragraphs


def for_ffmpeg(path: Path) -> str:
    """The address of a file for PyAV. Of a bare name, FFmpeg takes what comes before a colon for a protocol."""
    return f"file:{path}"


def printable(text: str) -> str:
    """A text on one line, in which line ends, control characters and bytes that are no UTF-8 are escaped."""
    return "".join(ascii(sign)[1:-1] if unicodedata.category(sign) in _ESCAPED else sign for sign in text)


def for_matplotlib(text: str) -> str:
    """A text for a figure. Between two dollar signs, matplotlib expects a formula."""
    return printable(text).replace("$", r"\$")


def is_utf8(name: str) -> bool:
    return not any("\ud800" <= sign <= "\udfff" for sign in name)


def num_bytes(name: str) -> int:
    """Of a name on disk, in an archive or in a WebDataset key."""
    return len(os.fsencode(name))


def cut_name(name: str, most_bytes: int) -> str:
    """The beginning of a name, in whole characters."""
    while num_bytes(name) > most_bytes:
        name = name[:-1]
    return name
