"""Start a verb of the program on the ranks of this machine.

    python -m launch.local --ranks 2 train configs/demo.yaml train.steps=100
    python -m launch.local evaluate runs/demo           # as many ranks as GPUs, one without any

Ctrl-C, TERM, or closing the terminal lets the ranks save at the end of a step; started again they resume from there.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import FrameType

from launch.ranks import add_ranks, default_ranks
from launch.stop_requests import heeded


def command(arguments: Sequence[str], ranks: int) -> list[str]:
    """The command that runs `ialcms ARGUMENTS` on `ranks` ranks of this machine; one runs without torchrun."""
    if ranks < 1:
        raise ValueError(f"--ranks is {ranks}; at least one rank is needed")
    launcher = [] if ranks == 1 else ["-m", f"{__package__}.ranks", "--ranks", str(ranks)]
    program = ["-m", "ialcms"] if ranks == 1 else []
    return [sys.executable, *launcher, *program, *arguments]


def run(arguments: Sequence[str], ranks: int) -> int:
    """Run `ialcms ARGUMENTS` on `ranks` ranks and wait; returns 0, 2 for refused input, 1 after a crash."""
    with subprocess.Popen(command(arguments, ranks), env=_without_other_launchers()) as process:

        def forward(number: int, frame: FrameType | None) -> None:
            process.send_signal(number)

        # Ctrl-C reaches the whole foreground group by itself: wait for the ranks to save what they have.
        before = {number: signal.signal(number, forward) for number in heeded((signal.SIGTERM, signal.SIGHUP))}
        before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            return process.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _without_other_launchers() -> dict[str, str]:
    """The environment without what makes a process a rank of another job, as in a shell of an allocation."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "SLURM_PROCID", "SLURM_NODEID")
    starts = ("TORCHELASTIC_", "OMPI_COMM_WORLD_", "MV2_COMM_WORLD_", "PMI_", "PMIX_")
    return {name: value for name, value in os.environ.items() if name not in names and not name.startswith(starts)}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog=f"python -m {__package__}.local",
        description="Start a verb of ialcms on the ranks of this machine.",
        epilog=f"example: python -m {__package__}.local --ranks 2 train configs/demo.yaml",
    )
    add_ranks(parser)
    parser.add_argument("--dry-run", action="store_true", help="print the command, run nothing")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="verb and arguments of ialcms")
    args = parser.parse_args()
    if not args.arguments:
        parser.error("give a verb, like: train configs/demo.yaml")
    ranks = default_ranks() if args.ranks is None else args.ranks
    try:
        if args.dry_run:
            print(shlex.join(command(args.arguments, ranks)))
            return 0
        return run(args.arguments, ranks)
    except ValueError as error:
        print(f"launch: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
