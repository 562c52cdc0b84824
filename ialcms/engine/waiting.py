"""How long this rank has stood in collectives: waiting for the other ranks, and for the network.

Ranks go in lockstep, so by the clock their steps take equally long. What a step takes a rank by itself is the
clock's time less this: the rank that waits least is the one that the others wait for. Only calls that hold up the
host count, on CPUs (gloo). On GPUs collectives wait in the device's stream, where the host does not see it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

_total_s = 0.0


def waited_s() -> float:
    """Seconds in collectives since the process began."""
    return _total_s


@contextmanager
def waiting() -> Iterator[None]:
    """Count the time inside."""
    global _total_s
    since = time.perf_counter()
    try:
        yield
    finally:
        _total_s += time.perf_counter() - since
