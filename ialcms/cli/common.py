"""What the verbs have in common."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

OVERRIDES = "configuration values as section.key=value, like train.steps=100 data.num_mixtures=3"


def add_verb(
    verbs: argparse._SubParsersAction, name: str, func: Callable, *, help: str, examples: Sequence[str]
) -> argparse.ArgumentParser:
    """A verb's parser.

    name: as it is typed. func: runs it, from the parsed arguments to the exit code. help: a line without a full stop.
    examples: command lines, shown at the end of `--help`.

    verbs: of the parser that the verb is added to.
    """
    parser: argparse.ArgumentParser = verbs.add_parser(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
        epilog="examples:\n" + "\n".join(f"  {example}" for example in examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(func=func)
    return parser


def add_config(parser: argparse.ArgumentParser) -> None:
    """The configuration and its overrides."""
    parser.add_argument("config", type=Path, help="YAML file, or a name of 'ialcms configs', like duet")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=OVERRIDES)


def add_protocol(parser: argparse.ArgumentParser, condition: str = "") -> None:
    """condition: when it counts, for the help."""
    parser.add_argument(
        "--protocol",
        choices=("best", "published"),
        default="best",
        help=f"{condition}how masks become stems: the best way that is known (default), or as published",
    )


def add_former_ranks(parser: argparse.ArgumentParser) -> None:
    """Let `--ranks` have the name, too, that it had before."""
    parser.add_argument("--workers", dest="ranks", type=int, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
