"""The verb of `ialcms data` that reads every shard against the manifest: verify."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ialcms.data.manifest import FILE_NAME, read_manifest
from shards.cli_adopt import remake
from shards.cli_common import add_verb
from shards.verify import check_manifest, drop_bad_clips, verify


def add_verify(subparsers: Any) -> None:
    parser = add_verb(
        subparsers,
        "verify",
        "read every shard against the manifest; exit code 1 if something is bad",
        "Checks checksums, that every byte belongs to a clip, that sounds and pictures decode, boxes lie inside their\n"
        "pictures, sounds are not silent. --fix writes a manifest without the bad clips and keeps the old one beside\n"
        "it; the exit code is then 0 if what is left is whole. A manifest that was lost is made anew.",
        "ialcms data verify data/music/shards --jobs 8",
    )
    parser.add_argument("shards", type=Path, help="folder of the shards and their manifest")
    parser.add_argument("--fix", action="store_true", help="write a new manifest without the bad clips")
    parser.set_defaults(func=_verify)


def _verify(args: argparse.Namespace) -> int:
    if args.fix and args.shards.is_dir() and not (args.shards / FILE_NAME).exists():
        remake(args.shards, args.jobs, args.dry_run)
        return 0
    manifest = read_manifest(args.shards, check_shards=False)
    print(f"{len(manifest.clips)} clips in {len(manifest.shards)} shards in {args.shards}")
    if args.dry_run:
        print("would read them all")
        return 0
    problems = check_manifest(manifest)
    findings = verify(manifest, args.jobs)
    lines = problems + [line for found in findings for line in found.lines()]
    num_bad = sum(len(found.bad_clips) for found in findings)
    print("\n".join([*lines, f"{num_bad} bad clips, {sum(not found.ok for found in findings)} bad shards"]))
    if not lines:
        return 0
    if problems or not args.fix:
        return 1
    manifest = drop_bad_clips(manifest, findings)
    left = [line for found in verify(manifest, args.jobs) for line in found.lines()]
    print("\n".join([*left, f"new manifest: {len(manifest.clips)} clips in {len(manifest.shards)} shards"]))
    return 1 if left else 0
