"""What is read is never overwritten: outputs are compared with inputs before anything is written."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def refuse_overwriting(outputs: Iterable[Path], inputs: Iterable[Path], remedy: str) -> None:
    """Raises ValueError when a file that would be written is one that is read, by whatever path or link it is named."""
    read = [path for path in inputs if path.exists()]
    for output in outputs:
        for path in read:
            if same_file(output, path):
                name = "" if str(path) == str(output) else f" (as {path})"
                raise ValueError(f"{output} would be overwritten, and it is read{name}; {remedy}")


def same_file(one: Path, other: Path) -> bool:
    """Whether two paths lead to the same file or folder: through links, '..', or as two names of it."""
    try:
        return os.path.samefile(one, other)
    except OSError:  # one of them does not exist (yet)
        return os.path.realpath(one) == os.path.realpath(other)


def lies_in(path: Path, folder: Path) -> bool:
    """Whether a path is a folder or lies in it, when links are followed."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
