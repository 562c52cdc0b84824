"""Start a verb of the program on the workers of this machine, by torchrun.

python -m launch.local --workers 2 train configs/demo.yaml train.steps=100
python -m launch.local evaluate runs/demo           # as many workers as GPUs, one without any
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


def torchrun_command(arguments: Sequence[str], workers: int) -> list[str]:
    """The command that runs `ialcms ARGUMENTS` on `workers` workers of this machine."""
    return [
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={workers}",
        "-m", "ialcms", *arguments,
    ]  # fmt: skip


def run(arguments: Sequence[str], workers: int) -> int:
    """Run `ialcms ARGUMENTS` on `workers` workers and wait; returns its exit code, torchrun's where it crashed.

    One worker runs without torchrun. The cores are shared out among the workers unless OMP_NUM_THREADS says otherwise.
    """
    if workers < 1:
        raise ValueError(f"--workers is {workers}; at least one worker is needed")
    threads = max(1, (os.cpu_count() or 1) // workers)
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
    command = [sys.executable, "-m", "ialcms", *arguments] if workers == 1 else torchrun_command(arguments, workers)
    with subprocess.Popen(command, env=environment) as process:

        def forward(number: int, frame: FrameType | None) -> None:
            process.send_signal(number)

        # Ctrl-C reaches the whole foreground group by itself: wait for the workers to save what they have.
        before = {signal.SIGTERM: signal.signal(signal.SIGTERM, forward)}
        before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            return process.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def default_workers() -> int:
    """One worker per GPU, one on a machine without."""
    import torch  # takes seconds to import: only where it is asked

    return max(1, torch.cuda.device_count())


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m launch.local",
        description="Start a verb of ialcms on the workers of this machine.",
        epilog="example: python -m launch.local --workers 2 train configs/demo.yaml",
    )
    parser.add_argument("--workers", type=int, help="number of workers (default: one per GPU, or one)")
    parser.add_argument("--dry-run", action="store_true", help="print the command, run nothing")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="verb and arguments of ialcms")
    args = parser.parse_args()
    if not args.arguments:
        parser.error("give a verb, like: train configs/demo.yaml")
    workers = default_workers() if args.workers is None else args.workers
    if args.dry_run:
        print(shlex.join(torchrun_command(args.arguments, workers)))
        return 0
    try:
        return run(args.arguments, workers)
    except ValueError as error:
        print(f"launch: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
