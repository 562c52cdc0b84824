"""Alternate steps on many ranks of this machine: `python -m tests.engine.many_ranks FOLDER RANKS`.

The ranks are forked from one process that has imported everything, so that many start quickly. They meet without a
launcher's agent. Rank 0 writes what `program` returns to FOLDER/0.pt, the others their checksums.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import torch

from ialcms.engine import Ranks
from tests.engine.cases.steps import few_steps


def main() -> None:
    folder, count = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = [_fork(rank, count, port, folder) for rank in range(count)]
    failed = [rank for rank, child in enumerate(children) if os.waitpid(child, 0)[1] != 0]
    sys.exit(f"ranks {failed} of {count} failed" if failed else 0)


def _fork(rank: int, count: int, port: int, folder: Path) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": str(rank)}
        os.environ |= {"LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        with Ranks(timeout_s=300) as ranks:
            result = few_steps(ranks)
        torch.save(result if rank == 0 else {"checksum": result["checksum"]}, folder / f"{rank}.pt")
        code = 0
    finally:
        os._exit(code)


if __name__ == "__main__":
    main()
