"""Packing by several jobs: each packs a part of the clips, then one joins what they have made.

    pack_part(entries, Path("shards"), Part(3, 8), options, jobs=8)     # in 8 jobs, on any machines, in any order
    join_parts(entries, Path("shards"), 8, options)                     # when all have ended

Every part has its share of each split and instrument. Its shards lie in `.parts/`, beside the joined set, until
`join_parts` renames them and writes the manifest. All of it can be killed and started again.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import itertools
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ialcms.data.manifest import FILE_NAME, SPLITS, Clip, Manifest, Shard, read_manifest, write_manifest
from shards.entries import Entry, check_keys
from shards.pack import REPORT_NAME, PackOptions, pack, pack_lease, pack_plan, plan_digest
from shards.report import Report
from shards.shard_writer import refuse_strays, shard_files, shard_name

_PARTS = ".parts"


@dataclass(frozen=True)
class Part:
    """One of the parts that a data set is packed in, on several machines."""

    number: int  # from 0
    count: int  # of parts

    @classmethod
    def parse(cls, text: str) -> Part:
        """'3/8' is the fourth of eight; raises argparse's error for anything else."""
        number, _, count = text.partition("/")
        if not (number.isdigit() and count.isdigit() and int(number) < int(count)):
            raise argparse.ArgumentTypeError(f"'{text}' is not NUMBER/COUNT with the number from 0, like 3/8")
        return cls(int(number), int(count))

    def folder(self, out: Path) -> Path:
        """Where its shards lie until the parts are joined."""
        return out / _PARTS / f"{self.number}-of-{self.count}"


def pack_part(
    entries: Sequence[Entry], out: Path, part: Part, options: PackOptions | None = None, jobs: int = 1
) -> tuple[Manifest, Report]:
    """Pack a part of the clips; returns its own manifest and report, those of the whole set where that is there.

    out: of the whole set. jobs: processes. Raises ValueError where `pack` does, and when there are fewer clips than
    parts.
    """
    options = options or PackOptions()
    if (out / FILE_NAME).is_file():
        return _joined(entries, out, part.count, options=options)
    own = _deal(entries, part.count, options)[part.number]
    if not own:
        raise ValueError(f"{len(entries)} clips make no {part.count} parts; use fewer")
    return pack(own, part.folder(out), options, jobs=jobs)


def join_parts(
    entries: Sequence[Entry], out: Path, count: int, options: PackOptions | None = None
) -> tuple[Manifest, Report]:
    """Make one set of shards in `out` of the `count` parts that lie there; returns its manifest and report.

    Raises ValueError for a part that is not complete, or that was packed from other clips or with other options.
    """
    options = options or PackOptions()
    if not (out / FILE_NAME).is_file():
        with pack_lease(out):
            _join(entries, out, count, options=options)
    result = _joined(entries, out, count, options=options)
    for number in range(count):
        shutil.rmtree(Part(number, count).folder(out), ignore_errors=True)
    if (out / _PARTS).is_dir() and not any((out / _PARTS).iterdir()):
        (out / _PARTS).rmdir()
    return result


def _join(entries: Sequence[Entry], out: Path, count: int, options: PackOptions) -> None:
    """As `join_parts`; the folder is held by this process, and the set is not there yet."""
    manifests = []
    report = Report()
    for number, digest in enumerate(_digests(entries, count, options)):
        folder = Part(number, count).folder(out)
        if not (folder / FILE_NAME).is_file():
            raise ValueError(f"part {number} of {count} is not packed yet; pack it with --part {number}/{count}")
        # A join that was killed may have moved some of the shards.
        manifests.append(read_manifest(folder, check_shards=False))
        if manifests[-1].info.get("plan") != digest:
            raise ValueError(f"{folder} was packed from other clips or with other options; remove it and pack it again")
        report.merge(Report.read(folder / REPORT_NAME))
    named: dict[str, _PackedShard] = {}
    for split in SPLITS:
        packed_shards = itertools.chain.from_iterable(_packed_shards(manifest, split) for manifest in manifests)
        named |= {shard_name(split, number): packed for number, packed in enumerate(packed_shards)}
    refuse_strays(out, shard_files(out) - named.keys())
    shards: list[Shard] = []
    clips: list[Clip] = []
    for name, packed in named.items():
        _move(packed.path, out / name, packed.shard.num_bytes)
        clips += [dataclasses.replace(clip, shard=len(shards)) for clip in packed.clips]
        shards.append(dataclasses.replace(packed.shard, name=name))
    report.write(out / REPORT_NAME)
    info = {**manifests[0].info, "plan": _joined_digest(entries, count, options), "report": report.counts()}
    write_manifest(Manifest(out, manifests[0].sample_rate, tuple(shards), clips=tuple(clips), info=info))


@dataclass(frozen=True)
class _PackedShard:
    """A shard of a part, as the part's manifest lists it."""

    path: Path
    shard: Shard
    clips: list[Clip]


def _packed_shards(manifest: Manifest, split: str) -> list[_PackedShard]:
    clips: list[list[Clip]] = [[] for _ in manifest.shards]
    for clip in manifest.clips:
        clips[clip.shard].append(clip)
    return [
        _PackedShard(manifest.folder / shard.name, shard, own)
        for shard, own in zip(manifest.shards, clips)
        if own[0].split == split
    ]


def _joined(entries: Sequence[Entry], out: Path, count: int, options: PackOptions) -> tuple[Manifest, Report]:
    """The set that is there; ValueError when it is not that of these clips, options and parts."""
    manifest = read_manifest(out)
    if manifest.info.get("plan") != _joined_digest(entries, count, options):
        raise ValueError(f"{out} holds other shards ({FILE_NAME}); give another folder or remove them first")
    return manifest, Report.read(out / REPORT_NAME)


def _deal(entries: Sequence[Entry], count: int, options: PackOptions) -> list[list[Entry]]:
    """The clips of every part: each `count`-th of a split's mixed order, so that all parts have all instruments."""
    check_keys(entries)
    orders = pack_plan(entries, options.seed).values()
    parts = []
    for number in range(count):
        parts.append(list(itertools.chain.from_iterable(order[number::count] for order in orders)))
    return parts


def _digests(entries: Sequence[Entry], count: int, options: PackOptions) -> list[str]:
    """What `pack` notes in the manifest of every part."""
    parts = _deal(entries, count, options)
    return [plan_digest(pack_plan(own, options.seed), options) for own in parts]


def _joined_digest(entries: Sequence[Entry], count: int, options: PackOptions) -> str:
    return hashlib.sha256("".join(_digests(entries, count, options)).encode()).hexdigest()[:16]


def _move(source: Path, target: Path, num_bytes: int) -> None:
    if source.is_file() and source.stat().st_size == num_bytes:
        os.replace(source, target)
    elif not (target.is_file() and target.stat().st_size == num_bytes):
        raise ValueError(f"shard {source} is missing or has another size than its manifest says; pack that part again")
