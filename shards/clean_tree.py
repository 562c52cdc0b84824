"""Cleaned detections for a whole prepared tree."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from pathlib import Path

from ialcms.files import write_whole
from ialcms.processes import map_ordered
from ialcms.progress import Progress
from shards.clean import Cleaned, check_rule, clean_clip, read_detections
from shards.datasets import Dataset
from shards.encode import encode_array
from shards.entries import Entry, list_frames
from shards.report import Report, check_bad

REPORT_NAME = "clean_report.json"


def clean_tree(
    entries: Sequence[Entry],
    out: Path | None,
    rule: str,
    dataset: Dataset,
    jobs: int = 1,
    max_bad_fraction: float = 0.05,
) -> Report:
    """Write `<out>/<instrument>/<clip>.npy` for the clips that are left, and a report; without `out` only report.

    rule, dataset: as for `clean_clip`. jobs: processes. max_bad_fraction: of the clips that may have broken files.
    Every file is whole at any time, files of clips that are dropped now are removed, and a second run gives the same:
    a run that was killed is simply started again. Raises ValueError when too many clips have broken files.
    """
    check_rule(rule, dataset, {entry.instrument for entry in entries}, tree=entries[0].tree)
    report = Report()
    clean = functools.partial(_clean_entry, out=out, rule=rule, dataset=dataset)
    with Progress(len(entries), "clean") as progress, contextlib.closing(map_ordered(clean, entries, jobs)) as results:
        for entry, (cleaned, bad) in zip(entries, results):
            report.add(entry, cleaned, bad)
            check_bad(report.bad, len(entries), max_bad_fraction)
            progress.advance()
    if out is not None:
        report.write(out / REPORT_NAME)
    return report


def _clean_entry(entry: Entry, out: Path | None, rule: str, dataset: Dataset) -> tuple[Cleaned | None, str | None]:
    """Clean a clip, and write what is left of it if there is an `out`; also what is broken about it, if anything is."""
    cleaned, bad = None, None
    try:
        frames = list_frames(entry.frames)
        boxes = read_detections(entry.detections)
        cleaned = clean_clip(boxes, frames, entry.instrument, video=entry.video, rule=rule, dataset=dataset)
    except ValueError as error:
        bad = str(error)
    except OSError as error:
        bad = f"a file cannot be read: {error.strerror}"
    if out is not None:
        path = out / entry.instrument / f"{entry.clip}.npy"
        if cleaned is not None and cleaned.dropped is None:
            content = encode_array(cleaned.boxes)
            if not (path.is_file() and path.read_bytes() == content):
                write_whole(path, content)
        else:
            path.unlink(missing_ok=True)
    return cleaned, bad
