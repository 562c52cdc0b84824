"""How far a piece of work is: a bar on a terminal, plain lines in a log file. How durations are written."""

from __future__ import annotations

import sys
import time
from types import TracebackType

LOG_INTERVAL_S = 15.0


def duration(seconds: float) -> str:
    """Hours, minutes, seconds, like 0:02:07: the one form of durations in what the program prints."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


class Progress:
    """A bar with rate and remaining time on a terminal, a plain line now and then in a log file."""

    def __init__(self, total: int, description: str, unit: str = "clip") -> None:
        from tqdm import tqdm  # here: training steps need no bar

        self._bar = tqdm(total=total, desc=description, unit=unit, disable=not sys.stderr.isatty(), file=sys.stderr)
        self._total, self._description, self._unit = total, description, unit
        self._done, self._skipped, self._start = 0, 0, time.monotonic()
        self._last_line = self._start

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def skip(self, count: int) -> None:
        """Pieces that an earlier run has finished: they do not count for the rate."""
        self._skipped += count
        if not self._bar.disable:
            self._bar.initial += count
        self._bar.update(count)

    def advance(self, count: int = 1, note: str = "") -> None:
        """`count` more pieces are finished. note: figures to show behind the rate."""
        if note and not self._bar.disable:
            self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(count)
        self._done += count
        now = time.monotonic()
        if self._bar.disable and self._done and now - self._last_line > LOG_INTERVAL_S:
            self._last_line = now
            rate = self._done / (now - self._start)
            done = self._skipped + self._done
            left = duration((self._total - done) / rate)
            parts = [f"{self._description}: {done}/{self._total} {self._unit}s", f"{rate:.1f}/s", f"{left} left", note]
            print(", ".join(filter(None, parts)), file=sys.stderr, flush=True)
