"""The workers of one machine, alone or as one node of many: torchrun that lets the program stop in its own time.

    python -m launch.workers --workers 2 train configs/demo.yaml
    srun python -m launch.workers --nodes 2 --head n1:29500 --id 17.0 train configs/demo.yaml     # once on every node

torchrun by itself kills its workers 30 s after a signal, and USR1 kills it and leaves them behind. Here a request to
stop (TERM, USR1, INT) is handed to the workers, who save and leave at the end of a step, however long that takes. A
second INT ends them at once.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

STOPPED, REFUSED = "stopped", "refused"  # names of the notes
BAD_INPUT = 2  # the program's exit code for input that it refuses: another start would end the same way
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


@dataclass(frozen=True)
class Place:
    """Where this machine stands in the job."""

    nodes: int = 1
    node: int = 0  # this one's number; worker 0 is on node 0
    head: str = "127.0.0.1:0"  # HOST:PORT of node 0; port 0, on one node: any that is free
    run_id: str = "local"  # another one for every start


def run(arguments: Sequence[str], workers: int, place: Place | None = None, notes: Path | None = None) -> int:
    """Run `ialcms ARGUMENTS` on `workers` workers of this machine until all have ended; returns an exit code.

    0: they ended well, be it because they were asked to stop; 2: they refused their input; 1: one of them crashed.
    notes: a folder that gets the empty file `stopped` when a stop was asked for, and `refused` when the program refused
    its input: what srun returns says neither.
    """
    place = place or Place()
    with _stop_requests(notes) as stop_asked:
        # Seconds of imports, in which a request must not get lost.
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.launcher.api import LaunchConfig, elastic_launch

        logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # _explain says it in a line
        host, _, port = place.head.rpartition(":")
        config = LaunchConfig(
            min_nodes=place.nodes,
            max_nodes=place.nodes,
            nproc_per_node=workers,
            rdzv_backend="static",  # the nodes are known and numbered
            rdzv_endpoint=f"{host}:{int(port) or _free_port()}",
            rdzv_configs={"rank": place.node},
            run_id=place.run_id,
            max_restarts=0,  # a job that crashed starts again as a whole
            signals_to_handle="SIGQUIT",  # all others are handled here
        )
        if stop_asked.is_set():
            return 0
        try:
            elastic_launch(config, sys.executable)("-m", "ialcms", *arguments)
        except ChildFailedError as error:
            return _explain(error.failures, notes)
    return 0


def default_workers() -> int:
    """One worker per GPU that is ours on this machine, one without any."""
    if granted := os.environ.get("SLURM_GPUS_ON_NODE"):
        return max(1, int(granted))
    import torch

    return max(1, torch.cuda.device_count())


def _explain(failures: Mapping[int, Any], notes: Path | None) -> int:
    """Say in one line which worker failed first; the exit code."""
    if any(failure.exitcode == BAD_INPUT for failure in failures.values()):
        _leave_note(notes, REFUSED)
        return BAD_INPUT  # the program has said why
    rank, first = min(failures.items(), key=lambda item: item[1].timestamp)
    how = f"ended with exit code {first.exitcode}" if first.exitcode > 0 else f"was killed by {first.signal_name()}"
    print(f"launch: worker {rank} on {socket.gethostname()} {how}", file=sys.stderr)
    return 1


def _leave_note(notes: Path | None, name: str) -> None:
    if notes is not None:
        (notes / name).touch()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def _stop_requests(notes: Path | None) -> Iterator[threading.Event]:
    """While inside, stop signals are noted, and passed on to all workers, also to those that start after them."""
    asked, at_once, over = threading.Event(), threading.Event(), threading.Event()

    def request(number: int, frame: FrameType | None) -> None:
        if asked.is_set() and number == signal.SIGINT:
            at_once.set()
        _leave_note(notes, STOPPED)
        asked.set()

    def pass_on() -> None:
        told: set[int] = set()
        asked.wait()
        while not over.wait(0.2):
            for worker in _children():
                if at_once.is_set():
                    _send(worker, signal.SIGKILL)
                elif worker not in told:
                    _send(worker, signal.SIGTERM)  # once: to a worker, the second means "at once"
                    told.add(worker)

    before = {number: signal.signal(number, request) for number in STOP_SIGNALS}
    threading.Thread(target=pass_on, daemon=True).start()
    try:
        yield asked
    finally:
        over.set()
        for number, handler in before.items():
            signal.signal(number, handler)


def _children() -> list[int]:
    """Processes that this one has started."""
    parent = os.getpid()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has just ended
        if int(fields[1]) == parent:
            found.append(int(folder.name))
    return found


def _send(process: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended by itself
        os.kill(process, number)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m launch.workers",
        description="Run a verb of ialcms on the workers of this machine.",
        epilog="example: python -m launch.workers --workers 2 train configs/demo.yaml",
    )
    parser.add_argument("--workers", type=int, help="on this machine (default: one per GPU, or one)")
    parser.add_argument("--nodes", type=int, default=1, help="machines of the job")
    parser.add_argument(
        "--node", type=int, default=int(os.environ.get("SLURM_NODEID", 0)), help="number of this one, from 0"
    )
    parser.add_argument("--head", default=Place.head, metavar="HOST:PORT", help="of machine 0, free and reachable")
    parser.add_argument("--id", default=Place.run_id, help="of this start, the same on all machines")
    parser.add_argument("--notes", type=Path, metavar="DIR", help="folder for the notes 'stopped' and 'refused'")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="verb and arguments of ialcms")
    args = parser.parse_args()
    if not args.arguments:
        parser.error("give a verb, like: train configs/demo.yaml")
    workers = args.workers or default_workers()
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // workers)))
    return run(args.arguments, workers, Place(args.nodes, args.node, args.head, args.id), args.notes)


if __name__ == "__main__":
    sys.exit(main())
