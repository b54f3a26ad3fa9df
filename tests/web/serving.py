"""The API over real HTTP: the application on a port, with a store behind it."""

import asyncio
import http.client
import json
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from queue import Queue
from typing import Any, TypeVar

from msgspec import Struct
from msgspec.structs import replace
from starlette.applications import Starlette

from smtpproxy.settings import Settings, StoreSettings, TokenSettings
from smtpproxy.sinks.collector import SnapshotCollector
from smtpproxy.sinks.snapshots import Snapshot
from smtpproxy.store import open_answers, open_breaker, open_store
from smtpproxy.store.sql.store import Store
from smtpproxy.web.api import Api
from smtpproxy.web.app import Monitoring, create_app
from smtpproxy.web.health import Health, Readiness
from smtpproxy.web.server import serve_web
from tests.kit.store import TrialStore


def token(
    name: str, *may: str, per_minute: int = 600, brands: frozenset[str] = frozenset()
) -> TokenSettings:
    """A token whose secret is its own name."""
    digest = sha256(name.encode()).hexdigest()
    return TokenSettings(name, digest, frozenset(may), brands, per_minute)  # type: ignore[arg-type]


class Answer(Struct, frozen=True):
    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


class Site:
    """The application on a port, with a store."""

    def __init__(self, store: TrialStore, port: int, stop: asyncio.Event) -> None:
        self.store = store
        self.port = port
        self.stop = stop

    async def ask(
        self,
        path: str,
        who: str | None = "crm",
        *,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        given = {} if who is None else {"Authorization": f"Bearer {who}"}
        return await asyncio.to_thread(
            self._request, path, method, {**given, **(headers or {})}, body
        )

    async def post(
        self, path: str, asked: object, who: str | None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        body = asked if isinstance(asked, bytes) else json.dumps(asked).encode()
        return await self.ask(path, who, method="POST", body=body, headers=headers)

    def _request(
        self, path: str, method: str, headers: dict[str, str], body: bytes | None
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body=body, headers=headers)
            response = connection.getresponse()
            found = {key.lower(): value for key, value in response.getheaders()}
            return Answer(response.status, found, response.read().decode())
        finally:
            connection.close()


def now() -> datetime:
    return datetime.now(UTC)


S = TypeVar("S", bound=Site)


def api_over(store: TrialStore, settings: Settings, **more: Any) -> Api:
    """The API over a store, whose folder holds everything else it keeps."""
    folder = Path(store.folder.name)
    kept = StoreSettings(f"sqlite://{folder}/store.db")
    settings = replace(settings, server=replace(settings.server, state_dir=folder), store=kept)
    return Api(
        settings,
        store,
        lambda: store,
        answers=open_answers(kept, now),
        now=now,
        version="0",
        streams=open_breaker(settings, lambda: store).status,
        **more,
    )


def _app(store: Store, settings: Settings, api: Api) -> Starlette:
    async def stats() -> Snapshot:
        return Snapshot()

    async def health() -> Health:
        return Health(1, 1)

    async def ready() -> Readiness:
        return Readiness("ok", "ok", "ok")

    collector = SnapshotCollector(settings, version="0", started_at=1.0)
    monitoring = Monitoring(
        stats, health, ready, collector, backlog=store.backlog, counting=[api.snapshot]
    )
    return create_app(monitoring.routes, api.routes)


@contextmanager
def served_aside(settings: Settings) -> Iterator[str]:
    """Serve the API in a thread, with the store and folder of the settings; yield its URL."""
    sock = socket.create_server(("127.0.0.1", 0))
    loops: Queue[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Queue()

    async def serve() -> None:
        store, stop = open_store(settings.store, settings.server.state_dir), asyncio.Event()
        loops.put((asyncio.get_running_loop(), stop))
        api = Api(
            settings,
            store,
            lambda: store,
            answers=open_answers(settings.store, now),
            now=now,
            version="0",
            stop=stop,
            streams=open_breaker(settings, lambda: store).status,
        )
        await serve_web(_app(store, settings, api), sock, stop)
        await store.close()

    with ThreadPoolExecutor(1) as aside:
        served = aside.submit(asyncio.run, serve())
        loop, stop = loops.get(timeout=30)
        try:
            yield f"http://127.0.0.1:{sock.getsockname()[1]}"
        finally:
            loop.call_soon_threadsafe(stop.set)
            served.result(30)


@asynccontextmanager
async def serving(kind: type[S], settings: Settings) -> AsyncIterator[S]:
    """Serve the API with these settings."""
    store = TrialStore(copy=True)
    sock = socket.create_server(("127.0.0.1", 0))
    stop = asyncio.Event()
    app = _app(store, settings, api_over(store, settings, stop=stop))
    task = asyncio.create_task(serve_web(app, sock, stop))
    try:
        yield kind(store, sock.getsockname()[1], stop)
    finally:
        stop.set()
        await asyncio.wait_for(task, 10)
        await store.close()
