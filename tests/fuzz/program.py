"""Changed files of every kind, one after the other: `python -m tests.fuzz.program COUNT [SEED [KIND]]`.

Prints a line for each fault: whatever is raised that is not a ValueError in one line, takes too long, or asks for more
memory than there is (the process may take a bounded amount). A crash of the process shows as the input it was at.
"""

from __future__ import annotations

import faulthandler
import logging
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import torch

from tests.fuzz.readers import Material, kinds

MEMORY = 2 << 30  # bytes beyond what the process has when it starts
SECONDS = 20  # for one input


class TooLong(BaseException):
    pass


def run(count: int, seed: int, chosen: str, keep: bool = False) -> int:
    """Number of faults."""
    faulthandler.enable()
    warnings.simplefilter("ignore")
    logging.disable()
    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, _too_long)
    faults = 0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        table = kinds(Material(root / "whole"))
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        for kind, (put, readers) in table.items():
            if chosen not in kind:
                continue
            start = time.process_time()
            for number in range(count):
                out = root / "out"
                out.mkdir()
                put(random.Random(f"{seed} {kind} {number}"), out)
                for reader in readers:
                    fault = _fault_of(reader, out)
                    if fault:
                        faults += 1
                        print(f"{kind} {number}: {fault}", flush=True)
                        if keep:
                            shutil.copytree(out, Path("fuzz") / f"{kind} {number}", dirs_exist_ok=True)
                shutil.rmtree(out)
            print(f"{kind}: {time.process_time() - start:.1f} s", file=sys.stderr, flush=True)
    return faults


def _fault_of(reader, out: Path) -> str | None:
    signal.alarm(SECONDS)
    try:
        reader(out)
    except TooLong:
        return f"took more than {SECONDS} s"
    except ValueError as error:
        text = str(error)
        if type(error) not in (ValueError,) and type(error).__module__ in ("builtins", "json.decoder"):
            return f"{type(error).__name__}: {text[:100]}"
        return None if text and "\n" not in text and len(text) < 3_000 else f"not one line: {text[:300]!r}"
    except BaseException as error:
        position = traceback.extract_tb(error.__traceback__)[-1]
        ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "site-packages" not in frame.filename]
        where = ours[-1] if ours else position
        return f"{type(error).__name__} at {where.filename.rpartition('/')[2]}:{where.lineno}: {str(error)[:150]!r}"
    finally:
        signal.alarm(0)
    return None


def _too_long(*_: object) -> None:
    raise TooLong


if __name__ == "__main__":
    arguments = sys.argv[1:]
    count, seed = int(arguments[0]), int(arguments[1]) if len(arguments) > 1 else 0
    sys.exit(run(count, seed, arguments[2] if len(arguments) > 2 else "") > 0)
