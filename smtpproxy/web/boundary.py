"""What holds for every request and every answer, whichever endpoint it is."""

import json
from collections.abc import Mapping

import structlog
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LONGEST_TARGET = 8_000  # octets of path and query (RFC 9110 4.1)
LARGEST_HEADER = 16 * 1024  # octets

HEADERS: Mapping[str, str] = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""What an answer has unless its endpoint says otherwise."""

log = structlog.get_logger(__name__)


class Boundary:
    """An ASGI middleware: targets that can be meant, headers that protect, faults without words.

    A path with an encoded slash is answered 404: a proxy in front and the routes here would
    not read it alike.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def protected(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        path: bytes = scope.get("raw_path") or b""
        if sum(len(name) + len(value) for name, value in scope["headers"]) > LARGEST_HEADER:
            await _answer(protected, 431, f"a header section has at most {LARGEST_HEADER} octets")
        elif len(path) + len(scope["query_string"]) > LONGEST_TARGET:
            await _answer(protected, 414, f"a target has at most {LONGEST_TARGET} octets")
        elif b"%2f" in path.lower():
            await _answer(protected, 404, "Not Found")
        else:
            try:
                await self._app(scope, receive, protected)
            except Exception as error:
                log.error("internal error", exc_info=error)
                if started:
                    raise  # the server ends the connection, or half an answer would look whole
                await _answer(protected, 500, "internal error")


async def _answer(send: Send, status: int, error: str) -> None:
    body = json.dumps({"error": error}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
