"""Requests to stop: signals and a stop file only set a flag; the ranks agree on it later."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import sys
import time
from pathlib import Path
from types import FrameType, TracebackType

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
_OUTPUTS = (1, 2)  # descriptors
_POLL_S = 1.0
_ANSWER = b"stopping: the run saves and ends after this step; Ctrl-C ends it at once\n"
_CLEAR_LINE = b"\r\x1b[K"  # of the bar
_PR_SET_PDEATHSIG = 1  # from <sys/prctl.h>


def end_with_agent() -> None:
    """Let the kernel end this rank when the torchrun agent that started it dies (Linux).

    torchrun starts each rank in a new session. Without this, the ranks of a killed agent would train on, keep their
    GPUs, and write into the run's folder beside the ranks of the agent that takes over.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ and sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if _is_orphan():  # the agent died before the call above
            sys.exit(1)


def _is_orphan() -> bool:
    """Whether the process that started this one has died: then init has it, unless init is the agent (a container)."""
    return os.getppid() == 1 and not re.search(rb"python|torch", Path("/proc/1/cmdline").read_bytes())


class StopRequest:
    """Use as a context manager around the training loop.

    TERM, INT, USR1 or HUP (a closed terminal, unless nohup has it ignored), or a file named `stop` in the run's folder,
    ask for a checkpoint and an end at the next step boundary, or the next mix of a validation. A second INT ends the
    process at once; the last whole checkpoint stays. A second one of the others does not: a signal to all processes of
    a job reaches a rank twice, once through its launcher.
    """

    def __init__(self, stop_file: Path, answers: bool = False) -> None:
        """stop_file: the file that asks. answers: whether this rank says on the terminal that it was asked."""
        self._file, self._answers = stop_file, answers
        self._signalled = False
        self._polled = time.monotonic()
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        self._terminals = [output for output in _OUTPUTS if os.isatty(output)]
        for number in _SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._request)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            repeats = self._signalled and number != signal.SIGINT  # one may still come while the process ends
            signal.signal(number, signal.SIG_IGN if repeats else handler)  # type: ignore[arg-type]

    def _request(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
        if number == signal.SIGHUP:
            self._leave_terminal()
        self._notice()

    def _notice(self) -> None:
        if self._answers and not self._signalled:
            with contextlib.suppress(OSError):  # nobody reads it
                # not by logging: a handler may interrupt a line that is being written
                os.write(_OUTPUTS[1], _CLEAR_LINE * os.isatty(_OUTPUTS[1]) + _ANSWER)
        self._signalled = True

    def _leave_terminal(self) -> None:
        """Writing to a terminal that is gone would end the process before it has saved."""
        for output in self._terminals:
            if not os.isatty(output):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, output)
                os.close(null)

    @property
    def requested(self) -> bool:
        """Whether this rank was asked; looks for the file once a second."""
        if not self._signalled and time.monotonic() - self._polled > _POLL_S:
            self._polled = time.monotonic()
            if self._file.exists():
                self._notice()
        return self._signalled
