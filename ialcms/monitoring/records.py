"""What a run writes down: scalars to metrics.jsonl and TensorBoard, pictures and sounds to TensorBoard. Rank 0 alone.

One curve over restarts: a resumed run drops what an earlier start wrote after the step that it resumes from.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ialcms.config import Config
from ialcms.files import write_whole
from ialcms.monitoring.tensorboard import Curves
from ialcms.monitoring.visuals import View
from ialcms.reading.text import parse_json
from ialcms.runs.run_folder import RunFolder

log = logging.getLogger(__name__)

_VALIDATION = ("validation/", "validation_by_instrument/", "best/")


class Records:
    """Curves are not worth a run: what a full disk does not take is missing from them, and training continues."""

    def __init__(self, folder: RunFolder, config: Config, first_step: int) -> None:
        """first_step: finished steps at the start."""
        self._folder, self._config = folder, config
        self._is_full = False  # whether something could not be written since the last flush
        self._curves: Curves | None = Curves(folder.tensorboard, config, first_step)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Scalars after `step` finished steps."""
        self._write(lambda curves: curves.scalars(step, values))
        # JSON has no word for infinity and no number
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        try:
            with open(self._folder.metrics, "a") as file:
                file.write(json.dumps({"step": step, "time": round(time.time(), 3), **finite}) + "\n")
        except OSError as error:
            self._report(error)

    def views(self, step: int, views: Sequence[View]) -> None:
        """Pictures and sounds after `step` finished steps."""
        self._write(lambda curves: curves.views(step, views))

    def flush(self, step: int) -> None:
        """Bring all events to the disk. Curves that could not be written resume here, if there is room again."""
        self._is_full = False
        if self._curves is None:
            try:
                self._curves = Curves(self._folder.tensorboard, self._config, step)
            except OSError as error:
                self._report(error)
        self._write(Curves.flush)

    def finish(self) -> None:
        """Mark the run as complete, where runs are compared."""
        self._write(Curves.finish)

    def close(self) -> None:
        self._write(Curves.close)

    def _write(self, write: Callable[[Curves], None]) -> None:
        if self._curves is None:
            return
        try:
            write(self._curves)
        except OSError as error:  # TensorBoard's writer does not recover from it
            self._curves = None
            self._report(error)

    def _report(self, error: OSError) -> None:
        if not self._is_full:
            log.warning(
                "curves cannot be written to %s (%s); training continues, they have a gap",
                self._folder.path,
                error.strerror,
            )
        self._is_full = True


def drop_records_after(path: Path, step: int, validates_again: bool = False) -> list[dict[str, Any]]:
    """Take the lines of later steps, and one that a kill cut off, out of a metrics.jsonl; returns those that stay.

    validates_again: the validation after `step` is still to be done, so figures of it are dropped, too.
    """
    if not path.is_file():
        return []
    lines, rows = [], []
    for line in path.read_text(errors="replace").splitlines(keepends=True):
        try:
            row = parse_json(line)
            is_kept = line.endswith("\n") and row["step"] <= step
            if is_kept and not (validates_again and row["step"] == step and _is_of_validation(row)):
                lines.append(line)
                rows.append(row)
        except (ValueError, KeyError, TypeError):
            log.warning("%s: dropped a damaged line", path)
    write_whole(path, "".join(lines))
    return rows


def _is_of_validation(row: Mapping[str, Any]) -> bool:
    return any(name.startswith(_VALIDATION) for name in row)


def last_value(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """The last record of a scalar, None without any."""
    return next((row[name] for row in reversed(rows) if name in row), None)
