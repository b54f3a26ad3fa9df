"""The API under /v1: bearer tokens, JSON, nothing that a cache may keep, and a description."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec
import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from smtpproxy.locale import REFERENCE
from smtpproxy.locale.pages import environment
from smtpproxy.settings import TokenSettings
from smtpproxy.sinks.metrics import Labels, Snapshot
from smtpproxy.store.propagation import ChangeLog
from smtpproxy.store.protocols import FactReader, StoreUnavailable
from smtpproxy.web.api_consent import CONSENT, PERMISSION, ConsentOperation, PermissionOperation
from smtpproxy.web.api_operations import CHANGES, CHECK, ChangeFeed, Operation, check
from smtpproxy.web.consent_by_mail import ConsentByMail
from smtpproxy.web.tokens import UNKNOWN, Error, Gate, Refused

Json = dict[str, Any]

_ERRORS: Mapping[int, tuple[type[Error], str]] = {
    400: (Error, "The request is not as described here; `message` says what is wrong."),
    401: (Error, "There is no token, or no known one."),
    403: (Error, "The token lacks the right."),
    429: (Error, "The token asks too often; `Retry-After` says when to ask again."),
    503: (Error, "The store does not answer now; ask again."),
}


def document(operations: Sequence[Operation], version: str) -> Json:
    """Return the whole description (OpenAPI 3.1), for this version of the product."""
    records = {record for operation in operations for record in _records(operation)}
    ordered = sorted(records, key=lambda record: record.__name__)
    _, schemas = msgspec.json.schema_components(ordered, ref_template="#/components/schemas/{name}")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "smtpproxy",
            "version": version,
            "description": "Who must not be mailed any more, for other senders of the same"
            " company. docs/propagation.md tells how to use it.",
        },
        "paths": {each.path: {each.method.lower(): _operation(each)} for each in operations},
        "components": {
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Made by `smtpproxy token`, named in a `[[token]]` table.",
                }
            },
            "schemas": schemas,
        },
    }


def page(document: Json) -> str:
    """Return the description for people: one page that loads nothing from elsewhere."""
    template = environment(REFERENCE).get_template("api.html")
    return template.render(api=document)


def _records(operation: Operation) -> list[type[msgspec.Struct]]:
    body = [] if operation.body is None else [operation.body]
    return [operation.answers, *body, *(record for record, _ in _errors(operation).values())]


def _errors(operation: Operation) -> Mapping[int, tuple[type[Error], str]]:
    return {**_ERRORS, **operation.errors}


def _operation(operation: Operation) -> Json:
    described: Json = {
        "summary": operation.summary,
        "description": operation.description,
        "operationId": operation.name,
        "security": [{"token": []}],
    }
    if operation.query is not None:
        described["parameters"] = _parameters(operation.query)
    if operation.body is not None:
        described["requestBody"] = {"required": True, "content": _content(operation.body)}
    answers = {200: (operation.answers, operation.answer), **_errors(operation)}
    described["responses"] = {
        str(status): {"description": text, "content": _content(record)}
        for status, (record, text) in sorted(answers.items())
    }
    return described


def _parameters(query: type[msgspec.Struct]) -> list[Json]:
    fields = msgspec.json.schema(query)["$defs"][query.__name__]["properties"]
    return [
        {"name": name, "in": "query", "description": schema.pop("description"), "schema": schema}
        for name, schema in fields.items()
    ]


def _content(record: type[msgspec.Struct]) -> Json:
    schema = {"$ref": f"#/components/schemas/{record.__name__}"}
    return {"application/json": {"schema": schema}}


Answer = Callable[[Request], Awaitable[msgspec.Struct]]

log = structlog.get_logger(__name__)


class ApiStore(FactReader, ChangeLog, Protocol):
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
        by_mail: ConsentByMail | None = None,
    ) -> None:
        """`by_mail` asks people for consent; None where that is not configured."""
        self._gate = Gate(tokens, time.monotonic)
        feed = ChangeFeed(store, stop or asyncio.Event())
        self.operations: list[tuple[Operation, Answer]] = [
            (CHANGES, feed),
            (CHECK, lambda request: check(request, store)),
        ]
        if by_mail is not None:
            self.operations.append((CONSENT, ConsentOperation(by_mail)))
            self.operations.append((PERMISSION, PermissionOperation(by_mail)))
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
