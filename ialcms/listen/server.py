"""The server of `ialcms listen`: Starlette answers, uvicorn listens. Nothing is fetched from anywhere else."""

from __future__ import annotations

import io
import secrets
import signal
import socket
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route

from ialcms.inference import load_model
from ialcms.inference.frames import frame_at
from ialcms.listen.guard import Guard
from ialcms.listen.videos import MOST_OBJECTS, Limits, Video, Videos, read_objects
from ialcms.names import printable
from ialcms.report.rendering import encode, template, with_hashes

_FRAME_SIDE = 1280  # px, of the picture that boxes are drawn on
_JSON_BYTES = 100_000
_END_S = 2  # for answers under way when the server ends


@dataclass(frozen=True)
class Address:
    """Where a server listens."""

    host: str
    port: int
    secret: str  # first part of all its paths

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/{self.secret}/"


def serve(  # noqa: PLR0913 - the options of `ialcms listen`
    checkpoint: Path,
    host: str,
    port: int,
    *,
    limits: Limits,
    device: str | None,
    work: Path | None,
    ready: Callable[[str], None],
) -> None:
    """Serve until a signal ends the program; then all uploads and results are removed.

    checkpoint: as for `separate_file`. host, port: to listen on; port 0 takes a free one. limits: of uploads. device:
    like "cuda". work: folder for the files, by default the system's for temporary ones. ready: is called with the
    address. Raises ValueError where the checkpoint cannot be loaded or the port is taken.
    """
    step = load_model(checkpoint, device).step  # refused now, not with the first video
    _end_on_signals()
    with (
        _listening(host, port) as listener,
        tempfile.TemporaryDirectory(prefix="ialcms-listen-", dir=work) as folder,
        Videos(Path(folder), checkpoint, device, limits=limits) as videos,
    ):
        address = Address(host, listener.getsockname()[1], secrets.token_urlsafe(16))
        app = make_app(videos, address, {"Separator": f"{printable(checkpoint.name)}, step {step:,}"})
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, timeout_graceful_shutdown=_END_S, server_header=False
        )
        ready(address.url)
        uvicorn.Server(config).run(sockets=[listener])


def _end_on_signals() -> None:
    """Without it, these signals would end the process before its files are removed."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"cannot listen on {host} port {port} ({reason}); give another --port or --host") from error


def make_app(videos: Videos, address: Address, facts: dict[str, str]) -> Starlette:
    """facts: what the page says of the separator."""
    page = _first_page(videos.limits, facts)
    handlers = _Handlers(videos, page)
    routes = [
        Route("/", handlers.first_page),
        Route("/videos", handlers.upload, methods=["POST"]),
        Route("/videos/{id}", handlers.one(handlers.describe), methods=["GET"]),
        Route("/videos/{id}", handlers.one(handlers.remove), methods=["DELETE"]),
        Route("/videos/{id}/frame", handlers.one(handlers.frame)),
        Route("/videos/{id}/separation", handlers.one(handlers.separate), methods=["POST"]),
        Route("/videos/{id}/page", handlers.one(handlers.page)),
        Route("/videos/{id}/files/{name}", handlers.one(handlers.file)),
    ]
    guard = Middleware(Guard, host=address.host)
    return Starlette(routes=[Mount(f"/{address.secret}", routes=routes)], middleware=[guard])


def _first_page(limits: Limits, facts: dict[str, str]) -> bytes:
    text = template("drop.html").render(
        **with_hashes(style=["page.css", "drop.css"], script=["drop.js"]),
        title="Separate a video",
        facts=facts,
        max_bytes=limits.max_bytes,
        max_megabytes=f"{limits.max_bytes / 1e6:g}",
        max_minutes=f"{limits.max_seconds / 60:g}",
        most_objects=MOST_OBJECTS,
    )
    return encode(text)


_Handler = Callable[[Request, Video], Awaitable[Response]]


class _Handlers:
    def __init__(self, videos: Videos, page: bytes) -> None:
        self._videos, self._page = videos, page

    def one(self, handler: _Handler) -> Callable[[Request], Awaitable[Response]]:
        """A handler for the video that the path names."""

        async def handle(request: Request) -> Response:
            video = self._videos.get(request.path_params["id"])
            if video is None:
                return _refusal("this video is not here any more: drop it again", 404)
            return await handler(request, video)

        return handle

    async def first_page(self, request: Request) -> Response:
        return HTMLResponse(self._page)

    async def upload(self, request: Request) -> Response:
        """The body is the file. It is written as it comes, and refused as soon as it is too large."""
        most = self._videos.limits.max_bytes
        too_large = _refusal(f"the file has more than {most / 1e6:g} MB, which is what this server takes", 413)
        length = request.headers.get("content-length", "")
        if length.isdigit() and int(length) > most:
            return too_large
        try:
            video = self._videos.new(printable(Path(request.query_params.get("name", "")).name[:200]) or "the video")
        except ValueError as error:
            return _refusal(str(error), 429)
        is_whole = False
        try:
            received = 0
            with open(video.file, "wb") as file:
                async for chunk in request.stream():
                    received += len(chunk)
                    if received > most:
                        return too_large
                    file.write(chunk)
            is_whole = True
        except ClientDisconnect:
            return _refusal("the upload broke off", 400)
        except OSError as error:
            return _refusal(f"the server cannot keep the file ({error.strerror})", 507)
        finally:
            if not is_whole:
                self._videos.remove(video)
        try:
            return JSONResponse(_words(await run_in_threadpool(self._videos.add, video)), status_code=201)
        except ValueError as error:
            return _refusal(str(error), 422)

    async def describe(self, request: Request, video: Video) -> Response:
        return JSONResponse(_words(video))

    async def remove(self, request: Request, video: Video) -> Response:
        try:
            self._videos.remove(video)
        except ValueError as error:
            return _refusal(str(error), 409)
        return JSONResponse({})

    async def frame(self, request: Request, video: Video) -> Response:
        try:
            content = await run_in_threadpool(_jpeg, video, float(request.query_params.get("at", "0")))
        except ValueError as error:
            return _refusal(str(error).replace(str(video.file), video.name), 404)
        return Response(content, media_type="image/jpeg")

    async def separate(self, request: Request, video: Video) -> Response:
        length = request.headers.get("content-length", "")
        if not length.isdigit() or int(length) > _JSON_BYTES:
            return _refusal("the list of boxes is too large", 413)
        try:
            objects = read_objects(await request.json())
            video = self._videos.separate(video.id, objects)
        except ValueError as error:
            return _refusal(str(error), 422)
        return JSONResponse(_words(video), status_code=202)

    async def page(self, request: Request, video: Video) -> Response:
        if video.state != "done":
            return _refusal("this video is not separated yet", 404)
        return FileResponse(video.results / video.files[-1], media_type="text/html")

    async def file(self, request: Request, video: Video) -> Response:
        name = request.path_params["name"]
        if name not in video.files:
            return _refusal("there is no such file", 404)
        return FileResponse(video.results / name, filename=name)


def _jpeg(video: Video, at_s: float) -> bytes:
    frame = frame_at(video.file, at_s)
    image = Image.fromarray(frame.numpy())
    image.thumbnail((_FRAME_SIDE, _FRAME_SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return file.getvalue()


def _words(video: Video) -> dict[str, Any]:
    """A video as the page reads it."""
    objects = [{"name": box.name, "at": box.at_s, "edges": box.edges} for box in video.objects]
    return {
        "id": video.id,
        "name": video.name,
        "seconds": video.seconds,
        "state": video.state,
        "message": video.message,
        "objects": objects,
        "files": video.files,
    }


def _refusal(message: str, status: int) -> Response:
    return JSONResponse({"error": message}, status_code=status)
