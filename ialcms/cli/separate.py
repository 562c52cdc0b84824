"""`ialcms separate`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ialcms.cli.common import add_protocol, add_verb


def add_separate(verbs: argparse._SubParsersAction) -> None:
    separate = add_verb(
        verbs,
        "separate",
        _separate,
        help="separate one's own video: a sound and a heat-map video per object",
        examples=[
            "ialcms separate duet.mp4 --checkpoint runs/duet --boxes violin=20,30,200,280 310,40,500,270@2.5",
            "ialcms separate song.wav --checkpoint duet.pt --pictures violin.jpg cello.jpg",
        ],
    )
    separate.add_argument("source", type=Path, help="video, or a sound if --pictures are given")
    separate.add_argument(
        "--checkpoint",
        type=Path,
        required=True,
        metavar="RUN|CHECKPOINT|FILE",
        help="trained run (its best checkpoint), checkpoint, or file of 'ialcms export'",
    )
    separate.add_argument(
        "--boxes",
        nargs="+",
        default=[],
        metavar="BOX",
        help="[NAME=]X1,Y1,X2,Y2[@SECONDS]; with a name if X1 is negative",
    )
    separate.add_argument("--click", nargs="+", default=[], metavar="POINT", help="[NAME=]X,Y[@SECONDS]")
    separate.add_argument(
        "--pictures", nargs="+", type=Path, default=[], help="a picture of each instrument: JPEG, PNG or WebP"
    )
    separate.add_argument("--detector", type=Path, metavar="WEIGHTS", help="finds the instruments; see 'data detect'")
    separate.add_argument("--min-score", type=float, default=0.9, help="least confidence of the detector")
    separate.add_argument("--out", type=Path, default=Path("separated"), help="folder of the results")
    separate.add_argument(
        "--above",
        choices=("share", "remainder"),
        default="share",
        help="above the network's range objects get their share of the octave below, or nothing",
    )
    add_protocol(separate)
    separate.add_argument("--no-videos", action="store_true", help="sounds only, and no page")
    separate.add_argument("--batch-windows", type=int, default=16, help="windows that pass the network together")
    separate.add_argument("--device", help="like cuda or cpu (default: a GPU if there is one)")


def _separate(args: argparse.Namespace) -> int:
    from ialcms.inference import PROTOCOLS, Box, Click, separate_file

    objects: list[Box | Click] = [*map(Box.parse, args.boxes), *map(Click.parse, args.click)]
    result = separate_file(
        args.source,
        args.checkpoint,
        objects,
        pictures=args.pictures,
        detector=args.detector,
        min_score=args.min_score,
        out=args.out,
        above=args.above,
        protocol=PROTOCOLS[args.protocol],
        videos=not args.no_videos,
        batch_windows=args.batch_windows,
        device=args.device,
    )
    pages = [result.page] if result.page else []
    print("\n".join(map(str, (*result.stems, result.remainder, *result.videos, *pages))))
    return 0
