"""`ialcms train`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ialcms.cli.common import add_config, add_verb
from ialcms.launched import adopt_launcher
from ialcms.names import is_utf8
from ialcms.overwriting import refuse_overwriting


def add_train(verbs: argparse._SubParsersAction) -> None:
    train = add_verb(
        verbs,
        "train",
        _train,
        help="train a separator",
        examples=["ialcms train demo train.steps=100", "torchrun --standalone --nproc_per_node=2 -m ialcms train demo"],
    )
    add_config(train)
    train.add_argument("--folder", type=Path, help="folder of the run (default: runs/<name>); an old one is continued")
    train.add_argument(
        "--resume",
        default="auto",
        metavar="auto|none|CHECKPOINT",
        help="resume from the folder's newest checkpoint (default), from none, or from this one",
    )
    train.add_argument(
        "--init-from",
        type=Path,
        metavar="WEIGHTS",
        help="start with the networks of a checkpoint, a run, or a file with the published names",
    )
    train.add_argument(
        "--profile",
        type=int,
        metavar="N",
        help="write a trace of N steps into the run's folder, and the ten costliest modules into the log",
    )
    train.add_argument(
        "--dry-run",
        action="store_true",
        help="say what the run would do and take, by a few steps of it, and print its first plan; nothing is written",
    )


def _train(args: argparse.Namespace) -> int:
    from ialcms.training.stop_request import end_with_agent

    end_with_agent()  # before the imports below, which take seconds
    adopt_launcher()
    if args.init_from is not None and args.resume not in ("auto", "none"):
        raise ValueError(
            f"--resume {args.resume} resumes a run and --init-from {args.init_from} begins one; give one of them"
        )
    if args.profile is not None and args.profile < 1:
        raise ValueError(f"--profile is {args.profile}; give the number of steps to look at, 1 or more")
    from ialcms.config import load_config

    config = load_config(args.config, args.overrides)  # before the slow imports: a fault is reported at once

    from ialcms.dry_run import dry_run
    from ialcms.engine import Ranks, check_engine
    from ialcms.runs.run_folder import RunFolder
    from ialcms.training.trainer import train

    folder = RunFolder(args.folder or Path("runs") / config.name)
    if not is_utf8(str(folder.path)):
        raise ValueError(f"{folder.path}: TensorBoard cannot write to folders whose names are no UTF-8; rename it")
    if not folder.environment.exists():  # of an earlier start: then the configuration is the run's own
        refuse_overwriting([folder.config], [args.config], "give another --folder, or rename your configuration")
    check_engine(config)
    with Ranks(timeout_s=max(1_800, 2 * config.train.timeout_s)) as ranks:  # the watchdog is to be first
        if args.dry_run:
            text = dry_run(config, folder, ranks)
            if ranks.is_first:
                print(text)
            return 0
        train(config, folder, ranks, resume=args.resume, weights=args.init_from, profiled_steps=args.profile or 0)
    return 0
