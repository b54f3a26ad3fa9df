"""The web process: metrics and health for all workers together."""

import asyncio
import itertools
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import uvloop
from starlette.applications import Starlette

from smtpproxy.clock import now
from smtpproxy.intake.accept import TrustedHosts
from smtpproxy.policy.model import BUILT_IN_BRAND
from smtpproxy.process.breaker import StoreToWrite
from smtpproxy.process.children import WEB, Answer, Ask, Channel, Drain, Ready, Start
from smtpproxy.process.memory import freeze_loaded
from smtpproxy.purge_runs import run_metrics
from smtpproxy.settings import Settings
from smtpproxy.sinks.collector import SnapshotCollector, relay_processes
from smtpproxy.sinks.snapshots import Samples, Snapshot, merge
from smtpproxy.store import (
    open_answers,
    open_breaker,
    open_confirmation_limit,
    open_feedback,
    open_store,
)
from smtpproxy.store.feedback import FeedbackLog
from smtpproxy.store.link_keys import LinkReader
from smtpproxy.store.records import StoreUnavailable
from smtpproxy.store.sql.store import Store
from smtpproxy.version import VERSION
from smtpproxy.web.api import Api
from smtpproxy.web.app import Monitoring, create_app
from smtpproxy.web.confirmation import ConfirmationLinks
from smtpproxy.web.consent_by_mail import ConsentByMail
from smtpproxy.web.health import Cached, Health, ReadinessProbe, State, greet, take
from smtpproxy.web.look import Look, looks
from smtpproxy.web.own_mail import submitter
from smtpproxy.web.personal import PersonalPages
from smtpproxy.web.server import serve_web
from smtpproxy.web.unsubscribe import Unsubscribe
from smtpproxy.web.why import reason_pages

_HEARD_WITHIN = 2.0  # seconds; a store that hangs must not take /metrics with it


def run(start: Start, sockets: Mapping[str, socket.socket], channel: socket.socket) -> int:
    return uvloop.run(_serve(start.settings, sockets[WEB], channel, start.started_at))


async def _serve(
    settings: Settings, listening: socket.socket, sock: socket.socket, started_at: float
) -> int:
    channel = await Channel.over(sock)
    supervisor = Supervisor(channel)
    stores = _Stores(settings)
    stop = asyncio.Event()
    trusts = TrustedHosts(settings.web.trusted if settings.web else ()).__contains__
    app = _app(settings, stores, supervisor, stop=stop, trusts=trusts, started_at=started_at)
    freeze_loaded()
    serving = asyncio.create_task(serve_web(app, listening, stop, trusts=trusts))
    supervisor.ready()
    answers = asyncio.create_task(supervisor.listen(stop))
    beating = asyncio.create_task(channel.keep_beating(Snapshot))
    await stop.wait()
    await serving  # requests from before the end are still answered
    answers.cancel()
    beating.cancel()
    await stores.close()
    return 0


class _Stores:
    """What the web process reads and writes."""

    def __init__(self, settings: Settings) -> None:
        self.read = open_store(settings.store, settings.server.state_dir, read_only=True)
        self.write = StoreToWrite(settings)
        self.breaker = open_breaker(settings, self.write)
        self.watched = open_breaker(settings, lambda: self.read, read_only=True)
        self.limit = open_confirmation_limit(settings.store)
        self.answers = open_answers(settings.store, now)
        self.feedback = open_feedback(settings.store)

    async def close(self) -> None:
        for part in (self.breaker, self.watched, self.limit, self.answers, self.feedback):
            part.close()
        await self.write.close()
        await self.read.close()


def _app(
    settings: Settings,
    stores: _Stores,
    supervisor: "Supervisor",
    *,
    stop: asyncio.Event,
    trusts: Callable[[str], bool],
    started_at: float,
) -> Starlette:
    links, pages = LinkReader(settings.server.state_dir), looks(settings)
    by_mail = personal = confirmations = None
    if settings.confirmation is not None:
        by_mail, personal = _asking(settings, stores, pages)
        confirmations = ConfirmationLinks(
            links,
            {"consent": by_mail, "permission": by_mail, "personal": personal},
            pages,
            trusts=trusts,
            now=now,
        )

    api = Api(
        settings,
        stores.read,
        stores.write,
        answers=stores.answers,
        streams=stores.watched.status,
        now=now,
        version=VERSION,
        stop=stop,
        by_mail=by_mail,
    )
    unsubscribe = Unsubscribe(
        links,
        stores.write,
        settings.streams,
        pages,
        now=now,
        breaker=stores.breaker,
        personal=personal,
    )
    parts = [api, unsubscribe, *([confirmations] if confirmations else ())]
    monitoring = _monitoring(settings, stores, supervisor, parts, started_at)
    routes = [part.routes for part in (monitoring, *parts)]
    return create_app(*routes, reason_pages(pages[BUILT_IN_BRAND]))


def _monitoring(
    settings: Settings,
    stores: _Stores,
    supervisor: "Supervisor",
    parts: Sequence[Api | Unsubscribe | ConfirmationLinks],
    started_at: float,
) -> Monitoring:
    heard = _Heard(stores.feedback)

    async def stats() -> Snapshot:
        workers, feedback = await supervisor.stats(), await heard()
        return merge((workers, run_metrics(settings.server.state_dir), feedback))

    return Monitoring(
        stats,
        supervisor.health,
        _readiness(settings, supervisor, stores.read),
        SnapshotCollector(
            settings, version=VERSION, started_at=started_at, processes=relay_processes
        ),
        counts=stores.read.counts,
        backlog=stores.read.backlog if settings.webhooks else None,
        snapshots=stores.read.snapshots if settings.store.partners else None,
        streams=stores.watched.status,
        counting=[part.snapshot for part in parts],
    )


def _asking(
    settings: Settings, stores: _Stores, pages: Mapping[str, Look]
) -> tuple[ConsentByMail, PersonalPages]:
    """The part that asks people by mail, and acts on the link that they follow."""
    asking = (settings, stores.write, submitter(settings), stores.limit)
    return ConsentByMail(*asking, now), PersonalPages(*asking, pages, now)


def _readiness(settings: Settings, supervisor: "Supervisor", store: Store) -> ReadinessProbe:
    return ReadinessProbe(
        listeners=supervisor.listeners,
        store=store.ping,
        upstream=lambda: greet(settings.upstream),
        audit=lambda: take(settings.server.state_dir / "audit"),
    )


class _Heard:
    """Metrics of what came back by mail, and of what is waiting.

    They are the last known ones while the store does not answer: a counter that fell to zero and
    rose again would look like as many new reports.
    """

    def __init__(self, feedback: FeedbackLog) -> None:
        self._feedback = feedback
        self._last = Snapshot()
        self._read_again = Cached(self._read, 0.0)

    async def __call__(self) -> Snapshot:
        await asyncio.wait({asyncio.ensure_future(self._read_again())}, timeout=_HEARD_WITHIN)
        return self._last

    async def _read(self) -> None:
        with suppress(StoreUnavailable):
            totals, waiting = await self._feedback.totals(), await self._feedback.counts()
            reports: Samples = {(state,): n for state, n in waiting._asdict().items()}
            self._last = Snapshot({"feedback_total": totals}, {"feedback_reports": reports})


class Supervisor:
    """The supervisor, as the web process sees it."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._numbers = itertools.count()
        self._asked: dict[int, asyncio.Future[Answer]] = {}
        self._draining = False

    def ready(self) -> None:
        self._channel.send(Ready())

    async def listen(self, stop: asyncio.Event) -> None:
        """Receive answers until the supervisor is gone; set `stop` then, or when told to end."""
        async for message in self._channel.messages():
            if isinstance(message, Answer):
                future = self._asked.pop(message.number, None)
                if future is not None and not future.done():
                    future.set_result(message)
            elif isinstance(message, Drain):
                stop.set()
        stop.set()

    async def stats(self) -> Snapshot:
        return (await self._ask()).snapshot

    async def health(self) -> Health:
        answer = await self._ask()
        self._draining = answer.draining
        return Health(workers=answer.workers, alive=answer.alive)

    def listeners(self) -> State:
        return "draining" if self._draining else "ok"

    async def _ask(self) -> Answer:
        number = next(self._numbers)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._asked[number] = future
        self._channel.send(Ask(number))
        return await future
