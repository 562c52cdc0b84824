"""Reading a tar of any WebDataset writer from front to back: its clips, where they lie, and what is wrong with them."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from ialcms.data.members import split_name
from ialcms.reading import Unreadable
from ialcms.reading.tar import Member, iter_members
from shards.foreign_clips import FoundClip, Reading, examine

_LARGEST_CLIP = 1 << 32  # bytes of one key's members, which are all in memory at a time
_COMPRESSED = {b"\x1f\x8b": "gunzip", b"\x28\xb5\x2f\xfd": "unzstd", b"BZh": "bunzip2", b"\xfd7zXZ": "unxz"}


@dataclass(frozen=True)
class FoundShard:
    """What a tar holds."""

    name: str
    num_bytes: int = 0
    sha256: str = ""
    clips: list[FoundClip] = field(default_factory=list)
    problem: str = ""  # where its reading ended too early, and why


def scan_tar(path: Path, reading: Reading) -> FoundShard:
    """Read a tar from front to back. What is wrong with it, or with its clips, is in the result."""
    try:
        with open(path, "rb") as file:
            return _scan(file, path.name, reading)
    except OSError as error:
        return FoundShard(path.name, problem=_refused(error))


def _scan(file: BinaryIO, name: str, reading: Reading) -> FoundShard:
    """Read the open tar of a file name. reading: how clips are recognised. OSError where it has no size."""
    num_bytes = os.fstat(file.fileno()).st_size
    clips: list[FoundClip] = []
    digest, problem = "", ""

    def read(offset: int, length: int) -> bytes:
        file.seek(offset)
        return file.read(length)

    try:
        start = file.read(8)
        for magic, program in _COMPRESSED.items():
            if start.startswith(magic):
                problem = f"is compressed, so that clips cannot be read one by one; decompress it ({program})"
                return FoundShard(name, num_bytes, problem=problem)
        sha256, hashed = hashlib.sha256(), 0
        try:
            for group in _groups(iter_members(read, 0, num_bytes)):
                offset, end = group[0].offset, group[-1].end
                if end - offset > _LARGEST_CLIP:
                    raise Unreadable(f"the members of '{group[0].name}' have {end - offset} bytes")
                raw = read(offset, end - offset)
                _hash_up_to(file, sha256, start=hashed, end=offset)
                sha256.update(raw)
                hashed = offset + len(raw)
                clips.append(_examined(group, raw, name, reading=reading))
        except Unreadable as error:
            problem = f"is no whole tar: {error}"
        _hash_up_to(file, sha256, start=hashed, end=num_bytes)
        digest = sha256.hexdigest()
    except OSError as error:  # in the middle: the clips before it are whole
        problem = _refused(error)
    return FoundShard(name, num_bytes, digest, clips=clips, problem=problem)


def _refused(error: OSError) -> str:
    return f"cannot be read: {error.strerror or error}"


def _hash_up_to(file: BinaryIO, sha256: Any, start: int, end: int) -> None:
    """Let `sha256` take in the bytes of the file from `start` up to `end`."""
    file.seek(start)
    while start < end and (block := file.read(min(1 << 20, end - start))):
        sha256.update(block)
        start += len(block)


def _groups(members: Iterator[Member]) -> Iterator[list[Member]]:
    """Runs of members with one key; a member that is no file is a run by itself.

    Where the tar breaks off, what came before is a run too: it may be whole.
    """
    group: list[Member] = []
    broken: Unreadable | None = None
    try:
        for member in members:
            if group and (member.kind != "file" or group[0].kind != "file" or _key(member) != _key(group[0])):
                yield group
                group = []
            group.append(member)
    except Unreadable as error:
        broken = error
    if group:
        yield group
    if broken is not None:
        raise broken


def _key(member: Member) -> str:
    return split_name(member.name)[0]


def _examined(group: list[Member], raw: bytes, shard: str, reading: Reading) -> FoundClip:
    """The clip of a group of members. raw: the bytes of all of them, headers too. shard: the tar's name."""
    first = group[0]
    found = FoundClip(_key(first), first.offset, len(raw), crc32=zlib.crc32(raw))
    members: dict[str, bytes] = {}
    try:
        if first.kind != "file":
            raise ValueError(f"a {first.kind}, not a file" if first.kind != "other" else "no plain file")
        for member in group:
            suffix, start = split_name(member.name)[1], member.data - first.offset
            if suffix in members:
                raise ValueError(f"it has two members .{suffix}")
            members[suffix] = raw[start : start + member.size]
        return dataclasses.replace(found, **examine(found, shard, members, reading=reading))
    except ValueError as error:
        return dataclasses.replace(found, problem=str(error))
