"""`manifest.columns`: the columns of a manifest in a binary file, which processes map instead of reading.

    8 bytes       IALCOLS1
    32 bytes      SHA-256 of all that follows
    8 bytes       length of the header, little endian
    header        JSON: SHA-256 of the manifest.json that it was made from, sample rate, info, shards, and of every
                  array its type, its first byte after the header, and its length
    arrays        each at a multiple of 64 bytes

`manifest.json` is what counts: the columns are used where they were made from the very file that lies beside them, and
made anew where they were not. They may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import mmap
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ialcms.data.cache_folder import cached_columns
from ialcms.data.clip_table import NAMES, NUMBERS, ClipTable, Texts
from ialcms.files import replacing
from ialcms.reading import Unreadable
from ialcms.reading.text import parse_json

SUFFIX = ".columns"
_MAGIC = b"IALCOLS1"
_ALIGNMENT = 64
_START_BYTES = len(_MAGIC) + 32 + 8
_LONGEST_HEADER = 1 << 28
_TYPES = ("|u1", "<u2", "<u4", "<u8")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MappedColumns:
    """What a file of columns holds. `values`: sample_rate, info and shards, as in manifest.json."""

    table: ClipTable
    values: dict[str, Any]
    manifest_sha256: str


def write_columns(path: Path, table: ClipTable, values: dict[str, Any], manifest_sha256: str) -> None:
    """Write the columns whole: under a temporary name, flushed, renamed. Raises OSError as the system does.

    values: sample_rate, info and shards, as in manifest.json. manifest_sha256: of that file's bytes.

    path: of the new file. table: of the clips.
    """
    arrays = _arrays_of(table)
    layout: dict[str, list[Any]] = {}
    position = 0
    for name, array in arrays.items():
        layout[name] = [array.dtype.newbyteorder("<").str, position, len(array)]
        position += array.nbytes + -array.nbytes % _ALIGNMENT
    header = json.dumps({"manifest_sha256": manifest_sha256, **values, "arrays": layout}).encode()
    header += b" " * (-(_START_BYTES + len(header)) % _ALIGNMENT)
    sha256 = hashlib.sha256()
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(bytes(_START_BYTES - 8))
        for piece in (len(header).to_bytes(8, "little"), header, *map(_padded, arrays.values())):
            file.write(piece)
            sha256.update(piece)
        file.seek(0)
        file.write(_MAGIC + sha256.digest())


def _arrays_of(table: ClipTable) -> dict[str, np.ndarray]:
    arrays = {"key.ends": table.key.ends, "key.raw": table.key.raw}
    for field in NAMES:
        names = table.names[field]
        arrays |= {f"{field}.codes": table.codes[field], f"{field}.ends": names.ends, f"{field}.raw": names.raw}
    return arrays | table.numbers


def _padded(array: np.ndarray) -> bytes:
    raw = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    return raw + bytes(-len(raw) % _ALIGNMENT)


def map_columns(path: Path, check_sum: bool = True) -> MappedColumns:
    """Map a file of columns into memory, read only: its pages are shared by all processes of a machine.

    check_sum: compare the checksum, which reads the whole file once. Raises Unreadable for a damaged file, and OSError
    as the system does. What the values mean is not checked.
    """
    with open(path, "rb") as file:
        header, start = _read_header(file)
        view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    if check_sum and hashlib.sha256(view[_START_BYTES - 8 :]).digest() != view[len(_MAGIC) : _START_BYTES - 8]:
        raise Unreadable("its checksum is wrong")
    try:
        arrays = {str(name): _array(view[start:], *position) for name, position in header["arrays"].items()}
        codes = {field: arrays[f"{field}.codes"] for field in NAMES}
        names = {field: Texts(arrays[f"{field}.ends"], arrays[f"{field}.raw"]) for field in NAMES}
        numbers = {field: arrays[field] for field in NUMBERS}
        table = ClipTable(
            key=Texts(arrays["key.ends"], arrays["key.raw"]),
            codes=codes,
            names=names,
            numbers=numbers,
            source=(path.absolute(), str(header["manifest_sha256"])),
        )
        values = {name: header[name] for name in ("sample_rate", "info", "shards")}
    except (KeyError, TypeError) as error:
        raise Unreadable(f"its header is damaged ({type(error).__name__})") from error
    _check_lengths(table)
    return MappedColumns(table, values, str(header["manifest_sha256"]))


def map_again(path: Path, manifest_sha256: str) -> ClipTable:
    """The table of a file that another process has checked; where that file is not here, of the one in the cache.

    Raises ValueError when there is none, or one of another manifest.
    """
    for candidate in (path, *cached_columns(manifest_sha256)):
        if sha256_of_columns(candidate) == manifest_sha256:
            return map_columns(candidate, check_sum=False).table
    raise ValueError(f"{path} is gone, or was replaced by that of another manifest; start again")


def sha256_of_columns(path: Path) -> str:
    """SHA-256 of the manifest.json that a file of columns was made from; '' where there is no such file."""
    try:
        with open(path, "rb") as file:
            return str(_read_header(file)[0]["manifest_sha256"])
    except Unreadable as error:
        log.warning("%s cannot be used (%s): reading manifest.json instead", path, error)
    except OSError:
        pass
    return ""


def _read_header(file: BinaryIO) -> tuple[dict[str, Any], int]:
    """The header, and where the arrays begin."""
    start = file.read(_START_BYTES)
    length = int.from_bytes(start[-8:], "little")
    if not start.startswith(_MAGIC) or not 0 < length < min(_LONGEST_HEADER, os.fstat(file.fileno()).st_size):
        raise Unreadable("it is no file of columns")
    header = parse_json(file.read(length))
    kinds = {"manifest_sha256": str, "arrays": dict}
    if not isinstance(header, dict) or any(not isinstance(header.get(name), kind) for name, kind in kinds.items()):
        raise Unreadable("its header is damaged")
    return header, _START_BYTES + length


def _array(view: memoryview, kind: str, first: int, count: int) -> np.ndarray:
    """`count` values of a NumPy type `kind` from byte `first` of `view`. Raises Unreadable where they are not there."""
    if kind not in _TYPES or type(first) is not int or type(count) is not int or not (first >= 0 and count >= 0):
        raise Unreadable("its header describes an array that is none")
    dtype = np.dtype(kind)
    end = first + count * dtype.itemsize
    if first % _ALIGNMENT or end > len(view):
        raise Unreadable("it is cut off")
    return np.frombuffer(view[first:end], dtype)


def _check_lengths(table: ClipTable) -> None:
    """Columns must be equally long, codes must have names, and texts must lie one behind the other."""
    columns = [*table.codes.values(), *table.numbers.values()]
    if any(len(column) != len(table) for column in columns):
        raise Unreadable("its columns have different lengths")
    for text in (table.key, *table.names.values()):
        last = int(text.ends[-1]) if len(text) else 0
        if text.raw.dtype != np.uint8 or last != len(text.raw) or (text.ends[1:] < text.ends[:-1]).any():
            raise Unreadable("its texts do not lie one behind the other")
    for field, codes in table.codes.items():
        if len(codes) and int(codes.max()) >= len(table.names[field]):
            raise Unreadable(f"a code of {field} has no name")
