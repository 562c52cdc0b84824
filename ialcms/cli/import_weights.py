"""`ialcms import`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ialcms.cli.common import OVERRIDES, add_verb


def add_import(verbs: argparse._SubParsersAction) -> None:
    parser = add_verb(
        verbs,
        "import",
        _import,
        help="make a run's folder of a file of weights, like an authors' checkpoint",
        examples=[
            "ialcms import authors.ckpt --config duet --out runs/authors",
            "ialcms import authors.ckpt --config my.yaml --out runs/mine --step 0",
        ],
    )
    parser.add_argument("source", type=Path, metavar="FILE", help="of torch.save, with the published names or ours")
    parser.add_argument("--config", type=Path, required=True, help="YAML file, or a name of 'ialcms configs'")
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="the new run's folder")
    parser.add_argument("--step", type=int, help="at which training resumes (default: as the file says, or 0)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=OVERRIDES)


def _import(args: argparse.Namespace) -> int:
    from ialcms.config import load_config
    from ialcms.training.import_checkpoint import import_checkpoint

    if args.step is not None and args.step < 0:
        raise ValueError(f"--step is {args.step}; give the number of finished steps, 0 or more")
    print(import_checkpoint(args.source, load_config(args.config, args.overrides), args.out, step=args.step))
    return 0
