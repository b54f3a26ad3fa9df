"""The API under /v1: bearer tokens, JSON, and nothing that a cache may keep."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

import msgspec
import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from smtpproxy.settings import TokenSettings
from smtpproxy.sinks.metrics import Labels, Snapshot
from smtpproxy.store.protocols import FactReader, StoreUnavailable, SuppressionChanges
from smtpproxy.web.api_operations import CHANGES, CHECK, ChangeFeed, Operation, check
from smtpproxy.web.openapi import document, page
from smtpproxy.web.tokens import UNKNOWN, Error, Gate, Refused

Answer = Callable[[Request], Awaitable[msgspec.Struct]]

log = structlog.get_logger(__name__)


class ApiStore(FactReader, SuppressionChanges, Protocol):
    """What the API needs of a store."""


class Api:
    """The routes, and how often they were used. Long polls end when `stop` is set."""

    def __init__(
        self,
        store: ApiStore,
        tokens: Sequence[TokenSettings],
        *,
        version: str,
        stop: asyncio.Event | None = None,
    ) -> None:
        self._gate = Gate(tokens, time.monotonic)
        feed = ChangeFeed(store, stop or asyncio.Event())
        self.operations: list[tuple[Operation, Answer]] = [
            (CHANGES, feed),
            (CHECK, lambda request: check(request, store)),
        ]
        self._document = document([each for each, _ in self.operations], version)
        self._page = page(self._document)
        self._counted: dict[Labels, float] = {}

    @property
    def routes(self) -> list[Route]:
        return [
            *(
                Route(each.path, self._answering(each.name, answer), methods=[each.method])
                for each, answer in self.operations
            ),
            Route("/v1/openapi.json", self._describe),
            Route("/v1/docs", self._show),
        ]

    def snapshot(self) -> Snapshot:
        return Snapshot(counters={"api_requests_total": dict(self._counted)})

    def _answering(self, right: str, answer: Answer) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            authorization = request.headers.get("authorization")
            token = self._gate.who(authorization)
            try:
                self._gate.admit(token, right, given=authorization is not None)
                response = _json(200, await answer(request))
            except Refused as refused:
                response = _json(refused.status, refused.body, refused.headers)
            except ClientDisconnect:
                response = _json(400, Error("gone", "the request ended early"))
            except StoreUnavailable as error:
                log.warning("api_store_failed", error=str(error))
                body = Error("store_unavailable", "try again in some seconds")
                response = _json(503, body, {"Retry-After": "5"})
            row = (token.name if token else UNKNOWN, f"{response.status_code // 100}xx")
            self._counted[row] = self._counted.get(row, 0) + 1
            return response

        return endpoint

    async def _describe(self, request: Request) -> Response:
        return JSONResponse(self._document, headers={"Cache-Control": "no-cache"})

    async def _show(self, request: Request) -> Response:
        headers = {
            "Cache-Control": "no-cache",
            "Content-Security-Policy": (
                "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
            ),
        }
        return HTMLResponse(self._page, headers=headers)


def _json(
    status: int, record: msgspec.Struct, headers: Mapping[str, str] | None = None
) -> Response:
    body = msgspec.json.encode(record)
    return Response(body, status, headers=headers, media_type="application/json")
