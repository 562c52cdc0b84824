"""How a command ends whose input cannot be used: one line, printed by one rank, and exit code 2."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
import time
from pathlib import Path

from ialcms.launched import launched
from ialcms.names import printable

BAD_INPUT = 2  # exit code
_RANK_0_FIRST_S = 15


def refuse(message: str, known_to_rank_0: bool = False, program: str = "ialcms") -> int:
    """Print the line about input that cannot be used; returns the exit code.

    known_to_rank_0: rank 0 finds the same fault and reports it. program: that the line begins with.
    """
    rank = launched_rank()
    if rank:
        # As a rule all ranks find the same fault, and torchrun ends all as soon as one has ended: let the first one
        # speak. A rank that is still there then has found a fault of its own, as where its machine lacks a file.
        time.sleep(_RANK_0_FIRST_S)
        if known_to_rank_0:
            return BAD_INPUT
        message = f"rank {rank} on {platform.node()}: {message}"
    line = f"{program}: error: {printable(message)}"
    print(line, file=sys.stderr)
    _report_to_torchrun(line)
    return BAD_INPUT


def _report_to_torchrun(line: str) -> None:
    """Write the line where torchrun looks for a rank's error: it ends its own traceback with it.

    The format is that of `torch.distributed.elastic.multiprocessing.errors`.
    """
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        error = {"message": {"message": line, "extraInfo": {"timestamp": str(int(time.time()))}}}
        with contextlib.suppress(OSError):  # the line has been printed
            Path(path).write_text(json.dumps(error))


def launched_rank() -> int:
    """This rank's number; 0 where the environment does not make it one of many."""
    try:
        return launched().rank
    except ValueError:
        return 0
