"""`ialcms demo`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ialcms.cli.common import OVERRIDES, add_former_ranks, add_verb


def add_demo(verbs: argparse._SubParsersAction) -> None:
    demo = add_verb(
        verbs,
        "demo",
        _demo,
        help="the whole job on synthetic data: make, pack, train, evaluate, report",
        examples=["ialcms demo", "ialcms demo --best", "ialcms demo --supervised --ranks 1"],
    )
    demo.add_argument("--supervised", action="store_true", help="train on solos with targets (configuration demo_solo)")
    demo.add_argument("--best", action="store_true", help="train with options beyond the paper (demo_best)")
    demo.add_argument("--ranks", type=int, help="training ranks (default: 2, but 1 on a machine with one GPU)")
    add_former_ranks(demo)
    demo.add_argument("--data", type=Path, default=Path("data/demo"), help="folder for the data")
    demo.add_argument("--folder", type=Path, help="folder of the run (default: runs/<name>)")
    demo.add_argument("overrides", nargs="*", metavar="key=value", help=OVERRIDES)


def _demo(args: argparse.Namespace) -> int:
    from ialcms.demo.pipeline import run_demo

    name = "demo" + "_solo" * args.supervised + "_best" * args.best
    run_demo(name, args.data, args.folder, ranks=args.ranks, overrides=args.overrides)
    return 0
