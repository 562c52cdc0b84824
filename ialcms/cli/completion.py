"""`ialcms completion`."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from ialcms.cli.common import add_verb

SHELLS = ("bash", "zsh", "tcsh")


def add_completion(verbs: argparse._SubParsersAction, make_parser: Callable[[], argparse.ArgumentParser]) -> None:
    """make_parser: the whole program's."""

    def run(args: argparse.Namespace) -> int:
        import shtab

        print(shtab.complete(make_parser(), shell=args.shell))
        return 0

    completion = add_verb(
        verbs,
        "completion",
        run,
        help="print what makes a shell complete verbs, options and paths",
        examples=[
            'eval "$(ialcms completion bash)"     # in ~/.bashrc',
            "ialcms completion zsh > ~/.zfunc/_ialcms",
        ],
    )
    completion.add_argument("shell", choices=SHELLS, help="the shell that reads it")
