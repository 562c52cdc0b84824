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

    def __init__(self, total: int | None, description: str, unit: str = "clip", is_shown: bool = True) -> None:
        """total: pieces of work, None where that is not known.

        description: what is done. unit: what a piece is. is_shown: False for neither bar nor lines, as on rank 1.
        """
        from tqdm import tqdm  # here: training steps need no bar

        on_terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=total, desc=description, unit=unit, disable=not (is_shown and on_terminal), file=sys.stderr
        )
        self._prints = is_shown and not on_terminal
        self._total, self._description, self._unit = total, description, unit
        self._skipped, self._start = 0, time.monotonic()
        self._last_line = self._start
        self.done = 0  # in this run

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
        self.done += count
        now = time.monotonic()
        if self._prints and self.done and now - self._last_line > LOG_INTERVAL_S:
            self._last_line = now
            print(self._line(now, note), file=sys.stderr, flush=True)

    def _line(self, now: float, note: str) -> str:
        rate, done = self.done / (now - self._start), self._skipped + self.done
        of_total = "" if self._total is None else f"/{self._total}"
        left = "" if self._total is None else f"{duration((self._total - done) / rate)} left"
        units = f"{self._unit}es" if self._unit.endswith("x") else f"{self._unit}s"
        parts = [f"{self._description}: {done}{of_total} {units}", f"{rate:.1f}/s", left, note]
        return ", ".join(filter(None, parts))
