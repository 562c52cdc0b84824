"""Stop signals of a launcher: passed on to its ranks, once to each, which then save and end."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
from collections.abc import Iterable
from pathlib import Path
from types import FrameType, TracebackType

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)
_POLL_S = 0.2


class StopRequests:
    """Use as a context manager while ranks run.

    TERM, USR1, INT or HUP (unless nohup has it ignored) reach every child process as one INT, also one that starts
    later; a second INT kills them. They get INT, because some clusters send TERM and
    USR1 to the children, too. Without any child this process ends, with exit code 1: then it still waits for the other
    nodes.
    """

    def __init__(self) -> None:
        self.asked = False
        self._over = False

    def __enter__(self) -> StopRequests:
        # Python runs handlers in the main thread between two of its instructions, so not while that waits in a library
        # for another machine. The wake-up file is written at once: a thread reads it.
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        self._wakeup_before = signal.set_wakeup_fd(self._writing)
        self._before = {number: signal.signal(number, _no_more_than_wake_up) for number in heeded(SIGNALS)}
        self._thread = threading.Thread(target=self._pass_on, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over = True
        self._thread.join()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        os.close(self._reading)
        os.close(self._writing)

    def _pass_on(self) -> None:
        informed: set[int] = set()
        while not self._over:
            ready, _, _ = select.select([self._reading], [], [], _POLL_S)
            received = os.read(self._reading, 64) if ready else b""
            at_once = (signal.SIGINT in received and self.asked) or received.count(signal.SIGINT) > 1
            self.asked = self.asked or any(number in received for number in SIGNALS)
            if not self.asked or self._over:
                continue
            processes = children()
            if not processes and not informed:
                os._exit(1)
            for process in processes:
                if at_once:
                    send(process, signal.SIGKILL)
                elif process not in informed:
                    send(process, signal.SIGINT)
                    informed.add(process)


def heeded(numbers: Iterable[signal.Signals]) -> list[signal.Signals]:
    """The signals to handle: not a hangup under nohup."""
    return [number for number in numbers if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN]


def children() -> list[int]:
    """Processes that this one has started and that have not ended."""
    parent = os.getpid()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended
            state, parent_of_it = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            if int(parent_of_it) == parent and state != "Z":
                found.append(int(folder.name))
    return found


def send(process: int, number: int) -> None:
    """Signal a process, if it is still there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, number)


def _no_more_than_wake_up(number: int, frame: FrameType | None) -> None:
    pass
