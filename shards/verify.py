"""Reads shards against their manifest and says which clips and shards are bad, and what is wrong with them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import shutil
import zlib
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from ialcms.data.manifest import FILE_NAME, Clip, Manifest, Shard, read_manifest, write_manifest
from ialcms.data.members import OURS, Naming, split_name
from ialcms.files import write_whole
from ialcms.processes import map_ordered
from ialcms.progress import Progress
from ialcms.reading import Unreadable
from ialcms.reading.tar import members_of
from ialcms.reading.text import read_json, typed
from shards.check_members import check_foreign_members, check_members
from shards.shard_writer import shard_files

_READ_BYTES = 1 << 20
_RECORDS = ".verifying"


@dataclass
class ShardFindings:
    """What is wrong with one shard."""

    shard: str
    problems: list[str] = field(default_factory=list)  # of the shard itself
    bad_clips: dict[str, str] = field(default_factory=dict)  # key -> what is wrong
    num_bytes: int = 0  # as found
    sha256: str = ""  # as found

    @property
    def ok(self) -> bool:
        return not self.problems and not self.bad_clips

    def lines(self) -> list[str]:
        lines = [f"{self.shard}: {problem}" for problem in self.problems]
        return lines + [f"{self.shard}: clip {key}: {problem}" for key, problem in self.bad_clips.items()]


def verify(manifest: Manifest, jobs: int = 1) -> list[ShardFindings]:
    """Check every shard; the findings are in the manifest's order, those without a problem included.

    What is found lies in the folder `.verifying` until all is read: a run that was killed resumes with the shards that
    it had not finished, and with those that have been written since. A folder that cannot be written to is checked all
    the same, from the beginning.
    """
    clips_of: list[list[Clip]] = [[] for _ in manifest.shards]
    for clip in manifest.clips:
        clips_of[clip.shard].append(clip)
    known = {index: found for index in range(len(clips_of)) if (found := _recall(manifest, index)) is not None}
    waiting = [(index, clips) for index, clips in enumerate(clips_of) if index not in known]
    check = functools.partial(check_shard, manifest=dataclasses.replace(manifest, clips=()))
    with (
        Progress(len(manifest.clips), "verify") as progress,
        contextlib.closing(map_ordered(check, waiting, jobs)) as results,
    ):
        progress.skip(sum(len(clips_of[index]) for index in known))
        for (index, clips), found in zip(waiting, results):
            known[index] = found
            _record(manifest, index, found)
            progress.advance(len(clips))
    shutil.rmtree(manifest.folder / _RECORDS, ignore_errors=True)
    return [known[index] for index in range(len(clips_of))]


def _state(manifest: Manifest, index: int) -> list[Any]:
    """What must be unchanged for a finding to hold."""
    found = (manifest.folder / manifest.shards[index].name).stat()
    return [manifest.digest, found.st_size, found.st_mtime_ns, found.st_ino]


def _record(manifest: Manifest, index: int, found: ShardFindings) -> None:
    # OSError: the shard is missing; ValueError: its folder may not or can not be written to
    with contextlib.suppress(OSError, ValueError):
        record = {"state": _state(manifest, index), "found": dataclasses.asdict(found)}
        write_whole(manifest.folder / _RECORDS / f"{found.shard}.json", json.dumps(record).encode())


def _recall(manifest: Manifest, index: int) -> ShardFindings | None:
    """What an earlier, unfinished run found out about a shard."""
    try:
        record = read_json(manifest.folder / _RECORDS / f"{manifest.shards[index].name}.json")
        found = typed(ShardFindings, record["found"]) if record["state"] == _state(manifest, index) else None
        is_whole = found is not None and all(map(_is_text, (*found.problems, *found.bad_clips.values())))
        return found if is_whole else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def check_manifest(manifest: Manifest) -> list[str]:
    """What is wrong with the manifest in itself, and which shards of its folder it does not know."""
    problems = []
    counts = Counter(clip.key for clip in manifest.clips)
    problems += [f"clip {key} is listed {count} times" for key, count in counts.items() if count > 1]
    problems += [f"clip {key}: a WebDataset key cannot have dots" for key in counts if "." in os.path.basename(key)]
    names = Counter(shard.name for shard in manifest.shards)
    problems += [f"shard {name} is listed {count} times" for name, count in names.items() if count > 1]
    known = names.keys() | {item["shard"] for item in manifest.info.get("removed", ())}
    strays = sorted(shard_files(manifest.folder) - known)
    problems += [
        f"shard {name} is not listed: a program that reads all tars in the folder would read it, too; remove it"
        for name in strays
    ]
    return problems


def check_shard(numbered: tuple[int, list[Clip]], manifest: Manifest) -> ShardFindings:
    """Check one shard: its checksum, that clips cover it without a gap, and each clip. (index, clips) names it."""
    index, clips = numbered
    shard = manifest.shards[index]
    found = ShardFindings(shard.name)
    path = manifest.folder / shard.name
    removed = {
        (item["offset"], item["size"]) for item in manifest.info.get("removed", ()) if item["shard"] == shard.name
    }
    try:
        with open(path, "rb") as file:
            found.num_bytes = os.fstat(file.fileno()).st_size
            found.sha256 = _file_sha256(file)
            found.problems += _check_cover(shard, clips, removed, file=file)
            for clip in clips:
                file.seek(clip.offset)
                problem = check_clip(clip, file.read(clip.size), manifest.sample_rate, naming=manifest.naming)
                if problem is not None:
                    found.bad_clips[clip.key] = problem
    except OSError as error:
        found.problems.append(f"cannot be read: {error.strerror or error}")
        found.bad_clips = {clip.key: "its shard cannot be read" for clip in clips}
        return found
    if found.num_bytes != shard.num_bytes:
        found.problems.append(f"has {found.num_bytes} bytes, the manifest says {shard.num_bytes}")
    elif found.sha256 != shard.sha256:
        found.problems.append("checksum (sha256) is wrong")
    return found


def check_clip(clip: Clip, data: bytes, sample_rate: int, naming: Naming = OURS) -> str | None:
    """What is wrong with the bytes of a clip, or None.

    data: the clip's part of the shard. sample_rate: of the manifest, in Hz. naming: of the members.
    """
    if len(data) != clip.size:
        return f"{clip.size - len(data)} of its {clip.size} bytes are missing"
    if zlib.crc32(data) != clip.crc32:
        return "checksum (crc32) is wrong"
    try:
        members = _read_members(clip, data)
        if naming is OURS:
            check_members(clip, members, sample_rate)
        else:
            check_foreign_members(clip, members, sample_rate, naming=naming)
    except ValueError as error:
        return str(error)
    return None


def drop_bad_clips(manifest: Manifest, findings: list[ShardFindings]) -> Manifest:
    """Write a manifest without the bad clips; the old one is kept as manifest.json.1 (or the next free number).

    The shards stay as they are: a plain WebDataset reader still meets the bad clips in them. Shards of which no clip is
    left are no longer listed. Raises ValueError when that would be all.
    """
    bad = {key: problem for found in findings for key, problem in found.bad_clips.items()}
    num_good = Counter(clip.shard for clip in manifest.clips if clip.key not in bad)
    if not num_good:
        raise ValueError(f"no clip of {manifest.folder} is whole; copy the shards again or pack them again")
    new_index = {index: number for number, index in enumerate(sorted(num_good))}
    shards = tuple(
        Shard(findings[index].shard, findings[index].num_bytes, findings[index].sha256, num_clips=num_good[index])
        for index in new_index
    )
    clips = tuple(
        dataclasses.replace(clip, shard=new_index[clip.shard]) for clip in manifest.clips if clip.key not in bad
    )
    removed = [
        {
            "key": clip.key,
            "shard": manifest.shards[clip.shard].name,
            "offset": clip.offset,
            "size": clip.size,
            "reason": bad[clip.key],
        }
        for clip in manifest.clips
        if clip.key in bad
    ]
    info = {**manifest.info, "removed": [*manifest.info.get("removed", ()), *removed]}
    path = manifest.folder / FILE_NAME
    number = 1
    while (backup := path.with_name(f"{FILE_NAME}.{number}")).exists():
        number += 1
    write_whole(backup, path.read_bytes())
    write_manifest(dataclasses.replace(manifest, shards=shards, clips=clips, info=info))
    return read_manifest(manifest.folder)


def _file_sha256(file: BinaryIO) -> str:
    sha256 = hashlib.sha256()
    while block := file.read(_READ_BYTES):
        sha256.update(block)
    return sha256.hexdigest()


def _check_cover(shard: Shard, clips: list[Clip], removed: set[tuple[int, int]], file: BinaryIO) -> list[str]:
    """Clips must follow each other without gap or overlap, from the first byte to the end-of-archive blocks.

    clips: of the shard, by the manifest. removed: (offset, bytes) of those that were taken out of it. file: the shard.
    """
    problems = []
    if len(clips) != shard.num_clips:
        problems.append(f"manifest lists {len(clips)} clips, and says that there are {shard.num_clips}")
    end = 0
    ranges = [(clip.offset, clip.size, clip.key) for clip in clips]
    ranges += [(*removed_range, "(removed)") for removed_range in removed]
    for offset, size, key in sorted(ranges):
        if offset != end:
            what = "bytes that belong to no clip" if offset > end else "bytes that belong to two clips"
            problems.append(f"{abs(offset - end)} {what} before clip {key}")
        end = offset + size
    file.seek(end)
    if file.read().strip(b"\0"):
        problems.append("holds more than the clips of the manifest at its end")
    return problems


def _read_members(clip: Clip, data: bytes) -> dict[str, bytes]:
    """Suffix -> content."""
    members = {}
    try:
        for member in members_of(data):
            key, suffix = split_name(member.name)
            if key != clip.key or member.kind != "file" or suffix in members:
                raise ValueError(f"member {member.name} does not belong to it")
            members[suffix] = data[member.data : member.data + member.size]
    except Unreadable as error:
        raise ValueError(f"is no tar archive ({error})") from error
    return members
