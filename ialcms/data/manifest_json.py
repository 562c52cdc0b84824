"""`manifest.json`, a piece at a time: one clip a line, so that two million of them need not be in memory at once."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ialcms.data.clip_table import CHUNK, FIELDS, ClipTable, Shard, TableBuilder, rows_of
from ialcms.reading import Unreadable
from ialcms.reading.text import parse_json

FORMAT = "ialcms-shards"
VERSION = 1
_CLIPS_BEGIN, _CLIPS_END, _END = b' "clips": [\n', b" ]\n", b"}\n"
_BLOCK = 1 << 22  # bytes of lines that are parsed at a time


@dataclass(frozen=True)
class ParsedManifest:
    """What a manifest.json holds."""

    values: dict[str, Any]  # all but the clips
    table: ClipTable
    sha256: str  # of the file


class OtherFormat(Exception):
    """The file is JSON, but no manifest of ours, or one of another version."""

    def __init__(self, values: Any) -> None:
        super().__init__()
        is_manifest = isinstance(values, dict) and values.get("format") == FORMAT
        self.version = values.get("version") if is_manifest else None  # None: no manifest at all


class _OtherLayout(Exception):
    """The file is not laid out in lines as `json_pieces` writes it; it may be JSON all the same."""


def json_pieces(values: dict[str, Any], table: ClipTable) -> Iterator[str]:
    """The text of a manifest, in pieces. values: sample_rate, info and shards."""
    head = {"format": FORMAT, "version": VERSION, **values, "clip_fields": list(FIELDS)}
    yield json.dumps(head, indent=1)[:-2] + ',\n "clips": [\n'
    rows = map(json.dumps, map(list, rows_of(table)))
    separator = "  "
    while lines := list(itertools.islice(rows, CHUNK)):
        yield separator + ",\n  ".join(lines)
        separator = ",\n  "
    yield "\n ]\n}\n"


def header_values(sample_rate: int, info: dict[str, Any], shards: tuple[Shard, ...]) -> dict[str, Any]:
    """What a manifest says beside its clips, as plain values."""
    return {"sample_rate": sample_rate, "info": info, "shards": [dataclasses.asdict(shard) for shard in shards]}


def parse_manifest(path: Path) -> ParsedManifest:
    """Read `manifest.json`.

    Raises Unreadable for what is no JSON, OtherFormat for another format or version, ValueError, KeyError and TypeError
    for a damaged manifest, and OSError as the system does. Files of one clip a line are parsed some
    thousand lines at a time, all others at once; both give the same values.
    """
    with open(path, "rb") as file:
        try:
            return _parse_lines(file)
        except _OtherLayout:
            file.seek(0)
            raw = file.read()
    values = parse_json(raw)
    _check_format(values)
    builder = TableBuilder(values["clip_fields"])
    rows = iter(values.pop("clips"))
    while chunk := list(itertools.islice(rows, CHUNK)):
        builder.add(chunk)
    return ParsedManifest(values, builder.build(), hashlib.sha256(raw).hexdigest())


def _check_format(values: Any) -> None:
    if not isinstance(values, dict) or values.get("format") != FORMAT or values.get("version") != VERSION:
        raise OtherFormat(values)


def _parse_lines(file: BinaryIO) -> ParsedManifest:
    sha256 = hashlib.sha256()
    head: list[bytes] = []
    for line in file:
        sha256.update(line)
        if line == _CLIPS_BEGIN:
            break
        head.append(line)
    else:
        raise _OtherLayout
    values = _parsed(b"".join(head) + b' "clips": []}')
    _check_format(values)
    del values["clips"]
    builder = TableBuilder(values["clip_fields"])
    is_last = False
    while not is_last:
        lines = file.readlines(_BLOCK)
        sha256.update(b"".join(lines))
        if is_last := _CLIPS_END in lines[-2:]:
            if lines[-2:] != [_CLIPS_END, _END] or file.read(1):
                raise _OtherLayout
            del lines[-2:]
        block = b"".join(lines)
        if not is_last:
            if not block.endswith(b",\n"):  # also at the end of a file that was cut off
                raise _OtherLayout
            block = block[:-2]
        builder.add(_parsed(b"[" + block + b"]"))
    return ParsedManifest(values, builder.build(), sha256.hexdigest())


def _parsed(text: bytes) -> Any:
    try:
        return parse_json(text)
    except Unreadable as error:
        raise _OtherLayout from error
