"""`ialcms listen`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ialcms.cli.common import add_verb

_LOCAL = ("127.0.0.1", "::1", "localhost")


def add_listen(verbs: argparse._SubParsersAction) -> None:
    listen = add_verb(
        verbs,
        "listen",
        _listen,
        help="serve a local page: drop a video, draw boxes, hear it separated",
        examples=["ialcms listen runs/duet", "ialcms listen duet.pt --port 9000 --max-minutes 3"],
    )
    listen.add_argument(
        "checkpoint",
        type=Path,
        metavar="RUN|CHECKPOINT|FILE",
        help="trained run (its best checkpoint), checkpoint, or file of 'ialcms export'",
    )
    listen.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    listen.add_argument("--port", type=int, default=8765, help="0 takes a free one (default: 8765)")
    listen.add_argument("--max-mb", type=float, default=500, help="largest upload (default: 500)")
    listen.add_argument("--max-minutes", type=float, default=10, help="longest video (default: 10)")
    listen.add_argument("--work", type=Path, help="folder for uploads and results, which are removed at the end")
    listen.add_argument("--device", help="like cuda or cpu (default: a GPU if there is one)")


def _listen(args: argparse.Namespace) -> int:
    try:
        from ialcms.listen.server import serve
    except ModuleNotFoundError as error:
        if error.name not in ("starlette", "uvicorn"):
            raise
        raise ValueError(
            f"'ialcms listen' needs the package {error.name}; install it with: pip install starlette uvicorn"
        ) from error
    from ialcms.listen.videos import Limits

    if not (args.max_mb > 0 and args.max_minutes > 0):
        raise ValueError("--max-mb and --max-minutes must be greater than 0")
    if args.work is not None and not args.work.is_dir():
        raise ValueError(f"--work {args.work} is not a folder; make it first")

    def ready(url: str) -> None:
        print(f"open {url}\nCtrl-C ends the server and removes its files", flush=True)
        if args.host not in _LOCAL:
            print(f"everybody who can reach {args.host} and knows this address can use it, unencrypted", flush=True)

    limits = Limits(round(args.max_mb * 1e6), 60 * args.max_minutes)
    serve(args.checkpoint, args.host, args.port, limits=limits, device=args.device, work=args.work, ready=ready)
    return 0
