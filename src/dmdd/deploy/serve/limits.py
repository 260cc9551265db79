"""What the server refuses, and how it says so."""

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, fields

from starlette.requests import ClientDisconnect, Request

from dmdd.core.errors import UserError, check_positive

DISCARD_S = 1.0

MAX_CLIENTS = 10_000
"""Clients whose rate is remembered at once; the oldest are forgotten, which only ever lets a request through."""


class Refusal(Exception):
    """A request that is not answered: an HTTP status and one line that says why and what would be right.

    Args:
        status: HTTP status, 400 to 599.
        message: One line.
        retry_after_s: When to come again, if that would help.

    Source: ours.
    """

    def __init__(self, status: int, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.status, self.message = status, " ".join(message.split())
        self.headers = {} if retry_after_s is None else {"Retry-After": str(max(1, math.ceil(retry_after_s)))}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much the server takes.

    Args:
        upload_mb: Largest image file, in MB (a million bytes).
        queue: Requests that may wait or run at once.
        timeout_s: Seconds from a request's first byte to its answer.
        requests_per_minute: Images a client (an IP address) may send in a minute; 0 for no limit.
        page_images: Images the page shows at once.
        live_images: Newest results the page lists, whose pictures stay in memory; 0 for none.

    Raises:
        UserError: A limit is out of its range.

    Source: ours.
    """

    upload_mb: int = 32
    queue: int = 64
    timeout_s: float = 60.0
    requests_per_minute: int = 0
    page_images: int = 40
    live_images: int = 12

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in ("requests_per_minute", "live_images"):
                if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                    zero = "no limit" if field.name == "requests_per_minute" else "no list"
                    raise UserError(f"{field.name}={value}: give a whole number, 0 for {zero}")
            elif field.name == "timeout_s":
                if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
                    raise UserError(f"timeout_s={value}: give a number of seconds above 0")
            else:
                check_positive(field.name, value)

    @property
    def upload_bytes(self) -> int:
        """Largest image file, in bytes."""
        return self.upload_mb * 1_000_000


class RateLimit:
    """Count requests a client: a bucket that holds one minute's worth and fills evenly.

    Args:
        per_minute: Requests a minute; 0 lets all through.

    Source: ours; the usual token bucket.
    """

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self._buckets: dict[str, tuple[float, float]] = {}  # tokens left, when that was

    def check(self, client: str) -> None:
        """Let a request through or refuse it.

        Args:
            client: Who asks.

        Raises:
            Refusal: 429, the client has used up its rate.
        """
        if self.per_minute == 0:
            return
        now = time.monotonic()
        tokens, since = self._buckets.pop(client, (float(self.per_minute), now))
        tokens = min(self.per_minute, tokens + (now - since) * self.per_minute / 60)
        allowed = tokens >= 1
        self._buckets[client] = (tokens - allowed, now)
        while len(self._buckets) > MAX_CLIENTS:
            self._buckets.pop(next(iter(self._buckets)))
        if not allowed:
            wait = (1 - tokens) * 60 / self.per_minute
            raise Refusal(429, f"more than {self.per_minute} images in a minute from {client}", retry_after_s=wait)


async def limited_stream(
    request: Request, limit_bytes: int, *, spare_bytes: int = 0, what: str = "image"
) -> AsyncIterator[bytes]:
    """Read a body and stop as soon as it is too long.

    Args:
        request: Its body has not been read.
        limit_bytes: Largest file, which the message names.
        spare_bytes: What the body may hold besides it.
        what: The body is, for the message.

    Yields:
        The body in pieces, as they come.

    Raises:
        Refusal: 413; if the client states the length, before anything is read.
    """
    refusal = Refusal(413, f"the {what} is larger than {limit_bytes / 1e6:g} MB")
    refusal.headers["Connection"] = "close"  # else the rest would be received, only to be thrown away
    limit, stream = limit_bytes + spare_bytes, request.stream()
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and (len(stated) > 18 or int(stated) > limit):  # int() itself refuses very long texts
        if "expect" not in request.headers:  # who sends it waits for our word and needs no discarding
            await _discard(stream, limit)
        raise refusal
    received = 0
    async for piece in stream:
        received += len(piece)
        if received > limit:
            await _discard(stream, limit)
            raise refusal
        yield piece


async def _discard(stream: AsyncIterator[bytes], limit_bytes: int) -> None:
    """Receive a little more for nothing: closing at once would reset the connection before the client reads why."""
    received = 0
    with contextlib.suppress(TimeoutError, ClientDisconnect):
        async with asyncio.timeout(DISCARD_S):
            async for piece in stream:
                received += len(piece)
                if received > limit_bytes:
                    return
