"""The verb `ialcms data stats`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ialcms.data.manifest import read_manifest
from ialcms.files import write_whole
from shards.cli_common import add_verb

PICTURE_NAME = "stats.png"
TABLE_NAME = "stats.csv"


def add_stats(subparsers: Any) -> None:
    parser = add_verb(
        subparsers,
        "stats",
        "clips, hours, videos and boxes per instrument, balance of the shards",
        f"Prints a table and writes it as {TABLE_NAME}, with the picture {PICTURE_NAME}. All of it comes from the\n"
        "manifest, in a moment: one process does it, whatever --jobs says.",
        "ialcms data stats data/music/shards",
    )
    parser.add_argument("shards", type=Path, help="folder of the shards and their manifest, or the manifest alone")
    parser.add_argument("--out", type=Path, help="folder of table and picture (default: that of the manifest)")
    parser.set_defaults(func=_stats)


def _stats(args: argparse.Namespace) -> int:
    from shards.stats import collect_stats, table_csv, table_lines
    from shards.stats_picture import draw_stats

    manifest = read_manifest(args.shards, check_shards=False)
    if not manifest.clips:
        raise ValueError(f"{args.shards} lists no clip; pack the shards again with 'ialcms data pack'")
    stats = collect_stats(manifest)
    print("\n".join([*table_lines(stats), *(balance.line() for balance in stats.balance)]))
    if stats.shared_videos:
        print(f"{stats.shared_videos} training videos also have clips in validation or test: that split leaks")
    out = args.out or manifest.folder
    if args.dry_run:
        print(f"would write {out / TABLE_NAME} and {out / PICTURE_NAME}")
        return 0
    write_whole(out / TABLE_NAME, table_csv(stats))
    write_whole(out / PICTURE_NAME, draw_stats(stats, manifest.folder.absolute().name))
    print(f"written to {out / TABLE_NAME} and {out / PICTURE_NAME}")
    return 0
