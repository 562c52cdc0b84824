"""A Python in which some packages cannot be imported, as if they were not installed.

    python -m tests.blocked soundfile,av -m ialcms info configs/demo.yaml
    python -m tests.blocked soundfile,av -c 'import ialcms.training.step'

Processes that it starts find the packages again, unless they are started the same way.
"""

from __future__ import annotations

import importlib.machinery
import runpy
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any


class _Without:
    """A finder of modules that does not find some packages."""

    def __init__(self, finder: Any, names: Sequence[str]) -> None:
        self._finder, self._names = finder, frozenset(names)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        hidden = fullname.partition(".")[0] in self._names
        return None if hidden else self._finder.find_spec(fullname, path, target)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._finder, name)


def main() -> None:
    names, kind, what, *arguments = sys.argv[1:]
    sys.meta_path[:] = [_Without(finder, names.split(",")) for finder in sys.meta_path]  # type: ignore[misc]
    sys.argv = [what if kind == "-m" else kind, *arguments]
    if kind == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        exec(compile(what, "<blocked>", "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    main()
