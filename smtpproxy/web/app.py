"""The web application: /metrics, /healthz, /readyz, links for people, and the API under /v1."""

import asyncio
import gzip
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

import structlog
from msgspec.structs import replace
from prometheus_client.exposition import choose_encoder, gzip_accepted
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from smtpproxy.sinks.collector import SnapshotCollector, snapshot_gauges, store_gauges
from smtpproxy.sinks.snapshots import Labels, Samples, Snapshot, merge
from smtpproxy.store.breaker import StreamStatus
from smtpproxy.store.keys import PartnerSnapshot
from smtpproxy.store.propagation import Backlog
from smtpproxy.web.api.problems import MEDIA_TYPE, encoded, problem_of
from smtpproxy.web.health import Cached, Health, Readiness

LONGEST_TARGET = 8_000  # octets of path and query (RFC 9110 4.1)
LARGEST_HEADER = 16 * 1024  # octets

HEADERS: Mapping[str, str] = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Headers of every answer, unless its endpoint sets them."""

log = structlog.get_logger(__name__)


class Boundary:
    """ASGI middleware: bounds on requests, protective headers, and errors that reveal nothing.

    A path with an encoded slash is answered 404, as a proxy in front might read it differently.
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

        path = (scope.get("raw_path") or b"").decode("latin-1")
        refusal = _out_of_bounds(scope, path)
        if refusal is not None:
            await refusal(scope, receive, protected)
            return
        try:
            await self._app(scope, receive, protected)
        except Exception as error:
            log.error("internal error", exc_info=error)
            if started:
                raise  # the server then closes: half an answer must not look whole
            await _error(path, 500, "internal error")(scope, receive, protected)


def _out_of_bounds(scope: Scope, path: str) -> Response | None:
    names = {name for name, _ in scope["headers"]}
    if sum(len(name) + len(value) for name, value in scope["headers"]) > LARGEST_HEADER:
        return _error(path, 431, f"a header section has at most {LARGEST_HEADER} octets")
    if {b"content-length", b"transfer-encoding"} <= names:
        # A proxy in front may use the other one and see a second request (RFC 9112 6.3).
        text = "a request has Content-Length or Transfer-Encoding, not both"
        return _error(path, 400, text, {"Connection": "close"})
    if len(path) + len(scope["query_string"]) > LONGEST_TARGET:
        return _error(path, 414, f"a target has at most {LONGEST_TARGET} octets")
    return _error(path, 404, "Not Found") if "%2f" in path.lower() else None


def _error(
    path: str, status: int, error: str, headers: Mapping[str, str] | None = None
) -> Response:
    """Return the answer to a request with an error, under /v1 in the API's format."""
    problem = problem_of(status, error) if path.startswith("/v1/") else None
    if problem is not None:
        return Response(encoded(problem, path), status, headers, MEDIA_TYPE)
    return Response(json.dumps({"error": error}), status, headers, "application/json")


def webhook_gauges(backlog: Mapping[str, Backlog], now: datetime) -> Mapping[str, Samples]:
    """Return the gauges of a store's `backlog()`. Lags are in seconds."""
    lag: dict[Labels, float] = {}
    for name, owed in backlog.items():
        age = 0.0 if owed.oldest is None else (now - owed.oldest).total_seconds()
        lag[(name,)] = max(0.0, age)
    return {
        "webhook_lag_seconds": lag,
        "webhook_dead_letters": {(name,): owed.dead_letters for name, owed in backlog.items()},
        "webhook_disabled": {(name,): owed.disabled for name, owed in backlog.items()},
    }


def stream_gauges(streams: Sequence[StreamStatus]) -> Mapping[str, Samples]:
    """Return the gauges of a breaker's `status()`."""
    return {
        "stream_paused": {(s.name, s.cause): 1 for s in streams if s.cause is not None},
        "stream_sent": {(s.name,): s.tally.messages for s in streams},
        "stream_heard": {
            (s.name, str(kind)): n for s in streams for kind, n in s.tally.heard.items()
        },
        "stream_bound_reached": {(s.name, str(one.cause)): 1 for s in streams for one in s.reached},
    }


T = TypeVar("T")
Ask = Callable[[], Awaitable[T]]
StoreCounts = tuple[int, Mapping[tuple[str, str], int]]

ANSWER_TIMEOUT = 5.0  # seconds; Prometheus gives up on a scrape after 10
COUNTS_EVERY = 30.0  # counting a large table takes longer than a scrape should
COUNTS_WITHIN = 0.5  # seconds that /readyz waits for them, as balancers and Kubernetes wait for 1


def create_app(*routes: Sequence[Route]) -> Starlette:
    """Return the application with these routes."""
    app = Starlette(
        routes=[each for some in routes for each in some],
        middleware=[Middleware(Boundary)],
        exception_handlers={HTTPException: _plain_error},
    )
    app.router.redirect_slashes = False  # it would redirect to whatever Host says
    return app


@dataclass(eq=False)
class Monitoring:
    """The three monitoring endpoints.

    `stats` returns the totals of all workers, `health` the state of the workers, `ready` which
    parts work now, `counts` what the store holds (`store.counts`), `backlog` what webhooks have
    yet to deliver (`store.backlog`), `snapshots` those of the partners (`store.snapshots`),
    `streams` the state of the streams (`breaker.status`), `counting` what parts of this process
    have counted.
    """

    stats: Ask[Snapshot]
    health: Ask[Health]
    ready: Ask[Readiness]
    collector: SnapshotCollector
    counts: Ask[StoreCounts] | None = None
    backlog: Ask[Mapping[str, Backlog]] | None = None
    snapshots: Ask[Mapping[str, PartnerSnapshot]] | None = None
    streams: Ask[Sequence[StreamStatus]] | None = None
    counting: Sequence[Callable[[], Snapshot]] = ()

    def __post_init__(self) -> None:
        self._counted: Mapping[str, Samples] = {}
        self._count_again = Cached(self._count, COUNTS_EVERY)
        self._writing = asyncio.Lock()

    @property
    def routes(self) -> list[Route]:
        return [
            Route("/metrics", self.metrics),
            Route("/healthz", self.healthz),
            Route("/readyz", self.readyz),
        ]

    async def metrics(self, request: Request) -> Response:
        snapshot, (health, readiness), _ = await asyncio.gather(
            _answer(self.stats), self._state(), self._counted_within(ANSWER_TIMEOUT)
        )
        if snapshot is None:
            return JSONResponse({"error": "the numbers of the workers are not available"}, 503)
        parts = {} if readiness is None else readiness.parts
        snapshot = merge((snapshot, *(count() for count in self.counting)))
        gauges: dict[str, Samples] = {
            **self._counted,
            "time_seconds": {(): datetime.now(UTC).timestamp()},
            "ready": {
                ("workers",): float(health is not None and health.ok),
                **{(part,): float(state == "ok") for part, state in parts.items()},
            },
        }
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        headers = {"Content-Type": content_type, "Vary": "Accept, Accept-Encoding"}
        zipped = gzip_accepted(request.headers.get("accept-encoding", ""))
        if zipped:
            headers["Content-Encoding"] = "gzip"

        def page() -> bytes:
            self.collector.snapshot = snapshot.with_gauges(gauges)
            self.collector.openmetrics = content_type.startswith("application/openmetrics-text")
            written: bytes = encode(self.collector)
            return gzip.compress(written, compresslevel=1) if zipped else written  # to a twentieth

        async with self._writing:  # in a thread: with many streams it takes long
            return Response(await asyncio.to_thread(page), headers=headers)

    async def healthz(self, request: Request) -> Response:
        """Answer whether the workers are alive; if not, a restart may help."""
        health = await _answer(self.health)
        if health is None:
            return JSONResponse({"status": "failing"}, 503)
        workers = {"configured": health.workers, "alive": health.alive}
        if health.ok:
            return JSONResponse({"status": "ok", "workers": workers}, 200)
        return JSONResponse({"status": "failing", "workers": workers}, 503)

    async def readyz(self, request: Request) -> Response:
        """Answer whether mail would be accepted and relayed now."""
        _, readiness = await self._state()
        if readiness is None:
            return JSONResponse({"status": "failing"}, 503)
        await self._counted_within(COUNTS_WITHIN)
        paused = sorted(name for name, _ in self._counted.get("stream_paused", ()))
        body = {
            "parts": readiness.parts,
            **_upstream_pool(await _answer(self.stats)),
            **({"streams_paused": paused} if paused else {}),
        }
        if readiness.ok:
            return JSONResponse({"status": "ok", **body}, 200)
        status = "draining" if readiness.listeners == "draining" else "failing"
        return JSONResponse({"status": status, **body}, 503)

    async def _state(self) -> tuple[Health | None, Readiness | None]:
        """Return both; without a live worker the listeners are failing."""
        health = await _answer(self.health)
        readiness = await _answer(self.ready)
        if readiness is not None and readiness.listeners == "ok" and not (health and health.alive):
            readiness = replace(readiness, listeners="failing")
        return health, readiness

    async def _counted_within(self, seconds: float) -> None:
        """Refresh the store's counts if need be, but wait no longer than that for the new ones."""
        await asyncio.wait({asyncio.ensure_future(self._count_again())}, timeout=seconds)

    async def _count(self) -> None:
        """Refresh the store's counts; keep the old ones when it does not answer."""
        try:
            if self.counts is not None:
                self._counted = {**self._counted, **store_gauges(*await self.counts())}
            if self.backlog is not None:
                lags = webhook_gauges(await self.backlog(), datetime.now(UTC))
                self._counted = {**self._counted, **lags}
            if self.snapshots is not None:
                found = await self.snapshots()
                taken = snapshot_gauges({name: one.taken_at for name, one in found.items()})
                self._counted = {**self._counted, **taken}
            if self.streams is not None:
                self._counted = {**self._counted, **stream_gauges(await self.streams())}
        except Exception as error:
            log.warning("store_counts_failed", error=repr(error))


async def _answer(ask: Ask[T]) -> T | None:
    """Return the answer, or None if it does not come in time."""
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT):
            return await ask()
    except Exception as error:
        log.warning("web_question_failed", error=repr(error))
        return None


def _upstream_pool(snapshot: Snapshot | None) -> Mapping[str, object]:
    """Return whether messages wait for a connection. Readiness does not fail for that."""
    gauges = {} if snapshot is None else snapshot.gauges
    if "upstream_waiting" not in gauges:
        return {}
    return {
        "upstream_pool": {
            "state": "saturated" if gauges["upstream_saturated_workers"][()] else "ok",
            "busy": int(gauges["upstream_connections"][("busy",)]),
            "limit": int(gauges["upstream_connections_limit"][()]),
            "waiting": int(gauges["upstream_waiting"][()]),
        }
    }


async def _plain_error(request: Request, error: Exception) -> Response:
    """Answer 404, 405 and the like as JSON."""
    assert isinstance(error, HTTPException)
    token = request.path_params.get("token")
    if error.status_code == 405 and token is not None and (not token or "/" in token):
        error = HTTPException(404)  # cut off or too long: no link, whatever the method
    return _error(request.scope["path"], error.status_code, error.detail, error.headers)
