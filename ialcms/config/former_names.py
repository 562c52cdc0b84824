"""Fields by the names that they had in version 0.1.0: read everywhere, with one warning each."""

from __future__ import annotations

import logging
from typing import Any

log = logging.getLogger(__name__)

FORMER_NAMES = {"data.num_mix": "data.num_mixtures", "eval.num_mix": "eval.num_sources"}
_warned: set[str] = set()


def current_name(name: str) -> str:
    """section.key by its name of today."""
    current = FORMER_NAMES.get(name, name)
    if current != name and name not in _warned:
        _warned.add(name)
        log.warning("%s is called %s now", name, current)
    return current


def with_current_names(prefix: str, values: dict[Any, Any]) -> dict[Any, Any]:
    """A section with its fields by their names of today. ValueError where one is given by both names."""
    renamed: dict[Any, Any] = {}
    for key, value in values.items():
        current = current_name(f"{prefix}{key}").removeprefix(prefix) if isinstance(key, str) else key
        if current != key and current in values:
            raise ValueError(f"{prefix}{key} and {prefix}{current} are two names of one field; leave out the first")
        renamed[current] = value
    return renamed
