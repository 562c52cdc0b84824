"""Configurations as nested and as flat plain values, and the fields that must be equal where runs or ranks meet."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

from ialcms.config.fields import fields_of
from ialcms.config.schema import Config


def to_dict(config: Any) -> dict[str, Any]:
    """Nested plain values (tuples as lists), the inverse of `from_dict`."""
    return json.loads(json.dumps(dataclasses.asdict(config)))  # type: ignore[no-any-return]


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"train": {"steps": 1}} -> {"train.steps": 1}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat.update(flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value})
    return flat


def unflatten(flat: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`. Raises ValueError where a name is both a value and a section."""
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        *sections, key = name.split(".")
        target = nested
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                raise ValueError(f"'{name}': {section} is a value, not a section")
        target[key] = value
    return nested


def binding_fields(config: Config) -> dict[str, Any]:
    """The flat fields that determine what a training step computes."""
    free = {field.name for field in fields_of(Config) if field.facts.may_change}
    return {name: value for name, value in flatten(to_dict(config)).items() if name not in free}


def shared_fields(config: Config) -> dict[str, Any]:
    """The flat fields that are the same on all ranks of a job."""
    local = {field.name for field in fields_of(Config) if field.facts.may_differ}
    return {name: value for name, value in flatten(to_dict(config)).items() if name not in local}


def digest(config: Config) -> str:
    """Short hash of the binding fields: equal digests compute equal steps."""
    return hashlib.sha256(json.dumps(binding_fields(config), sort_keys=True).encode()).hexdigest()[:16]
