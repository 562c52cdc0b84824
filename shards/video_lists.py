"""Lists of videos as the data sets publish them -> which seconds of which video show which instrument.

music      MUSIC, MUSIC-21, MUSIC-duet: JSON {"videos": {"<instrument>": ["<id>", ...]}}; duets have two names
vggsound   CSV rows id,start second,label,split
audioset   CSV rows id,start second,end second,"label id,label id,..." after comment lines

A first line that names the columns is passed over.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ialcms.data.manifest import is_file_name
from ialcms.files import open_text
from ialcms.reading import shown
from ialcms.reading.text import parse_json

FORMATS = ("music", "vggsound", "audioset")
_START_COLUMN = ("start", "second", "time", "begin", "onset")  # words in the name of the second column
DUET_SIGN = "+"  # joins the instruments of a duet to a folder name


@dataclass(frozen=True)
class Listed:
    """A video, or a segment of one, that shows an instrument."""

    video: str
    instrument: str
    start_s: float | None = None  # None: the whole video
    split: str | None = None  # as published

    @property
    def segment_key(self) -> tuple[str, int | None]:
        """What names its clips."""
        return self.video, None if self.start_s is None else int(self.start_s)


@dataclass(frozen=True)
class VideoList:
    """The videos that a list names."""

    entries: list[Listed]
    num_other: int  # rows without an instrument that is asked for
    num_several: int  # rows with several of them


def read_list(path: Path, kind: str | None = None, labels: Mapping[str, str] | None = None) -> VideoList:
    """Read a list; `kind` is one of FORMATS, or None to guess it from the file.

    `labels` maps the labels of VGGSound and the label ids of AudioSet to instruments; rows without one of these, and
    rows with several, are left out and counted. Raises ValueError naming file, line and remedy.
    """
    if not path.is_file():
        raise ValueError(f"list of videos {path} does not exist; download it from the data set's page")
    kind = kind or _guess(path)
    if kind == "music":
        return _read_music(path)
    if kind not in FORMATS:
        raise ValueError(f"--list-format '{kind}': choose {', '.join(FORMATS)}")
    if not labels:
        raise ValueError(
            f"{path} names videos by label: say which label is which instrument under 'labels' in a data set's YAML "
            "file (--dataset vggsound, --dataset audioset, or one of your own)"
        )
    selected = _select(_vggsound_rows(path) if kind == "vggsound" else _audioset_rows(path), labels)
    return VideoList(_checked(selected.entries, path), selected.num_other, selected.num_several)


def without_several(entries: Sequence[Listed]) -> tuple[list[Listed], dict[str, list[str]]]:
    """The entries whose video, or segment of one, is listed under one instrument; and the instruments of the others.

    A clip has its name from the video alone, and what shows several instruments is no solo of either.
    """
    instruments: dict[tuple[str, int | None], set[str]] = {}
    for entry in entries:
        instruments.setdefault(entry.segment_key, set()).add(entry.instrument)
    kept = [entry for entry in entries if len(instruments[entry.segment_key]) == 1]
    several = {video: sorted(names) for (video, _), names in instruments.items() if len(names) > 1}
    return kept, several


def _guess(path: Path) -> str:
    if path.suffix.lower() == ".json":
        return "music"
    row = next((row for _, row in _rows(path)), None)
    if row is not None and len(row) > 2:
        return "audioset" if _is_number(row[2]) else "vggsound"  # the third column is the end, or a label
    with open_text(path) as file:
        return "audioset" if file.readline().startswith("#") else "vggsound"


def _read_music(path: Path) -> VideoList:
    with open_text(path) as file:
        text = file.read()
    named: list[tuple[str, str]] = []
    try:
        for name, ids in parse_json(text)["videos"].items():
            named += [(str(name), str(video)) for video in ids]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f'{path} is not of the form {{"videos": {{"<instrument>": ["<id>", ...]}}}}') from error
    entries = [Listed(video, DUET_SIGN.join(name.split()), None) for name, video in named]
    return VideoList(_checked(entries, path), 0, 0)


@dataclass(frozen=True)
class _Row:
    video: str
    start_s: float
    labels: list[str]
    split: str | None = None


def _vggsound_rows(path: Path) -> Iterator[_Row]:
    for where, row in _rows(path):
        if len(row) != 4 or not _is_number(row[1]):
            raise ValueError(
                f"{where}: a row is id,start,label,split with the start in seconds, not {shown(','.join(row))}"
            )
        video, start, label, split = row
        yield _Row(video, float(start), [label.strip()], split=split.strip())


def _audioset_rows(path: Path) -> Iterator[_Row]:
    for where, row in _rows(path):
        if len(row) != 4 or not _is_number(row[1]):
            raise ValueError(f'{where}: a row is id,start,end,"label ids" in seconds, not {shown(",".join(row))}')
        video, start, _, labels = row
        yield _Row(video, float(start), labels.split(","))


def _rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    """(file and line for messages, row) without comments and a header, which names the second column."""
    with open_text(path) as file:
        rows = csv.reader(file, skipinitialspace=True)
        is_first = True
        for row in rows:
            if not row or row[0].startswith("#"):
                continue
            is_header = is_first and len(row) > 1 and any(word in row[1].lower() for word in _START_COLUMN)
            is_first = False
            if not is_header:
                yield f"{path}, line {rows.line_num}", row


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _select(rows: Iterator[_Row], labels: Mapping[str, str]) -> VideoList:
    entries: list[Listed] = []
    num_other = num_several = 0
    for row in rows:
        instruments = {labels[name] for name in row.labels if name in labels}
        if len(instruments) == 1:
            entries.append(Listed(row.video, instruments.pop(), row.start_s, split=row.split))
        elif instruments:
            num_several += 1
        else:
            num_other += 1
    return VideoList(entries, num_other, num_several)


def _checked(entries: list[Listed], path: Path) -> list[Listed]:
    """Without repeated rows. Ids and instruments become names of files: none may lead out of its folder."""
    for entry in entries:
        if entry.start_s is not None and not 0 <= entry.start_s < math.inf:
            raise ValueError(f"{path}: '{entry.video}' starts at second {entry.start_s}; correct the list")
        for name in (entry.video, entry.instrument):
            if not is_file_name(f"{name}.json") or name.startswith("."):
                raise ValueError(f"{path}: {shown(name)} cannot be the name of a file; correct the list")
    return list(dict.fromkeys(entries))
