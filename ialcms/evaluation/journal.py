"""Scores written down as they come, so that an evaluation that was killed resumes.

A folder holds a file of JSON lines for each rank: first the key of the evaluation, then a line per scored mix.
Scores under another key (another checkpoint, list or option) are not used.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from ialcms.evaluation.metrics import METRICS, MixScores
from ialcms.reading import Unreadable
from ialcms.reading.text import parse_json


def read_journal(folder: Path, key: str) -> dict[int, MixScores]:
    """Scores by number of the mix from all files of this key; lines that a kill cut off are left out."""
    found: dict[int, MixScores] = {}
    for path in sorted(folder.glob("*.jsonl")):
        entries = [_parse(line) for line in path.read_text(errors="replace").splitlines()]
        if not entries or entries[0] is None or entries[0].get("key") != key:
            continue
        for entry in entries[1:]:
            if entry is not None and _is_scored(entry):
                found[entry["mix"]] = MixScores(tuple(entry["sources"]), entry["problem"], tuple(entry.get("best", ())))
    return found


def start_journal(folder: Path, key: str, scores: dict[int, MixScores]) -> None:
    """Gather what is known so far in one file, then delete the others; one rank does so before any writes."""
    with Journal(folder, "before.new", key) as journal:
        for index, score in scores.items():
            journal.write(index, score)
    os.replace(folder / "before.new.jsonl", folder / "before.jsonl")
    for path in list_journals(folder):
        if path.name != "before.jsonl":
            path.unlink()


def end_journal(folder: Path) -> None:
    """Delete the journals, and their folder unless it holds something else."""
    for path in list_journals(folder):
        path.unlink()
    with contextlib.suppress(OSError):
        folder.rmdir()


def list_journals(folder: Path) -> Iterator[Path]:
    """The files that a `Journal` began; a folder of results may be one of the user's, with scores of another kind."""
    for path in sorted(folder.glob("*.jsonl")):
        with open(path, errors="replace") as file:
            first = _parse(file.readline())
        if first is not None and first.keys() == {"key"}:
            yield path


class Journal:
    """One rank's file: a line is handed to the system before the next mix is scored."""

    def __init__(self, folder: Path, name: str, key: str) -> None:
        self._path, self._key = folder / f"{name}.jsonl", key
        self._file: TextIO | None = None

    def __enter__(self) -> Journal:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self._path, "w")
        self._line({"key": self._key})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._file is not None
        self._file.close()

    def write(self, index: int, scores: MixScores) -> None:
        """Add the scores of the mix of an index."""
        best = {"best": scores.best} if scores.best else {}
        self._line({"mix": index, "sources": scores.sources, "problem": scores.problem, **best})

    def _line(self, values: dict[str, Any]) -> None:
        assert self._file is not None
        self._file.write(json.dumps(values) + "\n")
        self._file.flush()


def _parse(line: str) -> dict[str, Any] | None:
    try:
        entry = parse_json(line)
    except Unreadable:
        return None
    return entry if isinstance(entry, dict) else None


def _is_scored(entry: dict[str, Any]) -> bool:
    mix, sources, problem = (entry.get(name) for name in ("mix", "sources", "problem"))
    best = entry.get("best", [])
    if type(mix) is not int or not isinstance(problem, str):
        return False
    if not isinstance(sources, list) or not isinstance(best, list) or len(best) not in (0, len(sources)):
        return False
    for scores in [*sources, *best]:  # of a mix that could not be scored, not all need be there
        if not isinstance(scores, dict) or not all(type(value) is float for value in scores.values()):
            return False
        if not problem and not scores.keys() >= set(METRICS):
            return False
    return True
