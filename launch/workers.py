"""The workers of one machine, alone or as one node of many: torchrun that lets the program stop in its own time.

    python -m launch.workers --workers 2 train configs/demo.yaml
    srun python -m launch.workers --nodes 2 --head n1:29500 --id 17.0 train configs/demo.yaml     # on every node

torchrun by itself kills its workers 30 s after a signal, and dies of USR1 without them. Here TERM, USR1 and INT are
handed to the workers, who save and leave at the end of a step, however long that takes; a second INT ends them at once.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

STOPPED, REFUSED = "stopped", "refused"  # names of the notes
BAD_INPUT = 2  # the program's exit code for input that it refuses: another start would end the same way
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


@dataclass(frozen=True)
class Place:
    """Where this machine stands in the job."""

    nodes: int = 1
    node: int = 0  # this one's number
    head: str = "127.0.0.1:0"  # HOST:PORT that all nodes reach; port 0: any free one (one node only)
    run_id: str = "local"


def run(arguments: Sequence[str], workers: int, place: Place, notes: Path | None = None) -> int:
    """Run `ialcms ARGUMENTS` on `workers` workers of this machine until all have ended; returns an exit code.

    0: they ended well, also by a stop request; 2: they refused their input; 1: one of them crashed.
    notes: an existing folder that gets the empty file `stopped` when a stop was asked for and `refused` when the
    program refused its input, because srun's own exit code does not tell.
    """
    with _stop_requests(notes) as stop:
        # seconds of import, in which a request to stop must not get lost
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.launcher.api import LaunchConfig, elastic_launch

        logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # we say in a line what it says in 30
        host, _, port = place.head.rpartition(":")
        config = LaunchConfig(
            min_nodes=place.nodes,
            max_nodes=place.nodes,
            nproc_per_node=workers,
            rdzv_backend="static",  # the nodes are known and numbered: worker 0 is on the first
            rdzv_endpoint=f"{host}:{port if int(port) else _free_port()}",
            rdzv_configs={"rank": place.node},
            run_id=place.run_id,
            max_restarts=0,  # a crashed job starts afresh, as a whole
            signals_to_handle="SIGQUIT",  # the others are ours
        )
        if stop.is_set():
            return 0
        try:
            elastic_launch(config, sys.executable)("-m", "ialcms", *arguments)
        except ChildFailedError as error:
            return _explain(error.failures, stop.is_set(), notes)
        finally:
            stop.clear()
    return 0


def _explain(failures: dict, stopping: bool, notes: Path | None) -> int:
    """One line about the worker that failed first; the exit code."""
    rank, first = min(failures.items(), key=lambda item: item[1].timestamp)
    if BAD_INPUT in {failure.exitcode for failure in failures.values()}:
        _note(notes, REFUSED)  # the program has said why
        return BAD_INPUT
    how = f"ended with exit code {first.exitcode}" if first.exitcode > 0 else f"was killed by {first.signal_name()}"
    when = "while it was asked to stop" if stopping else "and with it the run"
    print(f"launch: worker {rank} on {socket.gethostname()} {how}, {when}", file=sys.stderr)
    return 1


def _note(notes: Path | None, name: str) -> None:
    if notes is not None:
        (notes / name).touch()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
