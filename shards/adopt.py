"""A manifest for tars that have none: of another WebDataset writer, or ours when the manifest was lost.

    tars = find_tars(["data/music/train-{000000..000099}.tar"])
    manifest, unusable = adopt(tars, Reading(fields={"instrument": "label"}), jobs=8)

Every tar is read once, from front to back, and stays as it is. What was found lies in the folder `.adopting` until all
are read: a run that was killed resumes with the tars that it had not finished.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import glob
import hashlib
import itertools
import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from braceexpand import braceexpand

from ialcms.data.manifest import FILE_NAME, SPLITS, Clip, Manifest, Shard, is_file_name, read_manifest, write_manifest
from ialcms.data.members import MEMBERS
from ialcms.files import write_whole
from ialcms.processes import map_ordered
from ialcms.progress import Progress
from ialcms.reading import one_line
from ialcms.reading.text import read_json, typed
from shards.foreign_clips import FoundClip, Reading, split_of_name
from shards.scan_tar import FoundShard, scan_tar

_RECORDS = ".adopting"
_MOST_TARS = 1_000_000


@dataclass(frozen=True)
class Unusable:
    """A tar or a clip that is left out, and why."""

    shard: str
    key: str  # of the clip, '' for what concerns the tar
    problem: str

    def __str__(self) -> str:
        return f"{self.shard}: clip {self.key}: {self.problem}" if self.key else f"{self.shard}: {self.problem}"


def find_tars(names: Sequence[str]) -> list[Path]:
    """The tars of folders, file names, brace patterns like 'train-{000000..000099}.tar', and glob patterns.

    Raises ValueError where there are none, where a pattern names one that is not there, and for several folders: the
    manifest lies beside its shards.
    """
    found: dict[Path, None] = {}
    for name in names:
        found |= dict.fromkeys(sorted(Path(name).glob("*.tar"), key=_order) if Path(name).is_dir() else _expand(name))
    if not found:
        raise ValueError(
            f"no tar in {', '.join(names)}; name a folder of tars, or a pattern like 'train-{{00..12}}.tar'"
        )
    for path in found:
        if not path.is_file():
            raise ValueError(f"tar {path} does not exist; correct the pattern")
    folders = sorted({str(path.parent) for path in found})
    if len(folders) > 1:
        raise ValueError(f"tars lie in {folders[0]} and {folders[1]}; move them into one folder, beside its manifest")
    return list(found)


def _order(path: Path) -> tuple[int, str]:
    """As 'pack' writes them: training first, then validation, test, others; a lost manifest is restored as it was."""
    split = split_of_name(path.name)
    return SPLITS.index(split) if split else len(SPLITS), path.name


def _expand(name: str) -> list[Path]:
    spans = [int(end) - int(start) for start, end in re.findall(r"\{(-?\d{1,18})\.\.(-?\d{1,18})\b", name)]
    if any(abs(span) > _MOST_TARS for span in spans):
        raise ValueError(f"'{name}' names more than {_MOST_TARS} tars; correct the pattern")
    try:
        names = list(itertools.islice(braceexpand(name), _MOST_TARS + 1))
    except (ValueError, MemoryError) as error:
        raise ValueError(f"'{name}' is no pattern of names ({one_line(error)})") from error
    if len(names) > _MOST_TARS:
        raise ValueError(f"'{name}' names more than {_MOST_TARS} tars; correct the pattern")
    paths: list[Path] = []
    for each in names:
        matches = sorted(glob.glob(each)) if glob.has_magic(each) and not Path(each).exists() else [each]
        paths += map(Path, matches)
    return paths


def adopt(tars: Sequence[Path], reading: Reading, jobs: int = 1) -> tuple[Manifest, list[Unusable]]:
    """Read the tars and write `manifest.json` beside them; returns it and what cannot be used.

    A set that was adopted with the same options is left as it is. Raises ValueError for another manifest in the folder,
    and where no clip can be used.
    """
    folder, names = tars[0].parent, [path.name for path in tars]
    digest = _digest(names, reading)
    if (folder / FILE_NAME).exists():
        return _adopted_already(folder, digest)
    if (folder / ".packing").is_dir():
        raise ValueError(f"{folder} is being packed; end that first: run the same 'ialcms data pack' again")
    shards = [shard for _, shard in zip(tars, _scan_all(tars, reading, digest, jobs=jobs))]
    manifest, unusable = _join(folder, shards, digest, reading=reading)
    write_manifest(manifest)
    shutil.rmtree(folder / _RECORDS, ignore_errors=True)
    return read_manifest(folder), unusable


def _adopted_already(folder: Path, digest: str) -> tuple[Manifest, list[Unusable]]:
    manifest = read_manifest(folder)
    if manifest.info.get("adopted") != digest:
        raise ValueError(f"{folder} has a {FILE_NAME} already; move it away to adopt the tars anew")
    removed = manifest.info.get("removed", [])
    return manifest, [Unusable(item["shard"], str(item.get("key")), str(item.get("reason"))) for item in removed]


def _digest(names: Sequence[str], reading: Reading) -> str:
    values = [sorted(names), dataclasses.asdict(reading)]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _scan_all(tars: Sequence[Path], reading: Reading, digest: str, jobs: int) -> Iterator[FoundShard]:
    """In the order of the tars; what an earlier run has read is taken from its records.

    reading: how clips are recognised. digest: of the tars and of `reading`; records of another one do not count. jobs:
    processes.
    """
    known = {path: found for path in tars if (found := _recall(path, digest)) is not None}
    waiting = [path for path in tars if path not in known]
    scan = functools.partial(scan_tar, reading=reading)
    with (
        Progress(len(tars), "adopt", "tar") as progress,
        contextlib.closing(map_ordered(scan, waiting, jobs)) as results,
    ):
        progress.skip(len(known))
        for path in tars:
            found = known.pop(path, None)
            if found is None:
                found = next(results)
                _record(path, digest, found)
                progress.advance()
            yield found


def _state(path: Path, digest: str) -> list[Any]:
    stat = path.stat()
    return [digest, stat.st_size, stat.st_mtime_ns, stat.st_ino]


def _record(path: Path, digest: str, found: FoundShard) -> None:
    with contextlib.suppress(OSError, ValueError):  # the folder cannot be written to: `write_manifest` will say so
        record = {"state": _state(path, digest), "found": dataclasses.asdict(found)}
        write_whole(path.parent / _RECORDS / f"{path.name}.json", json.dumps(record).encode())


def _recall(path: Path, digest: str) -> FoundShard | None:
    try:
        record = read_json(path.parent / _RECORDS / f"{path.name}.json")
        if record["state"] != _state(path, digest):
            return None
        return typed(FoundShard, record["found"] | {"clips": [typed(FoundClip, c) for c in record["found"]["clips"]]})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _join(folder: Path, found: list[FoundShard], digest: str, reading: Reading) -> tuple[Manifest, list[Unusable]]:
    """The manifest of what can be used, all at the sample rate that most clips have.

    folder: of the tars. found: what each tar holds. digest: of the tars, for the manifest. reading: as they were read.
    """
    unusable = [Unusable(shard.name, "", shard.problem) for shard in found if shard.problem]
    rates = Counter(clip.sample_rate for shard in found for clip in shard.clips if not clip.problem)
    rate = rates.most_common(1)[0][0] if rates else 0
    seen: dict[str, str] = {}
    shards: list[Shard] = []
    clips: list[Clip] = []
    removed: list[dict[str, Any]] = []
    all_ours = True
    for shard in found:
        usable = []
        for clip in shard.clips if is_file_name(shard.name) else ():
            problem = clip.problem or _misfit(clip, rate, seen)
            if problem:
                is_folder = problem.startswith("a folder")  # many tars have them, and they hold nothing
                unusable += [] if is_folder else [Unusable(shard.name, clip.key, problem)]
                member = {"key": clip.key, "shard": shard.name, "offset": clip.offset, "size": clip.size}
                removed.append({**member, "reason": problem})
                continue
            seen[clip.key] = shard.name
            usable.append(clip)
        all_ours = all_ours and all(clip.is_ours for clip in usable)
        clips += [_listed(clip, len(shards)) for clip in usable]
        if usable:
            shards.append(Shard(shard.name, shard.num_bytes, shard.sha256, num_clips=len(usable)))
    if not clips:
        raise ValueError(_nothing_usable(folder, unusable))
    info: dict[str, Any] = {"adopted": digest} | ({"removed": removed} if removed else {})
    if not all_ours:
        info[MEMBERS] = reading.naming.to_info()
    return Manifest(folder, rate, tuple(shards), clips=tuple(clips), info=info), unusable


def _misfit(clip: FoundClip, rate: int, seen: dict[str, str]) -> str:
    if clip.sample_rate != rate:
        return f"its sound has {clip.sample_rate} samples per second, most have {rate} (resample it)"
    return f"a clip of this name is in {seen[clip.key]} too" if clip.key in seen else ""


def _listed(clip: FoundClip, shard: int) -> Clip:
    facts = {item.name: getattr(clip, item.name) for item in dataclasses.fields(Clip) if item.name != "shard"}
    return Clip(**facts, shard=shard)


def _nothing_usable(folder: Path, unusable: list[Unusable]) -> str:
    reasons = Counter(item.problem for item in unusable).most_common(2)
    shown = "; ".join(f"{count} x {one_line(reason)}" for reason, count in reasons)
    return f"no clip in {folder} can be used ({shown or 'the tars are empty'})"
