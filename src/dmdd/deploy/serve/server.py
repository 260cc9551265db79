"""The process around the application: it ends cleanly on a signal."""

import signal
import socket

import uvicorn
from fastapi import FastAPI

GRACE_S = 5
"""Seconds that running requests have to finish after a signal."""

CONNECTIONS = 512
"""Open connections beyond which uvicorn answers 503 by itself."""


def make_server(app: FastAPI) -> uvicorn.Server:
    """Set up the server around an application; ``run(sockets=[...])`` starts it.

    Args:
        app: What answers.

    Returns:
        It does not listen yet.
    """
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        ws="none",
        server_header=False,
        proxy_headers=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=GRACE_S,
    )
    return uvicorn.Server(config)


def run_server(app: FastAPI, listener: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM, then return.

    Args:
        app: What answers.
        listener: Bound already.
    """
    # uvicorn raises the signal again when it is done; a server that ended as asked leaves with code 0.
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        make_server(app).run(sockets=[listener])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
