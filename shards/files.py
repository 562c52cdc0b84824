"""Files that are seen whole or not at all."""

from __future__ import annotations

import contextlib
import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

# In a prepared tree, beside its folders: what was cut from which video and how, and what the detector was.
CLIPS_REPORT = "clips.json"
DETECTOR_OPTIONS = "detect_options.json"


@contextlib.contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """A text file to read, line ends as they are. Raises ValueError, while it is read, when it is not UTF-8 and when
    the csv module cannot take it apart.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            yield file
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 ({error.reason}); save it as such") from error
    except csv.Error as error:
        raise ValueError(f"{path} is no CSV file ({error}); look for a quote that is left open") from error


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, flush it to the disk and rename it. Raises ValueError when that fails."""
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ValueError(
            f"cannot write {path}: {error.strerror or error}; make room or choose another folder"
        ) from error


def claim(path: Path, options: dict[str, Any], what: str) -> None:
    """Write the options that a folder's pieces are made with, or check that they are those of an earlier run."""
    content = json.dumps(options, indent=1).encode()
    if path.is_file() and path.read_bytes() != content:
        raise ValueError(f"{what} made with other options; give another folder, or the options in {path}")
    write_whole(path, content)
