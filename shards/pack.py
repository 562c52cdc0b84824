"""Index files of a prepared tree -> WebDataset shards and their manifest.

    entries = read_index("tree")
    pack(entries, Path("shards"), PackOptions(EncodeOptions(clean="music", dataset=load_dataset("music"))), jobs=8)

Clips are encoded by several processes and written by one, in an order that the seed alone determines: the same input
gives the same bytes, whatever the number of processes. While a set is being packed, a record of every finished shard
lies in the folder `.packing`; a run that was killed resumes after the last of them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ialcms.data.manifest import FILE_NAME, SPLITS, Clip, Manifest, Shard, check_values, read_manifest, write_manifest
from ialcms.files import CLIPS_REPORT, DETECTOR_OPTIONS, write_whole
from ialcms.lease import Lease
from ialcms.processes import map_ordered
from ialcms.progress import Progress
from ialcms.reading import one_line
from ialcms.reading.text import check_depth, read_json
from shards.clean import check_rule
from shards.encode import AUDIO_FORMATS, EncodeOptions, encode_clip
from shards.entries import Entry, check_keys
from shards.other_class import MOST, count_other_class, refuse_other_class
from shards.report import Report, check_bad
from shards.shard_writer import ShardWriter, refuse_strays, shard_files, shard_name

REPORT_NAME = "pack_report.json"
_RECORDS = ".packing"


@dataclass(frozen=True)
class PackOptions:
    """How shards are made."""

    encode: EncodeOptions = field(default_factory=EncodeOptions)
    shard_mb: float = 256.0  # a shard is closed when it has reached this size, in 10^6 bytes
    seed: int = 0  # of the order of the clips
    max_bad_fraction: float = 0.05  # clips with broken files tolerated before it stops
    max_other_class: float = MOST  # confident boxes of another class than their instrument's tolerated, likewise


def pack(
    entries: Sequence[Entry], out: Path, options: PackOptions | None = None, jobs: int = 1
) -> tuple[Manifest, Report]:
    """Pack the clips into shards `<split>-000000.tar` in `out` and write the manifest last.

    jobs: processes. Resumes where a killed run with the same options stopped; a complete folder is left as it is.
    Raises ValueError for options out of range, a folder that holds other shards, too many broken clips and a full disk.
    """
    options = options or PackOptions()
    _check_options(options, entries)
    check_keys(entries)
    plan = pack_plan(entries, options.seed)
    digest = plan_digest(plan, options)
    done = _complete(out, digest)
    if done is not None:
        return done
    with pack_lease(out):
        return _complete(out, digest) or _pack(entries, out, options, plan=plan, digest=digest, jobs=jobs)


def pack_lease(out: Path) -> Lease:
    """The lease of a folder that shards are written into."""
    return Lease(out, "data pack", "--out", name="the folder of shards")


def _complete(out: Path, digest: str) -> tuple[Manifest, Report] | None:
    """What is there when all is packed; ValueError when it is something else."""
    if not (out / FILE_NAME).is_file():
        return None
    manifest = read_manifest(out)
    if manifest.info.get("plan") != digest:
        raise ValueError(f"{out} holds other shards ({FILE_NAME}); give another folder or remove them first")
    shutil.rmtree(out / _RECORDS, ignore_errors=True)  # a kill right after the manifest leaves it behind
    return manifest, Report.read(out / REPORT_NAME)


def _pack(
    entries: Sequence[Entry], out: Path, options: PackOptions, plan: dict[str, list[Entry]], *, digest: str, jobs: int
) -> tuple[Manifest, Report]:
    """plan: of `pack_plan`. digest: of the plan and the options; records of another one do not count."""
    if options.encode.clean == "music":
        refuse_other_class(count_other_class(entries, options.encode.dataset, jobs), options.max_other_class)
    if not (out / _RECORDS).is_dir():  # the folder comes before the first shard
        refuse_strays(out, shard_files(out))
    with Progress(len(entries), "pack") as progress:
        packer = _Packer(out, digest, options, jobs=jobs, num_entries=len(entries), progress=progress)
        for split in SPLITS:
            packer.pack_split(split, plan[split])
    clips, report = packer.clips, packer.report
    if not clips:
        reasons = Counter(item["reason"] for item in report.bad + report.dropped).most_common(3)
        shown = "; ".join(f"{reason}: {count}" for reason, count in reasons)
        rules = ", ".join(f"{rule}: {count}" for rule, count in report.boxes_rejected.most_common(3))
        raise ValueError(
            f"no clip is left to pack ({shown}{f'; boxes rejected: {rules}' if rules else ''}); correct the data or "
            "the thresholds in the data set's YAML file (--dataset), or choose another rule with --clean"
        )
    report.write(out / REPORT_NAME)
    info = {"plan": digest, **_describe(options), "source": _describe_source(entries), "report": report.counts()}
    write_manifest(Manifest(out, options.encode.sample_rate, tuple(packer.shards), clips=tuple(clips), info=info))
    shutil.rmtree(out / _RECORDS)
    return read_manifest(out), report


def pack_plan(entries: Sequence[Entry], seed: int) -> dict[str, list[Entry]]:
    """The clips of each split in the order in which they are packed."""
    plan = {}
    for split in SPLITS:
        of_split = [entry for entry in entries if entry.split == split]
        plan[split] = mixed_order(of_split, seed)
    return plan


def mixed_order(entries: Iterable[Entry], seed: int) -> list[Entry]:
    """Shuffle so that every segment of the order has the instruments in about their overall proportion.

    The clips of an instrument, in random order, are spread evenly (with jitter) over [0, 1), then sorted.
    """
    generator = np.random.default_rng(seed)
    groups: dict[str, list[Entry]] = {}
    for entry in sorted(entries, key=lambda e: e.key):
        groups.setdefault(entry.instrument, []).append(entry)
    placed: list[tuple[float, Entry]] = []
    for instrument in sorted(groups):
        group = groups[instrument]
        order = generator.permutation(len(group))
        positions = (np.arange(len(group)) + generator.random(len(group))) / len(group)
        placed += [(position, group[i]) for position, i in zip(positions.tolist(), order.tolist())]
    return [entry for _, entry in sorted(placed, key=lambda item: (item[0], item[1].key))]


@dataclass
class _Packer:
    """Packs one split after the other; shards, clips and report grow as shards are finished."""

    out: Path
    digest: str
    options: PackOptions
    jobs: int
    num_entries: int
    progress: Progress
    shards: list[Shard] = field(default_factory=list)
    clips: list[Clip] = field(default_factory=list)
    report: Report = field(default_factory=Report)

    def pack_split(self, split: str, ordered: list[Entry]) -> None:
        number, done = self._resume(split)
        self.progress.skip(done)
        encode = functools.partial(encode_clip, options=self.options.encode)
        writer = None
        report = Report()
        results = map_ordered(encode, ordered[done:], self.jobs)
        try:
            for encoded in results:
                done += 1
                self.progress.advance()
                report.add(encoded.entry, encoded.cleaned, encoded.bad, clipped=encoded.clipped)
                check_bad(self.report.bad + report.bad, self.num_entries, self.options.max_bad_fraction)
                if encoded.data:
                    writer = writer or self._open(split, number)
                    writer.add(encoded)
                if writer is not None and (writer.offset >= self.options.shard_mb * 1e6 or done == len(ordered)):
                    self._finish(writer, number, split, done=done, report=report)
                    number, writer, report = number + 1, None, Report()
        finally:
            results.close()
            if writer is not None:
                writer.abandon()
        self.report.merge(report)

    def _open(self, split: str, number: int) -> ShardWriter:
        name = shard_name(split, number)
        return ShardWriter(self.out / name, self.out / _RECORDS / f"{name}.tmp", len(self.shards))

    def _record_path(self, split: str, number: int) -> Path:
        return self.out / _RECORDS / f"{split}-{number:06d}.json"

    def _finish(self, writer: ShardWriter, number: int, split: str, done: int, report: Report) -> None:
        """Finish the shard `number` of a split. done: clips of the split up to its end. report: of the shard."""
        shard, clips = writer.finish()
        record = {
            "plan": self.digest,
            "done": done,
            "shard": dataclasses.asdict(shard),
            "clips": [dataclasses.asdict(clip) for clip in clips],
            "report": report.to_dict(),
        }
        write_whole(self._record_path(split, number), json.dumps(record).encode())
        self._take(shard, clips, report)

    def _take(self, shard: Shard, clips: list[Clip], report: Report) -> None:
        self.shards.append(shard)
        self.clips += clips
        self.report.merge(report)

    def _resume(self, split: str) -> tuple[int, int]:
        """Take over the split's finished shards: their number, and the number of clips that they have dealt with."""
        number = done = 0
        while (path := self._record_path(split, number)).is_file():
            try:
                record = read_json(path)
                is_own, dealt_with = record["plan"] == self.digest, int(record["done"])
                shard = Shard(**record["shard"])
                clips = [Clip(**clip) for clip in record["clips"]]
                check_values(Manifest(self.out, 1, (*self.shards, shard), clips=tuple(clips), info={}))
                report = Report.from_dict(record["report"])
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"{path} is damaged ({one_line(error)}); remove {self.out} and pack again") from error
            if not is_own:
                raise ValueError(
                    f"{self.out} holds shards of an unfinished run with other clips or options; "
                    "give another folder or remove it first"
                )
            file = self.out / shard.name
            if not file.is_file() or file.stat().st_size != shard.num_bytes:
                break  # removed since; packed again from here on
            self._take(shard, clips, report)
            number, done = number + 1, dealt_with
        return number, done


def _check_options(options: PackOptions, entries: Sequence[Entry]) -> None:
    encode = options.encode
    if encode.audio_format not in AUDIO_FORMATS:
        raise ValueError(f"--audio-format '{encode.audio_format}': choose {' or '.join(AUDIO_FORMATS)}")
    if not 1 <= encode.jpeg_quality <= 100:
        raise ValueError(f"--jpeg-quality {encode.jpeg_quality}: give a whole number from 1 to 100")
    if encode.longest_side < 0:
        raise ValueError(f"--longest-side {encode.longest_side}: give pixels, or 0 to leave pictures as they are")
    if not (options.shard_mb > 0 and math.isfinite(options.shard_mb)):
        raise ValueError(f"--shard-mb {options.shard_mb}: give a positive number of 10^6 bytes")
    check_rule(encode.clean, encode.dataset, {entry.instrument for entry in entries}, tree=entries[0].tree)


def plan_digest(plan: dict[str, list[Entry]], options: PackOptions) -> str:
    """Equal for runs that would write the same shards from the same files, wherever these lie."""
    dataset = options.encode.dataset
    clips = {}
    for split, ordered in plan.items():
        clips[split] = [(entry.instrument, entry.clip) for entry in ordered]
    values = {
        "options": _describe(options),
        "dataset": [
            sorted((name, dataclasses.astuple(rule)) for name, rule in dataset.instruments.items()),
            sorted(dataset.skip_videos),
            dataclasses.astuple(dataset.music),
            dataclasses.astuple(dataset.coseparation),
        ],
        "clips": clips,
    }
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _describe_source(entries: Sequence[Entry]) -> dict[str, Any]:
    """How the clips were cut from videos and by what they were detected, as the tree of the first one has on record."""
    tree = entries[0].tree
    source = {}
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        report = read_json(tree / CLIPS_REPORT)
        source["clips"] = {**report["options"], "resampling": report["resampling"]}
    with contextlib.suppress(OSError, ValueError):
        source["detector"] = read_json(tree / DETECTOR_OPTIONS)
        check_depth(source)
    return source


def _describe(options: PackOptions) -> dict[str, Any]:
    encode = {f.name: getattr(options.encode, f.name) for f in dataclasses.fields(options.encode)}
    encode["dataset"] = options.encode.dataset.name
    return {**encode, "shard_mb": options.shard_mb, "seed": options.seed}
