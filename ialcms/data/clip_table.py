"""The clips of a manifest as columns: NumPy arrays that many processes can map from one file.

A data set of two million clips takes some 60 bytes a clip this way; an object a clip takes ten times as much, in every
process. `table[i]` makes the object of a clip when it is asked for.

Shape letter: C clips.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter, eq
from pathlib import Path
from typing import Any, overload

import numpy as np

from ialcms.reading import shown

CHUNK = 1 << 15  # clips that are made, or checked, at a time


@dataclass(frozen=True)
class Shard:
    """A tar of a data set."""

    name: str  # file name in the manifest's folder
    num_bytes: int
    sha256: str
    num_clips: int


@dataclass(frozen=True)
class Clip:
    """Ten seconds of a video: its names, and where its bytes lie."""

    key: str  # WebDataset key, without dots; unique in the manifest
    instrument: str
    video: str
    split: str  # train, val or test
    shard: int  # index into `shards`
    offset: int  # of the first tar header, in bytes
    size: int  # bytes of all members, headers and padding included
    num_samples: int  # of the sound
    num_boxes: int  # D, rows of the .npy
    crc32: int  # of the `size` bytes


FIELDS = tuple(field.name for field in fields(Clip))
NUMBERS = ("shard", "offset", "size", "num_samples", "num_boxes", "crc32")
NAMES = ("instrument", "video", "split")  # few distinct ones, or at least fewer than clips: stored as codes
_values_of = attrgetter(*FIELDS)


@dataclass(frozen=True)
class Texts(Sequence[str]):
    """Texts one behind the other in UTF-8; lone surrogates, which stand for bytes that are no UTF-8, are kept."""

    ends: np.ndarray  # (n,) whole numbers: where each text ends in `raw`
    raw: np.ndarray  # (bytes,) uint8

    @classmethod
    def of(cls, texts: Iterable[str]) -> Texts:
        """Texts stored one behind the other."""
        encoded = [text.encode(errors="surrogatepass") for text in texts]
        ends = np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)))
        return cls(narrowed(ends), np.frombuffer(b"".join(encoded), np.uint8))

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            first, stop, step = index.indices(len(self))
            assert step == 1
            return self._between(first, stop)
        return self._between(index, index + 1)[0]

    def _between(self, first: int, stop: int) -> list[str]:
        if stop <= first:
            return []
        start = int(self.ends[first - 1]) if first else 0
        raw = self.raw[start : int(self.ends[stop - 1])].tobytes()
        cuts = [0, *(self.ends[first:stop].astype(np.int64) - start).tolist()]
        if raw.isascii():
            text = raw.decode("ascii")
            return [text[a:b] for a, b in itertools.pairwise(cuts)]
        return [raw[a:b].decode(errors="surrogatepass") for a, b in itertools.pairwise(cuts)]

    def __iter__(self) -> Iterator[str]:
        for first in range(0, len(self), CHUNK):
            yield from self._between(first, min(first + CHUNK, len(self)))


@dataclass(frozen=True, eq=False)
class ClipTable(Sequence[Clip]):
    """C clips in the manifest's order. Arrays are not to be written to; numbers may be of any unsigned type."""

    key: Texts
    codes: dict[str, np.ndarray]  # by field of NAMES: (C,) index into `names` of that field
    names: dict[str, Texts]  # by field of NAMES
    numbers: dict[str, np.ndarray]  # by field of NUMBERS: (C,)
    source: tuple[Path, str] | None = None  # file that the arrays are mapped from, and its identity

    @classmethod
    def of(cls, clips: Iterable[Clip]) -> ClipTable:
        """Raises ValueError for a value of a wrong kind."""
        if isinstance(clips, ClipTable):
            return clips
        builder = TableBuilder(FIELDS)
        waiting = iter(clips)
        while chunk := list(itertools.islice(waiting, CHUNK)):
            builder.add(list(map(_values_of, chunk)))
        return builder.build()

    def __len__(self) -> int:
        return len(self.key)

    @overload
    def __getitem__(self, index: int) -> Clip: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Clip, ...]: ...
    def __getitem__(self, index: int | slice) -> Clip | tuple[Clip, ...]:
        if isinstance(index, slice):
            return tuple(map(self.__getitem__, range(*index.indices(len(self)))))
        number = range(len(self))[index]  # IndexError, and negative ones from the end
        values: dict[str, Any] = {"key": self.key[number]}
        for field, codes in self.codes.items():
            values[field] = self.names[field][int(codes[number])]
        for field, column in self.numbers.items():
            values[field] = int(column[number])
        return Clip(**values)

    def __iter__(self) -> Iterator[Clip]:
        for first in range(0, len(self), CHUNK):
            part = slice(first, min(first + CHUNK, len(self)))
            columns: dict[str, Sequence[Any]] = {"key": self.key[part]}
            for field, codes in self.codes.items():
                chosen = codes[part].tolist()
                texts = {code: self.names[field][code] for code in set(chosen)}
                columns[field] = list(map(texts.__getitem__, chosen))
            for field, values in self.numbers.items():
                columns[field] = values[part].tolist()
            yield from itertools.starmap(Clip, zip(*(columns[field] for field in FIELDS)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(map(eq, self, other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"ClipTable of {len(self)} clips"

    def __reduce__(self) -> Any:
        if self.source is None:
            return ClipTable, (self.key, self.codes, self.names, self.numbers)
        from ialcms.data.table_file import map_again  # it imports this module

        return map_again, self.source

    def distinct(self, field: str, indices: np.ndarray | slice = slice(None)) -> list[str]:
        """Sorted names of a field of NAMES, of all clips or of some."""
        codes = self.codes[field][indices]
        is_present = np.zeros(len(self.names[field]), bool)
        is_present[codes] = True
        return sorted({self.names[field][code] for code in np.flatnonzero(is_present).tolist()})

    def is_any(self, field: str, names: Iterable[str]) -> np.ndarray:
        """(C,) bool: whether a clip has one of these names in a field of NAMES."""
        wanted = set(names)
        known = np.fromiter((name in wanted for name in self.names[field]), bool, len(self.names[field]))
        return known[self.codes[field]]


class OfSplit(Sequence[Clip]):
    """Some clips of a table, in its order; each is made when it is asked for. indices: of the clips, ascending."""

    def __init__(self, table: ClipTable, indices: np.ndarray) -> None:
        self._table, self._indices = table, indices

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> Clip: ...
    @overload
    def __getitem__(self, index: slice) -> list[Clip]: ...
    def __getitem__(self, index: int | slice) -> Clip | list[Clip]:
        if isinstance(index, slice):
            return [self._table[number] for number in self._indices[index].tolist()]
        return self._table[int(self._indices[index])]

    def __iter__(self) -> Iterator[Clip]:
        is_chosen = np.zeros(len(self._table), bool)
        is_chosen[self._indices] = True
        return itertools.compress(self._table, is_chosen)


class TableBuilder:
    """Makes a table out of rows of plain values, some thousands at a time."""

    def __init__(self, field_names: Sequence[str]) -> None:
        """field_names: of the values of a row. Raises ValueError when they are not the fields of a clip."""
        if sorted(field_names) != sorted(FIELDS):
            raise ValueError(f"clip_fields are {shown(list(field_names))}")
        self._field_names = tuple(field_names)
        self._keys: list[Texts] = []
        self._known: dict[str, dict[str, int]] = {field: {} for field in NAMES}
        self._codes: dict[str, list[np.ndarray]] = {field: [] for field in NAMES}
        self._numbers: dict[str, list[np.ndarray]] = {field: [] for field in NUMBERS}

    def add(self, rows: Sequence[Sequence[Any]]) -> None:
        """Raises ValueError for a row of another length and for a value of a wrong kind."""
        if not rows:
            return
        columns = dict(zip(self._field_names, zip(*rows, strict=True), strict=True))
        for field in FIELDS:
            _check_kind(field, columns[field], int if field in NUMBERS else str)
        self._keys.append(Texts.of(columns["key"]))
        for field, known in self._known.items():
            codes = [known.setdefault(name, len(known)) for name in columns[field]]
            self._codes[field].append(narrowed(np.array(codes, np.int64)))
        for field in NUMBERS:
            self._numbers[field].append(narrowed(np.array(columns[field], np.int64)))

    def build(self) -> ClipTable:
        codes = {field: _joined(parts) for field, parts in self._codes.items()}
        names = {field: Texts.of(known) for field, known in self._known.items()}
        numbers = {field: _joined(parts) for field, parts in self._numbers.items()}
        return ClipTable(_joined_texts(self._keys), codes, names, numbers=numbers)


def _check_kind(field: str, values: Sequence[Any], kind: type[int] | type[str]) -> None:
    if set(map(type, values)) == {kind} and (kind is str or (min(values) >= 0 and max(values) < 1 << 63)):
        return
    for value in values:
        if type(value) is not kind or (isinstance(value, int) and not 0 <= value < 1 << 63):
            raise ValueError(f"{field} of a clip is {shown(value)}")


def narrowed(values: np.ndarray) -> np.ndarray:
    """Whole numbers from 0 on, in the smallest unsigned type that has room for them."""
    return values.astype(np.min_scalar_type(int(values.max()) if len(values) else 0))


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.empty(0, np.uint8)


def _joined_texts(parts: Sequence[Texts]) -> Texts:
    starts = itertools.accumulate((len(part.raw) for part in parts), initial=0)
    ends = [part.ends.astype(np.int64) + start for part, start in zip(parts, starts)]
    return Texts(narrowed(_joined(ends)), _joined([part.raw for part in parts]))


def rows_of(clips: Iterable[Clip]) -> Iterator[tuple[Any, ...]]:
    """The values of every clip in the order of FIELDS."""
    return map(_values_of, clips)
