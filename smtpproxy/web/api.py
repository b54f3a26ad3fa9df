"""The API under /v1: bearer tokens, JSON, and nothing that a cache may keep."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from smtpproxy.settings import TokenSettings
from smtpproxy.sinks.snapshot import Labels, Snapshot
from smtpproxy.store.protocols import FactReader, StoreUnavailable, SuppressionChanges
from smtpproxy.web.api_changes import Changes
from smtpproxy.web.api_check import check
from smtpproxy.web.api_document import document
from smtpproxy.web.api_page import page
from smtpproxy.web.tokens import UNKNOWN, Gate, Refused

Answer = Callable[[Request], Awaitable[Mapping[str, object]]]

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
        self._store = store
        self._gate = Gate(tokens, time.monotonic)
        self._changes = Changes(store, stop or asyncio.Event())
        self._document = document(version)
        self._page = page(self._document)
        self._counted: dict[Labels, float] = {}

    @property
    def routes(self) -> list[Route]:
        return [
            Route("/v1/suppressions/changes", self._answering("changes", self._changes)),
            Route(
                "/v1/suppressions/check",
                self._answering("check", lambda request: check(request, self._store)),
                methods=["POST"],
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
                response = _json(400, {"error": "gone", "message": "the request ended early"})
            except StoreUnavailable as error:
                log.warning("api_store_failed", error=str(error))
                body = {"error": "store_unavailable", "message": "try again in some seconds"}
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
    status: int, content: Mapping[str, object], headers: Mapping[str, str] | None = None
) -> JSONResponse:
    return JSONResponse(content, status, headers=headers)
