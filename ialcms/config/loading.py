"""YAML files and overrides to a checked configuration."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ialcms.config.checks import check, nearest
from ialcms.config.former_names import current_name, with_current_names
from ialcms.config.large_batch import at_global_batch
from ialcms.config.schema import Config
from ialcms.own_files import find_own, own_names
from ialcms.reading import Unreadable, bare, shown
from ialcms.reading.text import parse_yaml


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file, apply `section.key=value` overrides (values in YAML syntax) and check the result.

    path: a file, or the name of one of the program's own, like `duet`.
    Raises ValueError with one line that names the file or field and the remedy.
    """
    path = find_own(path, "configs", ".yaml")
    if not path.is_file():
        known = ", ".join(own_names("configs", ".yaml"))
        raise ValueError(f"configuration {path} does not exist; give a YAML file or one of the names {known}")
    try:
        values = parse_yaml(path.read_bytes()) or {}
    except OSError as error:
        raise ValueError(f"configuration {path} cannot be read ({error.strerror}); make it readable") from error
    except Unreadable as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a mapping of sections, like configs/demo.yaml")
    for section, fields in values.items():
        values[section] = with_current_names(f"{section}.", fields) if isinstance(fields, dict) else fields
    for override in overrides:
        name, separator, text = override.partition("=")
        if not separator:
            raise ValueError(f"'{override}' is not an override; write it as section.key=value, like train.steps=100")
        target = values
        *sections, key = current_name(name.strip()).split(".")
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                raise ValueError(f"'{name}': {section} is a value, not a section")
        target[key] = _parse_override(name.strip(), text)
    return from_dict(values, source=str(path))


def from_dict(values: dict[str, Any], source: str = "configuration") -> Config:
    """Build and check a Config from nested plain values, as YAML and JSON give them.

    Numbers of steps come out for `train.global_batch` (see large_batch.py).
    """
    config: Config = _build(Config, values, "", source=source)
    check(config)
    return at_global_batch(config)


def _parse_override(name: str, text: str) -> Any:
    """A value in YAML, but for texts, which are taken as they stand: '12:30' and 'Bach: Duo' are names of folders."""
    is_quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    if _kind_of(name) is str and not is_quoted:
        return text
    try:
        return parse_yaml(text)
    except Unreadable:
        return text


def _kind_of(name: str) -> Any:
    """The type of a field like 'data.shards'; None where there is none."""
    kind: Any = Config
    for key in name.split("."):
        kind = typing.get_type_hints(kind).get(key) if dataclasses.is_dataclass(kind) else None
    return kind


def _build(kind: Any, values: Any, prefix: str, source: str) -> Any:
    """A dataclass `kind` from a section of YAML.

    prefix: full name of the section with a dot, source: both for messages.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{source}: '{prefix.rstrip('.')}' must be a section of key: value pairs, not {shown(values)}")
    hints = typing.get_type_hints(kind)
    built = {}
    for key, value in with_current_names(prefix, values).items():
        if not isinstance(key, str) or key not in hints:
            where = f"in section '{prefix.rstrip('.')}'" if prefix else "at the top level"
            hint = nearest(bare(key), hints) or f"; known: {', '.join(hints)}"
            raise ValueError(f"{source}: unknown key '{prefix}{bare(key)}' {where}{hint}")
        hinted = hints[key]
        name = prefix + key
        built[key] = (
            _build(hinted, value, f"{name}.", source=source)
            if dataclasses.is_dataclass(hinted)
            else _convert(hinted, value, name, source=source)
        )
    return kind(**built)


def _convert(kind: Any, value: Any, name: str, source: str) -> Any:
    """Check a YAML value against a field's type; ints pass as floats, YAML's '1e-4' (a string there) too.

    kind: the type. name, source: of the field and of the file, for messages.
    """
    origin = typing.get_origin(kind)
    if origin is tuple:
        kinds = typing.get_args(kind)
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"{source}: {name} is {shown(value)}; it must be a list like [a, b]")
        if kinds[-1] is Ellipsis:
            kinds = (kinds[0],) * len(value)
        if len(kinds) != len(value):
            raise ValueError(f"{source}: {name} has {len(value)} values; it needs {len(kinds)}")
        return tuple(_convert(k, v, name, source=source) for k, v in zip(kinds, value))
    if origin in (types.UnionType, typing.Union):
        return _convert_union(kind, value, name, source=source)
    if isinstance(value, int) and value.bit_length() > 63:
        raise ValueError(f"{source}: {name} is {shown(value)}; give a number that 64 bits can hold")
    if kind is float and not isinstance(value, bool):
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            return number
    elif kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    elif isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    raise ValueError(f"{source}: {name} is {shown(value)}; it must be {_TYPE_NAMES.get(kind, kind)}")


def _convert_union(kind: Any, value: Any, name: str, source: str) -> Any:
    """Of a type and words that may be given instead, like `int | Literal["auto"]`.

    kind: the union. name, source: of the field and of the file, for messages.
    """
    first, *others = typing.get_args(kind)
    words = [word for other in others for word in typing.get_args(other)]
    if value in words:
        return value
    try:
        return _convert(first, value, name, source=source)
    except ValueError as error:
        hint = nearest(value, words) if isinstance(value, str) else ""
        raise ValueError(f"{error} or {' or '.join(words)}{hint}") from None


_TYPE_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
