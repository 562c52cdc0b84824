"""`ialcms info`."""

from __future__ import annotations

import argparse

from ialcms.cli.common import add_config, add_former_ranks, add_verb


def add_info(verbs: argparse._SubParsersAction) -> None:
    info = add_verb(
        verbs,
        "info",
        _info,
        help="shapes, parameters, steps per epoch, batch arithmetic, shard coverage",
        examples=["ialcms info duet", "ialcms info demo --ranks 4", "ialcms info runs/demo --plan 100"],
    )
    add_config(info)
    info.add_argument("--ranks", type=int, default=1, help="number of training ranks to do the arithmetic for")
    add_former_ranks(info)
    info.add_argument("--plan", type=int, metavar="STEP", help="print what every mix of this step (from 0) is made of")
    info.add_argument("--read-clips", action="store_true", help="with --plan: read its clips, show replaced ones")


def _info(args: argparse.Namespace) -> int:
    from ialcms.config import load_config
    from ialcms.info import describe, describe_plan
    from ialcms.runs.run_folder import RunFolder

    if args.config.is_dir():
        config = RunFolder(args.config).read_config(args.overrides)
    else:
        config = load_config(args.config, args.overrides)
    if args.plan is not None:
        print(describe_plan(config, args.plan, args.ranks, read_clips=args.read_clips))
    else:
        print(describe(config, args.ranks))
    return 0
