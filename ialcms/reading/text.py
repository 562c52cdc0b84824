"""JSON, YAML and plain text."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, TypeVar

from ialcms.reading.words import Unreadable, bare, one_line, shown

T = TypeVar("T")
_MOST_YAML_BYTES = 4 << 20
_MOST_YAML_VALUES = 100_000
_DEEPEST = 64  # levels of nesting: no file of ours has ten


def read_text(path: Path) -> str:
    """The content of a text file in UTF-8. Raises Unreadable, and OSError where the file system refuses."""
    return decode(path.read_bytes())


def decode(raw: bytes) -> str:
    """UTF-8 with or without a mark at its beginning. Raises Unreadable."""
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unreadable(f"no text in UTF-8: {error.reason} at byte {error.start}") from error


def read_json(path: Path) -> Any:
    """The values in a JSON file. Raises Unreadable, and OSError where the file system refuses."""
    return parse_json(path.read_bytes())


def parse_json(raw: bytes | str) -> Any:
    """The values of a JSON text. Raises Unreadable."""
    text = raw if isinstance(raw, str) else decode(raw)
    try:
        return json.loads(text)
    except RecursionError as error:
        raise Unreadable("nested too deeply") from error
    except ValueError as error:  # also of numbers with thousands of digits
        raise Unreadable(one_line(error)) from error


def parse_yaml(raw: bytes | str) -> Any:
    """The plain values of a YAML text, None of an empty one. Raises Unreadable."""
    import yaml  # here: benchmarks.gpu runs without it

    if len(raw) > _MOST_YAML_BYTES:
        raise Unreadable(f"{len(raw)} bytes, more than {_MOST_YAML_BYTES}")
    text = raw if isinstance(raw, str) else decode(raw)
    try:
        values = yaml.safe_load(text)
    except RecursionError as error:
        raise Unreadable("nested too deeply") from error
    except Exception as error:  # its constructors let Value, Type, Index, Key, Attribute and Overflow errors through
        raise Unreadable(one_line(error)) from error
    if _count(values, 0, 0) > _MOST_YAML_VALUES:
        raise Unreadable(f"more than {_MOST_YAML_VALUES} values, its aliases written out")
    return values


def typed(kind: type[T], values: Any) -> T:
    """A dataclass of plain values from a mapping. Raises Unreadable for other names, or values of other kinds."""
    if not isinstance(values, dict):
        raise Unreadable(f"{shown(values)} instead of a {kind.__name__}")
    kinds = {"str": str, "int": int, "bool": bool}
    fields = {field.name: kinds.get(str(field.type)) for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name, value in values.items():
        if name not in fields or (fields[name] is not None and type(value) is not fields[name]):
            raise Unreadable(f"{bare(name)} of a {kind.__name__} is {shown(value)}")
    try:
        return kind(**values)
    except TypeError as error:
        raise Unreadable(one_line(error)) from error


def check_depth(values: Any) -> None:
    """Raises Unreadable for plain values that are nested too deeply to be written again."""
    _count(values, 0, 0)


def _count(values: Any, depth: int, known: int) -> int:
    """How many values there are, up to the limit; aliases count as often as they are met."""
    if depth > _DEEPEST:
        raise Unreadable("nested too deeply")
    known += 1
    if isinstance(values, dict):
        values = [*values, *values.values()]
    for value in values if isinstance(values, (list, tuple, set)) else ():
        if known > _MOST_YAML_VALUES:
            break
        known = _count(value, depth + 1, known)
    return known
