"""`python -m ialcms`, `torchrun -m ialcms` and the command `ialcms`."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys

from ialcms.cli import main


def run() -> None:
    """Run the command line and end the process.

    torch does not end gloo's threads where DDP has used the group. One of these that releases a tensor while Python
    takes itself apart aborts the process ("terminate called without an active exception"), after the work is done: seen
    on busy machines. So one of several ranks ends without taking Python apart.
    """
    code = main()
    if os.environ.get("WORLD_SIZE", "1") == "1":
        sys.exit(code)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    run()
