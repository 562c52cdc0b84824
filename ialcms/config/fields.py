"""What a field of the configuration states beside its default: meaning, range, choices, and what it may differ in."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

Value = TypeVar("Value")

# Beyond that, floats and whole numbers are no longer the same.
LARGEST_OF_ALL = 2**53

_FACTS = "facts"
_RESUMED_MAY_DIFFER = "a resumed run may differ in all fields of this section"


@dataclass(frozen=True)
class Facts:
    """Of one field. Numbers are never negative; those of a list obey the same range."""

    meaning: str
    may_be_zero: bool = False
    largest: int = LARGEST_OF_ALL
    choices: tuple[str, ...] = ()  # of a text; empty: any
    may_change: bool = False  # a resumed run may have another value: it does not change what a step computes
    may_differ: bool = False  # ranks of one job may have different values: where data lies, how it is read
    counts_steps: bool = False  # a number of steps of `train.reference_batch` mixes: see large_batch.py


def option(  # noqa: PLR0913 - the facts of a field, all by keyword
    default: Value,
    meaning: str,
    *,
    may_be_zero: bool = False,
    largest: int = LARGEST_OF_ALL,
    choices: tuple[str, ...] = (),
    may_change: bool = False,
    may_differ: bool = False,
    counts_steps: bool = False,
) -> Value:
    """A field with its default and its facts (see `Facts`), for the dataclasses of the schema.

    default: its type is the field's. meaning, may_be_zero, largest, choices, may_change, may_differ, counts_steps: as
    in `Facts`.
    """
    facts = Facts(
        meaning,
        may_be_zero=may_be_zero,
        largest=largest,
        choices=choices,
        may_change=may_change or may_differ,
        may_differ=may_differ,
        counts_steps=counts_steps,
    )
    return dataclasses.field(default=default, metadata={_FACTS: facts})


def section(kind: type[Value], *, may_change: bool = False) -> Value:
    """A field that is a dataclass of fields. may_change: a resumed run may have other values in all of it."""
    return dataclasses.field(default_factory=kind, metadata={_RESUMED_MAY_DIFFER: may_change})


@dataclass(frozen=True)
class Field:
    """A field by its full name."""

    name: str  # like "train.steps"
    type: Any
    default: Any
    facts: Facts


def fields_of(kind: type, prefix: str = "", may_change: bool = False) -> Iterator[Field]:
    """All fields of a schema and of its sections, in their order.

    kind: a dataclass. prefix: of the names. may_change: of the section that `kind` is.
    """
    hints = typing.get_type_hints(kind)
    for item in dataclasses.fields(kind):
        name = f"{prefix}{item.name}"
        if dataclasses.is_dataclass(hints[item.name]):
            whole_section = may_change or item.metadata[_RESUMED_MAY_DIFFER]
            yield from fields_of(hints[item.name], f"{name}.", whole_section)
        else:
            facts: Facts = item.metadata[_FACTS]
            if may_change:
                facts = dataclasses.replace(facts, may_change=True)
            yield Field(name, hints[item.name], item.default, facts=facts)
