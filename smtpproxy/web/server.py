"""Runs the web application on the loop of its process, on a socket that is bound already."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import cast

import uvicorn
from starlette.types import ASGIApp

from smtpproxy.web.connections import KEEP_ALIVE, ConnectionTable, HttpConnection

SHUTDOWN_TIMEOUT = 5  # seconds for requests that are running when it stops


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: when to stop is for the process to say."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve_web(
    app: ASGIApp,
    sock: socket.socket,
    stop: asyncio.Event,
    *,
    trusts: Callable[[str], bool] = lambda peer: False,
) -> None:
    """Serve until `stop` is set, then let running requests finish and return.

    `sock` is a bound TCP or Unix stream socket; it is closed at the end. `trusts`: see
    `ConnectionTable`.
    """
    connection = partial(HttpConnection, table=ConnectionTable(trusts))
    config = uvicorn.Config(
        app,
        http=cast(type[asyncio.Protocol], connection),
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",  # anybody can make it warn at will
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE,
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
