"""How long this rank has waited in collectives, for the other ranks and for the network.

Ranks run in lockstep, so the duration of a step is the same on all. Less the time of waiting it is the rank's
computation: the rank that waits least is the slowest. Only calls that block the host count, those on CPUs (gloo). On
GPUs collectives wait in the device's stream, where the host does not see it.
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
