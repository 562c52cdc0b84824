"""A run that hangs ends, with the stacks of all ranks in files and a line that says what took too long.

A rank that is stuck keeps the others waiting in a collective forever. All of them notice it here at the same time,
write their stacks, and end. (The time-outs of torch.distributed's collectives do not do: they see neither a loader nor
a file system that hangs, and name neither the step nor the line of the program.)
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from pathlib import Path
from types import TracebackType

from ialcms.engine.ranks import Ranks

EXIT_CODE = 1
_GRACE_S = 3.0  # for the other ranks to write their stacks, before a launcher that misses one rank kills them all


class Watchdog:
    """Ends the process when `beat` is not called for `timeout_s`; use as a context manager around the loop.

        with Watchdog(config.train.timeout_s, folder.path, ranks) as watchdog:
            while ...:
                watchdog.beat(f"step {step}")
                ...

    The stacks of all threads go to FOLDER/stacks-rank<rank>.txt.
    """

    def __init__(self, timeout_s: float, folder: Path, ranks: Ranks) -> None:
        self._timeout_s, self._ranks = timeout_s, ranks
        self._path = folder / f"stacks-rank{ranks.rank}.txt"
        self._beat = threading.Condition()
        self._what, self._deadline, self._over = "", float("inf"), False
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._beat:
            self._over = True
            self._beat.notify()
        self._thread.join()

    def beat(self, what: str) -> None:
        """What begins now may take `timeout_s`; before the first beat nothing is watched."""
        with self._beat:
            first = self._deadline == float("inf")
            self._what, self._deadline = what, time.monotonic() + self._timeout_s
            if first:  # later the thread wakes up too early and waits again
                self._beat.notify()

    def _watch(self) -> None:
        with self._beat:
            while not self._over:
                left_s = self._deadline - time.monotonic()
                if left_s <= 0:
                    break
                self._beat.wait(min(left_s, threading.TIMEOUT_MAX))
            else:
                return
            what = self._what
        self._end(what)

    def _end(self, what: str) -> None:
        line = f"{what} took longer than {self._timeout_s:g} s (train.timeout_s) on rank {self._ranks.rank}"
        try:
            with open(self._path, "a") as file:
                print(time.strftime("%Y-%m-%d %H:%M:%S"), line, file=file, flush=True)
                faulthandler.dump_traceback(file, all_threads=True)
            where = f"its stacks are in {self._path}"
        except OSError as error:
            where = f"its stacks could not be written to {self._path} ({error.strerror})"
        print(f"ialcms: error: {line}; {where}", file=sys.stderr, flush=True)
        time.sleep(_GRACE_S)
        os._exit(EXIT_CODE)  # the main thread is stuck and would not handle an exception or signal
