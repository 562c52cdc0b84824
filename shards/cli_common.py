"""What the verbs of `ialcms data` have in common."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from ialcms.names import printable
from ialcms.processes import available_cores

_SHOWN = 20  # names printed of a longer list


def add_verb(subparsers: Any, name: str, summary: str, details: str, *examples: str) -> argparse.ArgumentParser:
    """A parser with the options that all verbs have.

    summary: one line, for the list of verbs. details, examples: for the verb's own help.
    """
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.\n\n{details}",
        epilog="\n  ".join(["example:", *examples]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--jobs", type=positive, default=available_cores(), help="processes (default: one per core)")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, write nothing")
    return parser


def print_some(what: str, names: Sequence[str], where: str = "") -> None:
    """One line per name, on stderr, of a list that can be long."""
    for name in names[:_SHOWN]:
        print(f"{what}: {printable(name)}", file=sys.stderr)
    if len(names) > _SHOWN:
        print(f"{what}: {len(names) - _SHOWN} more{where}", file=sys.stderr)


def positive(text: str) -> int:
    """Type of an argument that counts something."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of at least 1")
    return int(text)
