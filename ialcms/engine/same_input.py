"""Have all ranks the same input? A data set, list or checkpoint at the same path may be another one on some node."""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import TypeVar

from ialcms.engine.ranks import Ranks
from ialcms.refusal import SharedRefusal

Value = TypeVar("Value")


def read_same(ranks: Ranks, what: str, read: Callable[[], Value], digest: Callable[[Value], str]) -> Value:
    """What `read` returns, on all ranks, where all of them find the same.

    what: the thing and where it lies, for people; digest: equal for equal values. ValueError on all ranks when one
    of them cannot read it (its own message) and when digests differ: with the node named. All ranks call it.
    """
    value, refusal = None, ""
    try:
        value = read()
    except ValueError as error:
        if ranks.world_size == 1:
            raise
        refusal = str(error)
    if ranks.world_size == 1:
        return value  # type: ignore[return-value]
    found = ranks.gather_objects((refusal, "" if refusal else digest(value), platform.node()))  # type: ignore[arg-type]
    for rank, (reason, _, host) in enumerate(found):
        if reason:
            raise SharedRefusal(reason if all(other for other, _, _ in found) else f"rank {rank} on {host}: {reason}")
    _, first, first_host = found[0]
    for rank, (_, other, host) in enumerate(found):
        if other != first:
            raise SharedRefusal(
                f"{what} is another one on some nodes: {other} for rank {rank} on {host}, {first} for rank 0 on "
                f"{first_host}; copy the same there, or use one that all nodes share"
            )
    return value  # type: ignore[return-value]
