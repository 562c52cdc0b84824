"""`ialcms checkpoint`: show, compare, export."""

from __future__ import annotations

import argparse
from pathlib import Path

from ialcms.cli.common import add_verb


def add_checkpoint(verbs: argparse._SubParsersAction) -> None:
    actions = verbs.add_parser("checkpoint", help="show, compare or export checkpoints").add_subparsers(
        dest="action", required=True, metavar="action"
    )
    path = "a checkpoint's folder, or a run's folder for its newest one"
    show = add_verb(
        actions, "show", _checkpoint_show, help="say what is inside", examples=["ialcms checkpoint show runs/demo"]
    )
    show.add_argument("path", type=Path, help=path)
    diff = add_verb(
        actions, "diff", _checkpoint_diff, help="say how two differ", examples=["ialcms checkpoint diff runs/a runs/b"]
    )
    diff.add_argument("first", type=Path, help=path)
    diff.add_argument("second", type=Path, help=path)
    export = add_verb(
        actions,
        "export",
        _checkpoint_export,
        help="write both networks by the published code's names (for use here: 'ialcms export')",
        examples=["ialcms checkpoint export runs/duet --out authors.ckpt"],
    )
    export.add_argument("path", type=Path, help=path)
    export.add_argument("--out", type=Path, required=True, help="file to write")


def _checkpoint_show(args: argparse.Namespace) -> int:
    from ialcms.runs.checkpoint_tool import show

    print(show(args.path))
    return 0


def _checkpoint_diff(args: argparse.Namespace) -> int:
    from ialcms.runs.checkpoint_tool import diff

    print(diff(args.first, args.second))
    return 0


def _checkpoint_export(args: argparse.Namespace) -> int:
    from ialcms.runs.checkpoint_tool import export

    print(export(args.path, args.out))
    return 0
