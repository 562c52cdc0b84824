"""A folder that one job writes to: held by its rank 0, and seen by all of them."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ialcms.engine.ranks import Ranks
from ialcms.lease import FILE_NAME, Lease, read_owner
from ialcms.refusal import SharedRefusal

# A network file system may show a new file only after a while to whoever looked before it was there.
_SEEN_WITHIN_S = 20.0
_POLL_S = 0.5


@contextmanager
def held_folder(ranks: Ranks, lease: Lease, must_be_shared: bool) -> Iterator[None]:
    """Rank 0 holds the lease inside; all ranks enter.

    ValueError on all ranks when another job holds the folder, and, with must_be_shared, when a rank does not see
    what rank 0 writes there.
    """
    with contextlib.ExitStack() as stack:
        token = ranks.from_first(lambda: stack.enter_context(lease).token)
        if must_be_shared:
            _check_shared(ranks, lease, token)
        yield


def _check_shared(ranks: Ranks, lease: Lease, token: str) -> None:
    if ranks.world_size == 1:
        return
    seen = ranks.gather_objects((_sees(lease.folder, token), platform.node()))
    blind = [f"rank {rank} on {host}" for rank, (sees, host) in enumerate(seen) if not sees]
    if blind:
        more = f" and {len(blind) - 3} more" if len(blind) > 3 else ""
        raise SharedRefusal(
            f"{lease.name} {lease.folder} is not the same on all nodes: {', '.join(blind[:3])}{more} cannot see what "
            f"rank 0 on {seen[0][1]} writes there; put it on a file system that all nodes share ({lease.option}), by "
            "an absolute path"
        )


def _sees(folder: Path, token: str) -> bool:
    deadline = time.monotonic() + _SEEN_WITHIN_S
    while True:
        owner = read_owner(folder / FILE_NAME)
        if owner is not None and owner.token == token:
            return True
        if time.monotonic() > deadline:
            return False
        for path in (*reversed(folder.absolute().parents), folder):
            with contextlib.suppress(OSError):  # reading a folder refreshes what the file system has cached of it
                os.listdir(path)
        time.sleep(_POLL_S)
