"""What a run prints: log lines on the terminal and in train.log, and one line that says how far training is.

On a terminal that line is a bar; elsewhere, and in train.log, it is printed at every record.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ialcms.engine import Ranks
from ialcms.monitoring.measurements import TimeLeft
from ialcms.progress import LOG_INTERVAL_S, duration
from ialcms.reading import printable

log = logging.getLogger(__name__)

_BAR = "{percentage:3.0f}%|{bar:12}| {desc}"
_BAR_LINE = {"bar": True}  # marks a log line that repeats what the bar shows


class StepLine:
    """Finished steps, time left and figures: the most important first, as a narrow terminal cuts the end off."""

    def __init__(self, steps: int, first_step: int, is_first: bool) -> None:
        """steps: of the whole run; first_step: those finished at the start; is_first: rank 0 has the bar."""
        self._steps, self._figures = steps, ""
        self._left = TimeLeft(steps)
        self._validating_since = self._last_line = 0.0
        self._bar: tqdm | None = None
        if is_first and sys.stderr.isatty():
            text = f"{first_step}/{steps}"
            self._bar = tqdm(desc=text, total=steps, initial=first_step, bar_format=_BAR, dynamic_ncols=True)

    def advance(self, step: int) -> None:
        """`step` steps are finished."""
        self._left.count(step)
        if self._bar is not None:
            self._bar.set_description_str(self._text(step), refresh=False)
            self._bar.update()

    def show(self, step: int, figures: str) -> None:
        """Figures of a record after `step` finished steps: on the bar, and as a line of the log."""
        self._figures = figures
        if self._bar is not None:
            self._bar.set_description_str(self._text(step))
        log.info("step %s", self._text(step), extra=_BAR_LINE)

    def show_validation(self, step: int, done: int, total: int) -> None:
        """How far the validation after `step` finished steps is, in mixes; a line of the log now and then."""
        now = time.monotonic()
        if done == 0:
            self._validating_since = self._last_line = now
        left = f"  {duration((now - self._validating_since) / done * (total - done))} left" if done else ""
        text = f"{done}/{total} mixes{left}"
        if self._bar is not None:
            self._bar.set_description_str(f"{step}/{self._steps}  validation: {text}")
        if now - self._last_line >= LOG_INTERVAL_S and done < total:
            self._last_line = now
            log.info("validation after step %d: %s", step, text, extra=_BAR_LINE)

    def close(self) -> None:
        """The bar stays as it is."""
        if self._bar is not None:
            self._bar.close()

    def _text(self, step: int) -> str:
        return "  ".join(filter(None, (f"{step}/{self._steps}", self._left.text(step), self._figures)))


def set_up_logging(path: Path, ranks: Ranks) -> None:
    """Log lines of rank 0 to its terminal and, appended, to the file `path`; only warnings of the other ranks."""
    root = logging.getLogger("ialcms")
    root.setLevel(logging.INFO if ranks.is_first else logging.WARNING)
    root.propagate = False
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    name = "" if ranks.is_first else f"[rank {ranks.rank}] "
    console = _Console(ranks.is_first)
    console.setFormatter(_Printable(name + "%(message)s"))
    root.addHandler(console)
    if ranks.is_first:
        file = _LogFile(path)
        file.setFormatter(_Printable("%(asctime)s %(levelname)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S"))
        root.addHandler(file)


class _Printable(logging.Formatter):
    """Names in the lines come from data: their control characters are escaped."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


class _LogFile(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """A line that a full disk does not take is still on the terminal."""


class _Console(logging.Handler):
    """Lines above the bar, if one is on the terminal; lines that repeat the bar only where there is no terminal."""

    def __init__(self, has_bar: bool) -> None:
        super().__init__()
        self._has_bar = has_bar

    def emit(self, record: logging.LogRecord) -> None:
        is_bar_line: Any = getattr(record, "bar", False)
        on_terminal = sys.stderr.isatty()
        if is_bar_line and on_terminal:
            return
        # Rank 0's bar may stand in the line: wipe it out, rank 0 draws it again.
        wipe = "\r\x1b[K" if on_terminal and not self._has_bar else ""
        with contextlib.suppress(OSError):  # a closed terminal, a pipe without a reader: training continues
            tqdm.write(wipe + self.format(record), file=sys.stderr)
