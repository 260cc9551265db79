"""What every request passes first: who may ask, and what the browser may do with the answer."""

from collections.abc import Iterable
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dmdd.deploy.serve.limits import Refusal

SECURITY_HEADERS = {
    # Nothing from elsewhere, no inline script; pictures come inside the answers.
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Gate:
    """ASGI middleware: host, origin, security headers.

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
