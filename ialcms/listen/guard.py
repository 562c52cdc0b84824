"""Who may ask: a request needs the server's secret in its path, and must come from the server's own page.

The secret keeps out other users of the machine. The Host check keeps out pages whose name was made to lead to this
machine (DNS rebinding), the Origin check requests that another page sends (CSRF).
"""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_READING = ("GET", "HEAD")
_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Guard:
    """Middleware: refuses before the body is read, and adds headers that keep other pages from the answers."""

    def __init__(self, app: ASGIApp, host: str) -> None:
        """host: that the server listens on, by which it may be called too."""
        self._app = app
        self._names = {"localhost", socket.gethostname().lower(), host.lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        problem = self._problem(scope["method"], Headers(scope=scope))
        app = PlainTextResponse(problem, status_code=403) if problem else self._app

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *added]}
            await send(message)

        await app(scope, receive, send_with_headers)

    def _problem(self, method: str, headers: Headers) -> str:
        host = headers.get("host", "")
        if not self._is_ours(host):
            return "This name is not the server's: use the address that it printed."
        if method not in _READING and headers.get("origin") != f"http://{host}":
            return "The request does not come from the server's own page."
        return ""

    def _is_ours(self, host: str) -> bool:
        """Addresses are: only names can be made to lead here."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name in self._names or _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
