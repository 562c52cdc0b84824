"""`ialcms data adopt`, and the manifest that `verify --fix` makes where it was lost."""

from __future__ import annotations

import argparse
import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

from ialcms.data.manifest import SPLITS, Manifest
from ialcms.data.members import Naming
from shards.adopt import Unusable, adopt, find_tars
from shards.cli_common import add_verb, print_some
from shards.foreign_clips import ANY_NAMING, FACTS, Reading
from shards.scan_tar import scan_tar

_KINDS = tuple(field.name for field in dataclasses.fields(Naming))


def add_adopt(subparsers: Any) -> None:
    parser = add_verb(
        subparsers,
        "adopt",
        "write the manifest for tars that another WebDataset writer made",
        "Reads every tar once and leaves it as it is. A clip is the run of members that share a key: a sound (.flac,\n"
        ".wav, .mp3), pictures (.<frame>.jpg, or one .jpg), boxes (.npy: frame, class, confidence, x1, y1, x2, y2)\n"
        "and metadata (.json). Other names are given by --member, '*' for the frame's number. Instrument, video and\n"
        "split are fields of the metadata, or groups of a pattern of the key. What cannot be used is named.",
        "ialcms data adopt data/music/shards",
        "ialcms data adopt 'data/my/train-{000000..000099}.tar' --member sound=mp3 --field instrument=label",
        "ialcms data adopt data/my --key-pattern '(?P<instrument>[a-z]+)_(?P<video>.{11})' --split train",
    )
    parser.add_argument("shards", nargs="+", metavar="FOLDER|TARS", help="folder of tars, tars, or a pattern of names")
    parser.add_argument(
        "--member",
        action="append",
        default=[],
        metavar="KIND=SUFFIX[,SUFFIX]",
        help=f"how members are named after the key and a dot; kinds: {', '.join(_KINDS)}; can be repeated",
    )
    parser.add_argument(
        "--field",
        action="append",
        default=[],
        metavar="FACT=FIELD",
        help=f"field of the metadata that has a fact, like instrument=meta.label; facts: {', '.join(FACTS)}",
    )
    parser.add_argument("--key-pattern", default="", metavar="REGEX", help="with groups named like the facts")
    parser.add_argument(
        "--split",
        default="",
        metavar="train|val|test",
        help="of all clips (default: the field 'split', or the beginning of the tar's name)",
    )
    parser.set_defaults(func=_adopt)


def _adopt(args: argparse.Namespace) -> int:
    named = {kind: tuple(names.split(",")) for kind, names in _pairs(args.member, "--member", _KINDS).items()}
    fields = _pairs(args.field, "--field", FACTS)
    reading = Reading(dataclasses.replace(ANY_NAMING, **named), fields, args.key_pattern, split=args.split)
    tars = find_tars(args.shards)
    print(f"{len(tars)} tars in {tars[0].parent}, {sum(path.stat().st_size for path in tars) / 1e6:.1f} MB")
    if args.dry_run:
        _print_first(tars[0], reading)
        return 0
    _print_adopted(*adopt(tars, reading, args.jobs))
    return 0


def remake(folder: Path, jobs: int, dry_run: bool = False) -> None:
    """Write the manifest of a folder that has lost it, from its tars."""
    tars = find_tars([str(folder)])
    print(f"no manifest in {folder}: it is made of {len(tars)} tars")
    if not dry_run:
        _print_adopted(*adopt(tars, Reading(), jobs))


def _pairs(texts: list[str], option: str, known: tuple[str, ...]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in known or not value.strip(","):
            raise ValueError(f"{option} '{text}': write NAME=VALUE with one of {', '.join(known)}")
        pairs[name] = value
    return pairs


def _print_first(tar: Path, reading: Reading) -> None:
    """What would become of the first tar."""
    found = scan_tar(tar, reading)
    usable = [clip for clip in found.clips if not clip.problem]
    print(f"the first one, {tar.name}: {len(usable)} of {len(found.clips)} clips can be used")
    for clip in usable[:3]:
        print(
            f"  {clip.key}: {clip.instrument}, video {clip.video}, {clip.split}, {clip.num_boxes} boxes, "
            f"{clip.num_samples / clip.sample_rate:.1f} s at {clip.sample_rate} Hz"
        )
    problems = [f"{clip.key}: {clip.problem}" for clip in found.clips if clip.problem]
    print_some("unusable", [*problems, found.problem] if found.problem else problems)
    print("would read the others too, and write the manifest")


def _print_adopted(manifest: Manifest, unusable: list[Unusable]) -> None:
    print_some("unusable", list(map(str, unusable)))
    videos: dict[str, set[str]] = {}
    for split in SPLITS:
        clips = manifest.of_split(split)
        videos[split] = {clip.video for clip in clips}
        counts = Counter(clip.instrument for clip in clips)
        shown = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
        print(f"{split}: {len(clips)} clips of {len(videos[split])} videos ({shown or 'none'})")
    leak = videos["train"] & (videos["val"] | videos["test"])
    if leak:
        print(f"{len(leak)} training videos also have clips in validation or test: that split leaks")
    print(
        f"{len(manifest.clips)} clips of {manifest.sample_rate} Hz in {len(manifest.shards)} tars, {len(unusable)} "
        f"unusable; manifest written to {manifest.folder}: train with data.shards={manifest.folder}"
    )
