"""`ialcms export`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ialcms.cli.common import add_protocol, add_verb


def add_export(verbs: argparse._SubParsersAction) -> None:
    export = add_verb(
        verbs,
        "export",
        _export,
        help="write the separator alone, for use elsewhere ('checkpoint export': the published names)",
        examples=[
            "ialcms export runs/duet --out duet.pt",
            "ialcms export runs/duet --out duet.pt2 --torch-export --objects 2",
        ],
    )
    export.add_argument(
        "source",
        type=Path,
        metavar="RUN|CHECKPOINT",
        help="a trained run (its best checkpoint), or a checkpoint's folder",
    )
    export.add_argument("--out", type=Path, required=True, metavar="FILE", help="weights and configuration to write")
    export.add_argument(
        "--torch-export", action="store_true", help="write a torch.export program (.pt2) of fixed shapes instead"
    )
    export.add_argument("--objects", type=int, default=2, help="with --torch-export: pictures that come with a mix")
    add_protocol(export, "with --torch-export: ")


def _export(args: argparse.Namespace) -> int:
    from ialcms.inference import PROTOCOLS
    from ialcms.inference.export import export_program, export_weights

    if args.torch_export:
        print(export_program(args.source, args.out, args.objects, protocol=PROTOCOLS[args.protocol]))
    else:
        print(export_weights(args.source, args.out))
    return 0
