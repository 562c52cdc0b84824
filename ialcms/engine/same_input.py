"""Have all ranks the same input? A data set, list or checkpoint at the same path may be another one on some node.

A manifest is read once for all ranks that see the same file: by rank 0 alone where the shards are on a file system that
all nodes share, by one rank of each node where nodes have copies of their own, or fetch theirs. The others get it by a
broadcast, in which the clips of a large data set are the name of a file of columns that each rank maps. Broadcasting
the columns themselves would give every rank a copy; mapped, all processes of a node share one, and a node reads the
file once, however many ranks it has.
"""

from __future__ import annotations

import pickle
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from ialcms.data.manifest import Manifest
from ialcms.data.remote import open_manifest, source_identity
from ialcms.engine.ranks import Ranks
from ialcms.refusal import SharedRefusal

Value = TypeVar("Value")


@dataclass(frozen=True)
class _Found:
    """What a rank has found where it was to read."""

    rank: int
    host: str
    digest: str = ""
    refusal: str = ""  # why it cannot be read


@dataclass(frozen=True)
class _Tried(Generic[Value]):
    value: Value | None  # None where it cannot be read
    found: _Found


def open_same_manifest(ranks: Ranks, location: str) -> Manifest:
    """The manifest of the shards at `location` (see `open_manifest`), on all ranks; all of them call it.

    Raises ValueError on all ranks when one of them cannot read it (its own message), and when nodes have different
    ones, with the node named.
    """
    if ranks.world_size == 1:
        return open_manifest(location)
    sources = ranks.gather_objects(source_identity(location))
    what, reads = f"the manifest of {location}", sources.index(sources[ranks.rank]) == ranks.rank
    own = _read(ranks, lambda: open_manifest(location), _digest) if reads else None
    _refuse_differences(what, ranks.gather_objects(own and own.found))
    offered = ranks.broadcast(pickle.dumps(own.value) if own and ranks.is_first else None)
    taken = own or _read(ranks, lambda: _received(offered, location), _digest)
    _refuse_differences(what, ranks.gather_objects(None if own else taken.found))
    assert taken.value is not None
    return taken.value


def _digest(manifest: Manifest) -> str:
    return manifest.digest


def _received(offered: bytes, location: str) -> Manifest:
    """Rank 0's manifest, with the cache of this machine."""
    try:
        manifest: Manifest = pickle.loads(offered)
    except ValueError:  # its columns lie where this machine does not see them
        return open_manifest(location)
    return manifest.on_this_machine()


def read_same(ranks: Ranks, what: str, read: Callable[[], Value], digest: Callable[[Value], str]) -> Value:
    """What `read` returns, on all ranks, where all of them find the same. Every rank reads; all of them call it.

    ranks: of the job. what: the thing and where it lies, for people. read: may raise ValueError. digest: equal for
    equal values. Raises ValueError on all ranks when one of them cannot read it (its own message) and when digests
    differ, with the node named.
    """
    if ranks.world_size == 1:
        return read()
    tried = _read(ranks, read, digest)
    _refuse_differences(what, ranks.gather_objects(tried.found))
    assert tried.value is not None
    return tried.value


def _read(ranks: Ranks, read: Callable[[], Value], digest: Callable[[Value], str]) -> _Tried[Value]:
    try:
        value = read()
    except ValueError as error:
        return _Tried(None, _Found(ranks.rank, platform.node(), refusal=str(error)))
    return _Tried(value, _Found(ranks.rank, platform.node(), digest(value)))


def _refuse_differences(what: str, gathered: Sequence[_Found | None]) -> None:
    """gathered: of all ranks; None of a rank that has not read. Raises SharedRefusal, the same on all ranks."""
    found = [each for each in gathered if each is not None]
    for each in found:
        if each.refusal:
            is_everywhere = all(other.refusal for other in found)
            raise SharedRefusal(each.refusal if is_everywhere else f"rank {each.rank} on {each.host}: {each.refusal}")
    for each in found:
        if each.digest != found[0].digest:
            raise SharedRefusal(
                f"{what} is another one on some nodes: {each.digest} for rank {each.rank} on {each.host}, "
                f"{found[0].digest} for rank {found[0].rank} on {found[0].host}; copy the same there, or use one that "
                "all nodes share"
            )
