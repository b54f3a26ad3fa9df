"""Runs the web application on the loop of its process, on a socket that is bound already."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

SHUTDOWN_TIMEOUT = 5  # seconds for requests that are running when it stops
MAX_CONNECTIONS = 1_000


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: when to stop is for the process to say."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve_web(app: ASGIApp, sock: socket.socket, stop: asyncio.Event) -> None:
    """Serve until `stop` is set, then let running requests finish and return.

    `sock` is a bound TCP or Unix stream socket; it is closed at the end.
    """
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=SHUTDOWN_TIMEOUT,
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[sock]))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        server.should_exit = True
    await serving
