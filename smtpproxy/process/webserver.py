"""The web process: metrics and health for all workers together."""

import asyncio
import itertools
import socket
from datetime import UTC, datetime
from importlib.metadata import version

import uvloop

from smtpproxy import retention
from smtpproxy.intake.accept import TrustedHosts
from smtpproxy.policy.model import BUILT_IN_BRAND
from smtpproxy.process.breaker import StoreToWrite
from smtpproxy.process.children import Answer, Ask, Channel, Drain, Ready
from smtpproxy.settings import Settings
from smtpproxy.sinks.collector import SnapshotCollector, relay_processes
from smtpproxy.sinks.log import configure_logging
from smtpproxy.sinks.metrics import Snapshot, merge
from smtpproxy.store import (
    open_answers,
    open_breaker,
    open_confirmation_limit,
    open_feedback,
    open_store,
)
from smtpproxy.store.feedback import FeedbackLog
from smtpproxy.store.key_files import LinkReader
from smtpproxy.store.protocols import StoreUnavailable
from smtpproxy.web.api import Api
from smtpproxy.web.app import create_app
from smtpproxy.web.confirmation import ConfirmationLinks
from smtpproxy.web.consent_by_mail import ConsentByMail
from smtpproxy.web.health import Health, ReadinessProbe, State, greet, take
from smtpproxy.web.look import looks
from smtpproxy.web.own_mail import submitter
from smtpproxy.web.personal import PersonalPages
from smtpproxy.web.server import serve_web
from smtpproxy.web.unsubscribe import Unsubscribe
from smtpproxy.web.why import Why


def run_web(
    settings: Settings, listening: socket.socket, channel: socket.socket, started_at: float
) -> int:
    configure_logging(settings.server, process="web")
    return uvloop.run(_serve(settings, listening, channel, started_at))


async def _serve(
    settings: Settings, listening: socket.socket, sock: socket.socket, started_at: float
) -> int:
    supervisor = Supervisor(await Channel.over(sock))
    state_dir = settings.server.state_dir
    store = open_store(settings.store, state_dir, read_only=True)
    writer = StoreToWrite(settings)
    breaker = open_breaker(settings, writer)
    watched = open_breaker(settings, lambda: store, read_only=True)
    stop = asyncio.Event()
    trusts = TrustedHosts(settings.web.trusted if settings.web else ()).__contains__
    links = LinkReader(state_dir)
    pages = looks(settings)
    limit = open_confirmation_limit(settings.store)
    answers = open_answers(settings.store, _now)
    by_mail = personal = confirmations = None
    if settings.confirmation is not None:
        by_mail = ConsentByMail(settings, writer, submitter(settings), limit, _now)
        personal = PersonalPages(settings, writer, submitter(settings), limit, pages, _now)
        confirmations = ConfirmationLinks(
            links,
            {"consent": by_mail, "permission": by_mail, "personal": personal},
            pages,
            trusts=trusts,
            now=_now,
        )
    feedback = open_feedback(settings.store)

    async def stats() -> Snapshot:
        parts = await supervisor.stats(), retention.run_metrics(state_dir), await _heard(feedback)
        return merge(parts)

    app = create_app(
        stats,
        supervisor.health,
        ReadinessProbe(
            listeners=supervisor.listeners,
            store=store.ping,
            upstream=lambda: greet(settings.upstream.address),
            audit=lambda: take(state_dir / "audit"),
        ),
        collector=SnapshotCollector(
            settings, version=version("smtpproxy"), started_at=started_at, processes=relay_processes
        ),
        counts=store.counts,
        backlog=store.backlog if settings.webhooks else None,
        snapshots=store.snapshots if settings.store.partners else None,
        streams=watched.status,
        api=Api(
            settings,
            store,
            writer,
            answers=answers,
            streams=watched.status,
            now=_now,
            version=version("smtpproxy"),
            stop=stop,
            by_mail=by_mail,
        ),
        unsubscribe=Unsubscribe(
            links, writer, settings.streams, pages, now=_now, breaker=breaker, personal=personal
        ),
        confirmations=confirmations,
        why=Why(pages[BUILT_IN_BRAND]),
    )
    serving = asyncio.create_task(serve_web(app, listening, stop, trusts=trusts))
    supervisor.ready()
    await supervisor.listen()
    stop.set()
    await serving
    breaker.close()
    watched.close()
    await writer.close()
    limit.close()
    answers.close()
    await store.close()
    return 0


def _now() -> datetime:
    return datetime.now(UTC)


async def _heard(feedback: FeedbackLog) -> Snapshot:
    """What came back by mail, and what of it waits."""
    try:
        totals, (kept, waiting) = await feedback.totals(), await feedback.counts()
    except StoreUnavailable:
        return Snapshot()
    return Snapshot(
        counters={"feedback_total": totals},
        gauges={"feedback_reports": {("kept",): kept, ("hand_on",): waiting}},
    )


class Supervisor:
    """The supervisor, as the web process sees it."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._numbers = itertools.count()
        self._asked: dict[int, asyncio.Future[Answer]] = {}
        self._draining = False

    def ready(self) -> None:
        self._channel.send(Ready())

    async def listen(self) -> None:
        """Take answers until told to stop, or until the supervisor is gone."""
        async for message in self._channel.messages():
            if isinstance(message, Answer):
                future = self._asked.pop(message.number, None)
                if future is not None and not future.done():
                    future.set_result(message)
            elif isinstance(message, Drain):
                return

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
