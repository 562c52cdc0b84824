"""Files that are seen whole or not at all, and text files that users bring.

Everything that the project writes under its final name is written under a temporary name beside it, flushed to the
disk, and renamed: a kill, a full disk or a second reader never sees half of it.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from ialcms.names import ENCODING_ERRORS

# In a prepared tree, beside its folders: what was cut from which video and how, and what the detector was.
CLIPS_REPORT = "clips.json"
DETECTOR_OPTIONS = "detect_options.json"


def temporary_name(path: Path, suffix: str = "") -> Path:
    """Hidden, beside `path`; `suffix` for writers that choose the format by it."""
    return path.with_name(f".{path.name}.tmp{suffix}")


@contextlib.contextmanager
def replacing(path: Path, suffix: str = "") -> Iterator[Path]:
    """A temporary name for a file or folder that is renamed to `path` once it is whole.

    A file is flushed to the disk before it is renamed. What was written is removed where the body fails. A folder
    replaces an older folder, which is deleted first, as only files can be replaced by renaming; a file never does.
    suffix: of the temporary name, for writers that choose the format by it. Raises OSError as the system does.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path, suffix)
    remove(temporary)  # of a run that was killed
    try:
        yield temporary
        if temporary.is_file():
            _flush(temporary)
        if path.is_dir() and temporary.is_dir():
            shutil.rmtree(path)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            remove(temporary)
        raise


def check_writable(path: Path) -> None:
    """ValueError where a file cannot be written. For use before long work; leaves nothing."""
    try:
        if path.is_dir():
            raise ValueError(f"{path} is a folder; name a file in it, like {path / 'result.pt'}")
        if path.exists() and not path.is_file():  # a rename could replace it
            raise ValueError(f"{path} is a device or a pipe; name a file")
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        with tempfile.TemporaryDirectory(dir=folder, prefix=".") as probe:
            for name in path.absolute().relative_to(folder).parts:  # a file system refuses some names, too
                (Path(probe) / name).touch()
    except OSError as error:
        raise ValueError(f"{path} cannot be written ({error.strerror}); give a path that can") from error


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file whole or not at all, text as UTF-8 (with the bytes of names that are none). Raises ValueError when
    that fails.
    """
    data = content.encode(errors=ENCODING_ERRORS) if isinstance(content, str) else content
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        raise ValueError(
            f"cannot write {path}: {error.strerror or error}; make room or choose another folder"
        ) from error


def remove(path: Path) -> None:
    """Delete a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def flush_folder(folder: Path) -> None:
    """Flush a folder to the disk: a rename alone does not make its new names durable."""
    _flush(folder)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def open_text(path: Path, encoding_errors: str = "strict") -> Iterator[TextIO]:
    """A text file to read, line ends as they are. Raises ValueError, while it is read, when it is not UTF-8 and when
    the csv module cannot take it apart.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig", errors=encoding_errors) as file:
            yield file
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 ({error.reason}); save it as such") from error
    except csv.Error as error:
        raise ValueError(f"{path} is no CSV file ({error}); look for a quote that is left open") from error


def claim(path: Path, options: dict[str, Any], what: str) -> None:
    """Write the options that a folder's pieces are made with, or check that they are those of an earlier run."""
    content = json.dumps(options, indent=1).encode()
    if path.is_file() and path.read_bytes() != content:
        raise ValueError(f"{what} made with other options; give another folder, or the options in {path}")
    write_whole(path, content)
