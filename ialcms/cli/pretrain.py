"""`ialcms pretrain`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ialcms.cli.common import add_config, add_verb
from ialcms.overwriting import refuse_overwriting


def add_pretrain(verbs: argparse._SubParsersAction) -> None:
    pretrain = add_verb(
        verbs,
        "pretrain",
        _pretrain,
        help="train the backbone to name instruments, where ImageNet's does not fit",
        examples=["ialcms pretrain demo --out runs/demo/backbone.pt"],
    )
    add_config(pretrain)
    pretrain.add_argument("--out", type=Path, required=True, help="file for the weights")
    pretrain.add_argument("--steps", type=int, default=300, help="batches of pictures")
    pretrain.add_argument("--batch", type=int, default=64, help="pictures in a batch")


def _pretrain(args: argparse.Namespace) -> int:
    from ialcms.config import load_config
    from ialcms.training.pretrain import pretrain

    config = load_config(args.config, args.overrides)
    weights = [Path(config.model.visual.weights)] if config.model.visual.weights else []
    refuse_overwriting([args.out], [args.config, *weights], "name another file")
    print(f"backbone: {pretrain(config, args.out, args.steps, batch_pictures=args.batch)} -> {args.out}")
    return 0
