"""The process of one part; see `benchmarks.gpu.part`.

It imports what it needs, waits for a line with its setting, and measures: while the part before it runs, that is
nothing but an idle process, and the import's seconds are not lost.
"""

from __future__ import annotations

import importlib
import json
import sys

from benchmarks.gpu.setting import Recorder, Setting


def main() -> None:
    name, *arguments = sys.argv[1:]
    module = importlib.import_module(name)
    line = sys.stdin.readline()
    if not line:  # the benchmark has ended
        return
    setting = Setting(**json.loads(line))
    module.measure(setting, Recorder(setting), *arguments)


if __name__ == "__main__":
    main()
