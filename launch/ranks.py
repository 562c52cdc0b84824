"""The ranks of one machine, alone or as one node of many: torchrun that waits until they have saved.

    python -m launch.ranks --ranks 2 train configs/demo.yaml
    srun python -m launch.ranks --nodes 2 --head n1:29500 --id 17.0 train configs/demo.yaml     # once on every node

torchrun by itself kills its ranks 30 s after a signal, and USR1 kills it and leaves them behind. Here a request to
stop (TERM, USR1, INT, HUP) is handed to the ranks, who save and end after the step, however long that takes.
A second INT ends them at once.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.stop_requests import StopRequests, children, send

ENDED, STOPPED, REFUSED, CRASHED = "ended", "stopped", "refused", "crashed"  # names of the notes
BAD_INPUT = 2  # the program's exit code for input that it refuses: another start would end the same way
# Exit codes of a rank that a stop request meets while it starts; 130 is Python's own for an interrupt.
_NOT_LISTENING_YET = {-signal.SIGTERM, -signal.SIGUSR1, -signal.SIGINT, -signal.SIGHUP, 130}
_PARENT_POLL_S = 0.5


@dataclass(frozen=True)
class Node:
    """This machine among those of the job."""

    num_nodes: int = 1
    index: int = 0  # of this one; rank 0 is on node 0
    head: str = "127.0.0.1:0"  # HOST:PORT of node 0; port 0, on one node: any that is free
    run_id: str = "local"  # of this start: another one for each

    @classmethod
    def of(cls, nodes: int, node: int | None, head: str, run_id: str) -> Node:
        """The node that the options name; ValueError for one that cannot be.

        nodes, head, run_id: as above; node: None for the number that SLURM gives this machine, if the job has several.
        On one machine SLURM's number is that of another job: a shell in an allocation has it, too.
        """
        if node is None:
            text = os.environ.get("SLURM_NODEID", "") if nodes > 1 else "0"
            if not text.isdigit():
                raise ValueError(f"--nodes is {nodes}: say which of them this one is, with --node NUMBER from 0")
            node = int(text)
        if not 0 <= node < nodes:
            raise ValueError(f"--node is {node} and --nodes {nodes}; nodes have numbers from 0 to --nodes - 1")
        host, _, port = head.rpartition(":")
        if not host or not port.isdigit() or int(port) > 65_535 or (nodes > 1 and port == "0"):
            raise ValueError(f"--head is '{head}'; give HOST:PORT of node 0, with a port that is free there")
        return cls(nodes, node, head, run_id=run_id)


def run(arguments: Sequence[str], ranks: int, node: Node | None = None, notes: Path | None = None) -> int:
    """Run `ialcms ARGUMENTS` on `ranks` ranks of this machine until all have ended; returns an exit code.

    0: they ended well; 2: they refused their input; 1: one of them crashed.
    arguments: verb and arguments of ialcms. ranks: on this machine. node: which machine of the job this is.
    notes: a folder for an empty file whose name says how it ended, as the exit code of srun does not: `ended` when all
    ranks returned 0; `stopped` when a request ended them before they could obey it; `refused`; `crashed` when one ended
    otherwise, without a request.
    """
    node = node or Node()
    with StopRequests() as stop:
        # Seconds of imports, in which a request must not get lost.
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.launcher.api import LaunchConfig, elastic_launch

        logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # _explain says it in a line
        host, _, port = node.head.rpartition(":")
        config = LaunchConfig(
            min_nodes=node.num_nodes,
            max_nodes=node.num_nodes,
            nproc_per_node=ranks,
            rdzv_backend="static",  # the nodes are known and numbered
            rdzv_endpoint=f"{host}:{int(port) or _free_port()}",
            rdzv_configs={"rank": node.index},
            run_id=node.run_id,
            max_restarts=0,  # a job that crashed starts again as a whole
            signals_to_handle="SIGQUIT",  # StopRequests has the others
        )
        try:
            elastic_launch(config, sys.executable)("-m", "ialcms", *arguments)
        except ChildFailedError as error:
            outcome, code = _judge(error.failures, stop.asked)
        else:
            outcome, code = ENDED, 0
    if notes is not None and outcome:
        (notes / outcome).touch()
    return code


def end_with_parent(notes: Path | None = None) -> None:
    """End this process and its ranks, as a crash, when the process that started it dies.

    That is SLURM's step daemon. Without this, the ranks would wait for the lost node until the time limit.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_PARENT_POLL_S)
        if notes is not None:
            (notes / CRASHED).touch()
        for rank in children():
            send(rank, signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def default_ranks() -> int:
    """One rank per GPU of the job on this machine, one without any."""
    granted = os.environ.get("SLURM_GPUS_ON_NODE", "")
    if granted.isdigit():
        return max(1, int(granted))
    import torch

    return max(1, torch.cuda.device_count())


def add_ranks(parser: argparse.ArgumentParser) -> None:
    """`--ranks`, also by the name that it had before."""
    parser.add_argument("--ranks", type=int, help="on this machine (default: one per GPU, or one)")
    parser.add_argument("--workers", dest="ranks", type=int, default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def _judge(failures: Mapping[int, Any], stop_asked: bool) -> tuple[str, int]:
    """Note ('' for none) and exit code where ranks have failed. Says in one line which, and how."""
    codes = {rank: failure.exitcode for rank, failure in sorted(failures.items())}
    if BAD_INPUT in codes.values():
        return REFUSED, BAD_INPUT  # the program has said why
    if stop_asked and not _NOT_LISTENING_YET.isdisjoint(codes.values()):
        return STOPPED, 0  # so it has nothing to save
    ended = [f"rank {rank} {_how(code)}" for rank, code in codes.items() if code != -signal.SIGTERM]  # by torchrun
    print(f"launch: on {socket.gethostname()} {', '.join(ended)}", file=sys.stderr)
    # After a request it may have crashed because another node had ended: that one leaves the note.
    return "" if stop_asked else CRASHED, 1


def _how(exit_code: int) -> str:
    return f"ended with exit code {exit_code}" if exit_code >= 0 else f"was killed by {signal.Signals(-exit_code).name}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> int:
    parser = argparse.ArgumentParser(
        prog=f"python -m {__package__}.ranks",
        description="Run a verb of ialcms on the ranks of this machine.",
        epilog=f"example: python -m {__package__}.ranks --ranks 2 train configs/demo.yaml",
    )
    add_ranks(parser)
    parser.add_argument("--nodes", type=int, default=1, help="machines of the job")
    parser.add_argument("--node", type=int, help="number of this one, from 0 (default: SLURM_NODEID)")
    parser.add_argument("--head", default=Node.head, metavar="HOST:PORT", help="of node 0, free and reachable")
    parser.add_argument("--id", default=Node.run_id, help="of this start, the same on all nodes")
    parser.add_argument("--notes", type=Path, metavar="DIR", help="folder for a note of how it ended")
    parser.add_argument("--end-with-parent", action="store_true", help="crash when the process that starts this dies")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="verb and arguments of ialcms")
    args = parser.parse_args()
    if not args.arguments:
        parser.error("give a verb, like: train configs/demo.yaml")
    try:
        node = Node.of(args.nodes, args.node, args.head, run_id=args.id)
        ranks = default_ranks() if args.ranks is None else args.ranks
        if ranks < 1:
            raise ValueError(f"--ranks is {ranks}; at least one rank is needed")
    except ValueError as error:
        print(f"launch: error: {error}", file=sys.stderr)
        return BAD_INPUT
    if args.end_with_parent:
        end_with_parent(args.notes)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // ranks)))
    return run(args.arguments, ranks, node, notes=args.notes)


if __name__ == "__main__":
    sys.exit(main())
