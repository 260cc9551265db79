"""What every request passes first: only what the page and the endpoint need gets through."""

import json
from collections.abc import Iterable
from typing import Any
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dmdd.deploy.serve.limits import Refusal, limited_stream

PAGE = "/page"

# Gradio brings some 80 routes, among them a file server, a proxy, uploads to disk and a code editor. The page needs
# these; all others do not exist here.
PAGE_PATHS = ("", "/", "/theme.css", "/gradio_api/startup-events", "/gradio_api/queue/join", "/gradio_api/queue/data")
PAGE_FOLDERS = ("/assets/", "/static/", "/gradio_api/heartbeat/")
EVENT_BYTES = 65_536
EVENT_INPUTS = (0, 3)  # none, or the list of images (null, it is kept here) and two thresholds

SECURITY_HEADERS = {
    # Gradio's page has inline scripts and compiles its templates; what matters is that nothing leaves this server.
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; object-src 'none'; "
    "base-uri 'self'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Gate:
    """ASGI middleware: host, origin, the page's routes and events, security headers.

    Args:
        app: What lies behind.
        hosts: Host names a request may be addressed to; None for any. With names, a web site cannot reach a server on
            loopback by having its own name resolve to 127.0.0.1.

    Source: ours.
    """

    def __init__(self, app: ASGIApp, *, hosts: Iterable[str] | None) -> None:
        self.app, self.hosts = app, None if hosts is None else frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check a request and pass it on."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:  # no web sockets here
            await send({"type": "websocket.close", "code": 1000})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers[name] = value
            await send(message)

        try:
            self._check_address(Headers(scope=scope))
            receive = await _check_page(scope, receive)
        except ClientDisconnect:
            return
        except Refusal as refusal:
            answer = JSONResponse({"error": refusal.message}, refusal.status, refusal.headers)
            await answer(scope, receive, guarded)
            return
        await self.app(scope, receive, guarded)

    def _check_address(self, headers: Headers) -> None:
        host = headers.get("host", "")
        if self.hosts is not None and (_split(f"//{host}").hostname or "") not in self.hosts:
            raise Refusal(403, f"this server is not called {host[:80]!r}")
        origin = headers.get("origin")
        if origin is not None and _split(origin).netloc != host:
            raise Refusal(403, f"requests from the web site {origin[:80]!r} are not taken")


def _split(address: str) -> SplitResult:
    try:
        return urlsplit(address)
    except ValueError:  # a bracket too few, letters that look like others
        return urlsplit("")


async def _check_page(scope: Scope, receive: Receive) -> Receive:
    """Let the page's own routes and events through; give the ``receive`` to go on with."""
    path = scope["path"]
    if path != PAGE and not path.startswith(f"{PAGE}/"):
        return receive
    rest = path[len(PAGE) :]
    if rest not in PAGE_PATHS and not rest.startswith(PAGE_FOLDERS):
        raise Refusal(404, "no such page")
    if rest != "/gradio_api/queue/join" or scope["method"] != "POST":
        return receive
    body = b"".join([piece async for piece in limited_stream(Request(scope, receive), EVENT_BYTES)])
    _check_event(body)

    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return pending.pop() if pending else await receive()

    return replay


def _check_event(body: bytes) -> None:
    """Refuse events whose inputs are not the page's: Gradio would fetch the files and URLs that objects name."""
    try:
        event: Any = json.loads(body)
        inputs = event["data"]
        plain = isinstance(inputs, list) and len(inputs) in EVENT_INPUTS
        plain = plain and all(value is None or 0 <= value <= 1 for value in inputs)
    except (ValueError, KeyError, TypeError, RecursionError):
        plain = False
    if not plain:
        raise Refusal(422, "not an event of this page")
