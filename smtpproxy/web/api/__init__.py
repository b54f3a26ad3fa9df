"""The API under /v1: bearer tokens, JSON, no caching, and its own description."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import cached_property
from hashlib import sha256
from hmac import compare_digest

import msgspec
import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from smtpproxy.access import Access, OthersConcerned
from smtpproxy.settings import Settings, TokenSettings
from smtpproxy.sinks.snapshots import Labels, Samples, Snapshot
from smtpproxy.store.breaker import StreamStatus
from smtpproxy.store.records import StoreUnavailable
from smtpproxy.store.sql.store import Store
from smtpproxy.store.sql.web_tables import KeptAnswer, KeptAnswers
from smtpproxy.web.api.by_mail import ByMail
from smtpproxy.web.api.consents import Consents
from smtpproxy.web.api.contacts import Contacts
from smtpproxy.web.api.description import Json, document, page
from smtpproxy.web.api.import_jobs import Imports
from smtpproxy.web.api.operation import (
    Answer,
    Call,
    Operation,
    Versioned,
    check_names_once,
    header_once,
    operations_of,
    read_octets,
)
from smtpproxy.web.api.problems import MEDIA_TYPE, Refused, encoded
from smtpproxy.web.api.propagation import Propagation
from smtpproxy.web.api.streams import Streams
from smtpproxy.web.api.suppressions import Suppressions
from smtpproxy.web.api.verdicts import Verdicts
from smtpproxy.web.consent_by_mail import ConsentByMail
from smtpproxy.web.rates import Bucket

_LONGEST_KEY = 255

log = structlog.get_logger(__name__)


class Api:
    """The routes, with counts of their use. Long polls end when `stop` is set."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        writer: Callable[[], Store],
        *,
        answers: KeptAnswers,
        now: Callable[[], datetime],
        version: str,
        stop: asyncio.Event | None = None,
        streams: Callable[[], Awaitable[Sequence[StreamStatus]]],
        by_mail: ConsentByMail | None = None,
    ) -> None:
        """`store` is for reading; `writer` returns the one for writing, opened at first use.

        `streams` returns their state (`breaker.status`); `by_mail` asks people for consent, None
        if that is not configured.
        """
        self._answers = answers
        self._gate = Gate(settings.tokens, time.monotonic)
        self._access = {
            token.name: Access(token.name, token.brands, settings) for token in settings.tokens
        }
        given = (settings, store, writer, now)
        self._imports = Imports(*given)
        parts = (
            Propagation(store, stop or asyncio.Event()),
            Suppressions(*given),
            Consents(*given),
            Contacts(*given),
            Verdicts(*given),
            Streams(*given, streams),
            self._imports,
            *(() if by_mail is None else (ByMail(by_mail),)),
        )
        self.operations = [each for part in parts for each in operations_of(part)]
        self._version = version
        self._counted: Counter[Labels] = Counter()
        self._failed = 0

    @cached_property
    def _document(self) -> Json:
        """The description for programs; made at first use, as it takes two megabytes."""
        return document([each for each, _ in self.operations], self._version)

    @cached_property
    def _page(self) -> str:
        """The description for people; made at first use, as it would slow down the start."""
        return page(self._document)

    @property
    def routes(self) -> list[Route]:
        by_path: dict[str, dict[str, Callable[[Request], Awaitable[Response]]]] = {}
        for each, answer in self.operations:
            by_path.setdefault(each.path, {})[each.method] = self._answering(each, answer)
        return [
            *(
                Route(path, _by_method(endpoints), methods=list(endpoints))
                for path, endpoints in sorted(by_path.items(), key=lambda item: "{" in item[0])
            ),
            Route("/v1/openapi.json", self._describe),
            Route("/v1/docs", self._show),
        ]

    def snapshot(self) -> Snapshot:
        failed: Samples = {("api",): self._failed}
        return Snapshot(
            counters={"api_requests_total": dict(self._counted), "web_failures_total": failed}
        )

    def _answering(
        self, operation: Operation, answer: Answer
    ) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            token = None
            try:
                authorization = header_once(request, "authorization")
                token = self._gate.who(authorization)
                given = authorization is not None
                admitted = self._gate.admit(token, operation.right, given=given)
                body = b"" if operation.body is None else await read_octets(request)
                check_names_once(body)
                call = Call(request, self._access[admitted.name], body)
                response = _answered(operation, await self._answer(operation, answer, call))
            except Refused as refused:
                response = _refused(request, refused)
            except OthersConcerned as error:
                response = _refused(request, Refused("not_of_your_brand", str(error)))
            except ClientDisconnect:
                response = _refused(request, Refused("gone", "the request ended early"))
            except StoreUnavailable as error:
                log.warning("api_store_failed", operation=operation.name, error=str(error))
                self._failed += 1
                again = {"Retry-After": "5"}
                problem = Refused("store_unavailable", "try again in a few seconds", headers=again)
                response = _refused(request, problem)
            if token is not None:
                response.headers.update(self._gate.rate(token))
            name = token.name if token else UNKNOWN
            if operation.writes and response.status_code == operation.status:
                log.info("api_write", operation=operation.name, token=name)
            self._counted[name, f"{response.status_code // 100}xx"] += 1
            return response

        return endpoint

    async def _answer(self, operation: Operation, answer: Answer, call: Call) -> KeptAnswer:
        if not operation.takes_file:
            return await self._once(operation, answer, call)
        id, asked = await self._imports.receive(call)
        try:
            return await self._once(
                operation, answer, Call(call.request, call.access, asked, received=id)
            )
        finally:
            self._imports.discard(id)

    async def _once(self, operation: Operation, answer: Answer, call: Call) -> KeptAnswer:
        """Answer the call, from memory if the same idempotency key was already answered."""
        key = header_once(call.request, "idempotency-key") if operation.keyed else None
        if key is None:
            return _encoded(await answer(call))
        if not 0 < len(key) <= _LONGEST_KEY or not all("!" <= each <= "~" for each in key):
            raise Refused("parameter_wrong", f"Idempotency-Key: 1 to {_LONGEST_KEY} of ! to ~")
        conditions = [call.request.headers.get(each, "") for each in ("if-match", "if-none-match")]
        asked = "\0".join((operation.name, *conditions, "")).encode() + call.body
        who = call.access.token
        begun = await self._answers.begin(who, key, asked)
        if isinstance(begun, KeptAnswer):
            return begun
        if begun == "other":
            raise Refused("key_reused", "use a new key for a different request")
        if begun == "running":
            again = {"Retry-After": "1"}
            raise Refused("in_progress", "repeat the request to get its answer", headers=again)
        try:
            done = _encoded(await answer(call))
        except BaseException:
            with suppress(StoreUnavailable):
                await self._answers.forget(who, key)
            raise
        with suppress(StoreUnavailable):
            await self._answers.finish(who, key, done)  # else the call was made all the same
        return done

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


def _by_method(
    endpoints: Mapping[str, Callable[[Request], Awaitable[Response]]],
) -> Callable[[Request], Awaitable[Response]]:
    """Return one endpoint for all methods of a path, so that a 405 lists them all."""

    async def endpoint(request: Request) -> Response:
        method = "GET" if request.method == "HEAD" else request.method
        return await endpoints[method](request)

    return endpoint


def _encoded(answer: msgspec.Struct) -> KeptAnswer:
    if isinstance(answer, Versioned):
        return KeptAnswer(msgspec.json.encode(answer.record), answer.version)
    return KeptAnswer(msgspec.json.encode(answer))


def _answered(operation: Operation, answer: KeptAnswer) -> Response:
    headers = {} if answer.version is None else {"ETag": f'"{answer.version}"'}
    if operation.location:
        id = msgspec.json.decode(answer.body)["id"]
        headers["Location"] = operation.location.replace("{id}", id)
    return Response(answer.body, operation.status, headers, "application/json")


def _refused(request: Request, refused: Refused) -> Response:
    body = encoded(refused.body, request.scope["path"])
    return Response(body, refused.status, refused.headers, MEDIA_TYPE)


UNKNOWN = "unknown"
"""The name under which requests without a known token are counted."""


class Gate:
    """Knows the tokens by their hashes. `clock`: monotonic seconds."""

    def __init__(self, tokens: Sequence[TokenSettings], clock: Callable[[], float]) -> None:
        self._tokens = tuple(tokens)
        self._hashes = tuple(bytes.fromhex(token.sha256) for token in tokens)
        self._buckets = {token.name: Bucket(token.requests_per_minute) for token in tokens}
        self._clock = clock

    def who(self, authorization: str | None) -> TokenSettings | None:
        """Return the token of an Authorization header.

        Every hash is compared in constant time, whichever matches.
        """
        scheme, _, secret = (authorization or "").strip().partition(" ")
        digest = sha256(secret.strip().encode("utf-8", "surrogateescape")).digest()
        found = None
        for token, known in zip(self._tokens, self._hashes, strict=True):
            if compare_digest(digest, known):
                found = token
        return found if scheme.lower() == "bearer" else None

    def admit(self, token: TokenSettings | None, right: str, *, given: bool) -> TokenSettings:
        """Return the token.

        Raises Refused: 401 without a known token, 403 without the right, 429 above its rate.
        """
        if token is None:
            problem = ', error="invalid_token"' if given else ""
            error = "token_unknown" if given else "token_missing"
            raise Refused(
                error,
                "send a known token: Authorization: Bearer TOKEN",
                headers={"WWW-Authenticate": f'Bearer realm="smtpproxy"{problem}'},
            )
        if right not in token.may:
            text = (
                f'the token {token.name} lacks the right "{right}"; `may` in the configuration'
                " grants it"
            )
            challenge = 'Bearer realm="smtpproxy", error="insufficient_scope"'
            headers = {"WWW-Authenticate": challenge}
            raise Refused("not_permitted", text, headers=headers)
        wait = self._buckets[token.name].take(self._clock())
        if wait:
            text = f"the token {token.name} may make {token.requests_per_minute} requests a minute"
            headers = {"Retry-After": str(_whole(wait))}
            raise Refused("too_many_requests", text, headers=headers)
        return token

    def rate(self, token: TokenSettings) -> Mapping[str, str]:
        """Return the header fields with a token's rate limit, and how much of it is left.

        After draft-ietf-httpapi-ratelimit-headers-11. The quota refills continuously, so `t` is
        given only while a client has to wait.
        """
        bucket = self._buckets[token.name]
        then = "" if bucket.left else f";t={_whole(bucket.wait)}"
        return {
            "RateLimit-Policy": f'"token";q={token.requests_per_minute};w=60',
            "RateLimit": f'"token";r={bucket.left}{then}',
        }


def _whole(seconds: float) -> int:
    return int(seconds) + 1
