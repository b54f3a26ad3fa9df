"""A worker: one event loop that accepts mail and passes it on."""

import asyncio
import os
import socket
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, lru_cache, partial
from typing import TYPE_CHECKING, Any

import structlog
import uvloop

from smtpproxy.auth import Authenticator
from smtpproxy.clock import new_ids, now
from smtpproxy.core.edits import UnsubscribeLinks
from smtpproxy.core.perform import Performer
from smtpproxy.core.services import ReturnPathMaker, StreamTable, services_of
from smtpproxy.events import DnsAsked, FilesRead, emitter
from smtpproxy.intake.limits import RateTable
from smtpproxy.intake.listener import Listener
from smtpproxy.intake.milter import MilterSession
from smtpproxy.intake.policy import PolicySession
from smtpproxy.intake.smtp import SmtpSession
from smtpproxy.policy.model import Alignment
from smtpproxy.process.breaker import WorkerBreaker
from smtpproxy.process.children import BEAT, Answer, Ask, Beat, Channel, Closed, Drain, Ready, Start
from smtpproxy.process.memory import (
    IdleTrimmer,
    MemoryWatch,
    end_at_once,
    freeze_loaded,
    has_room,
    keep_freed,
)
from smtpproxy.relay.content import Spool
from smtpproxy.relay.pool import UpstreamPool
from smtpproxy.relay.transaction import UpstreamTransaction
from smtpproxy.relay.upstream_limit import Workers
from smtpproxy.settings import Settings
from smtpproxy.sinks.audit.journal import Journal
from smtpproxy.sinks.log import Log
from smtpproxy.sinks.metrics import Metrics
from smtpproxy.sinks.snapshots import Snapshot, merge
from smtpproxy.store import (
    is_postgresql,
    open_bulk_counter,
    open_copies,
    open_mailings,
    open_store,
    open_stream_counts,
    store_connections,
)
from smtpproxy.store.key_files import load_keys
from smtpproxy.store.link_keys import link_paths, link_ring
from smtpproxy.waiting import Deadlines

if TYPE_CHECKING:
    from smtpproxy.core.domains import Organisations, RecipientDomains
    from smtpproxy.process.signing import SigningProcesses
    from smtpproxy.relay.dkim_signing import Signer
    from smtpproxy.relay.dkim_verifying import Verifier
    from smtpproxy.resolver import Resolver


SESSIONS: Mapping[str, Callable[[Listener], asyncio.Protocol]] = {
    "smtp": SmtpSession,
    "lmtp": SmtpSession,
    "milter": MilterSession,
    "policy": PolicySession,
}
"""The sessions by `protocol` of the listener, one for each connection."""


def run(start: Start, sockets: Mapping[str, socket.socket], channel: socket.socket) -> int:
    keep_freed()
    signing = _signing(start.settings, start.number)
    return uvloop.run(_work(start.settings, start.number, sockets, channel, signing))


def _signing(settings: Settings, number: int) -> "SigningProcesses | None":
    """Loaded only if there are keys."""
    if not settings.dkim:
        return None
    from smtpproxy.process.signing import SigningProcesses
    from smtpproxy.relay.dkim_signing import Keyring

    return SigningProcesses(Keyring.of(settings.dkim), number, _processors(settings))


async def _work(
    settings: Settings,
    number: int,
    sockets: Mapping[str, socket.socket],
    sock: socket.socket,
    signing: "SigningProcesses | None",
) -> int:
    channel = await Channel.over(sock)
    worker = Worker(settings, number, signing)
    await worker.open(sockets)
    freeze_loaded()
    channel.send(Ready())
    beating = asyncio.create_task(_beat(worker, channel))
    try:
        async for message in channel.messages():
            if isinstance(message, Ask):
                channel.send(Answer(message.number, worker.snapshot()))
            elif isinstance(message, Drain):
                break
        await worker.stop_listening()
        channel.send(Closed())
        await worker.close()
        channel.send(Beat(worker.snapshot(), worker.breaker.paused))
    finally:
        beating.cancel()
    channel.close()
    return 0


def _processors(settings: Settings) -> int:
    """The worker's share of the processors."""
    return max(1, len(os.sched_getaffinity(0)) // settings.server.workers)


async def _beat(worker: "Worker", channel: Channel) -> None:
    trimmer, memory = IdleTrimmer(), MemoryWatch(worker.end_at_once, has_room)
    while True:
        try:
            snapshot = worker.snapshot()
            channel.send(Beat(snapshot, worker.breaker.paused))
            worker.pool.make_room()
            messages = sum(snapshot.counters["messages_total"].values())
            trimmer.beat(messages)
            memory.beat(messages)
        except MemoryError:
            memory.failed()
        try:
            await asyncio.sleep(BEAT)
        except MemoryError:
            time.sleep(BEAT)  # noqa: ASYNC251 - there is no memory for anything else either


def _store_snapshot() -> Snapshot:
    """Metrics of the use of database connections."""
    each = store_connections()
    return Snapshot(
        counters={"store_waited_seconds_total": {(): sum(one.waited for one in each)}},
        gauges={
            "store_connections": {
                ("idle",): sum(one.idle for one in each),
                ("busy",): sum(one.busy for one in each),
            },
            "store_connections_limit": {(): sum(one.limit for one in each)},
            "store_waiting": {(): sum(one.waiting for one in each)},
        },
    )


class Worker:
    """The parts of one worker, put together."""

    def __init__(self, settings: Settings, number: int, signing: "SigningProcesses | None") -> None:
        self.metrics = Metrics()
        self._settings = settings
        self._log = Log()
        self._emit = emitter(self.metrics.handlers, self._log.handlers)
        # It starts threads only when they are needed.
        self._threads = ThreadPoolExecutor(_processors(settings), "content")
        new_id = new_ids()
        deadlines = Deadlines(asyncio.get_running_loop())
        server = settings.server
        workers = Workers.sharing(server.state_dir / "upstream", deadlines.now)
        self.pool = UpstreamPool(
            settings.upstream, server.hostname, deadlines, self.metrics.replies, workers
        )
        self._store = open_store(settings.store, server.state_dir, read_only=True)
        self._mailings = open_mailings(settings.store)
        self._bulk_counter = open_bulk_counter(settings.store) if settings.counts_bulk else None
        self._copies = open_copies(settings.store, now)
        self._campaigns = open_stream_counts(settings.store) if settings.tries_campaigns else None
        self.breaker = WorkerBreaker(settings, number, self.metrics.mailed, self._emit)
        self._journal = Journal(
            server.state_dir / "audit", number, settings.audit, now=now, new_id=new_id
        )
        self._signing = signing
        signer = self._signer()
        services = services_of(
            settings,
            now=now,
            ticks=time.perf_counter,
            new_id=new_id,
            emit=self._emit,
            note_outcome=self._journal.outcome,
            open_upstream=partial(UpstreamTransaction, self.pool),
            links=self._links(),
            return_path=self._return_path(),
            signing_keys=None if signer is None else signer.keys,
        )
        handlers = self._performer(signer).handlers
        streams = StreamTable(settings)
        spool = Spool(server.state_dir / "spool", server.spool_threshold)
        self._number = number
        self._authenticator = self._users()
        self._rates = self._rate_table()
        self._listeners = [
            Listener(
                listener,
                server,
                services,
                handlers,
                streams,
                deadlines,
                spool,
                unexpected=self._log.unexpected,
                authenticator=self._authenticator,
                rates=self._rates,
            )
            for listener in settings.listeners
        ]

    def _performer(self, signer: "Signer | None") -> Performer:
        return Performer(
            self._store,
            self._journal,
            mailings=self._mailings,
            bulk_counter=self._bulk_counter,
            campaigns=self._campaigns,
            copies=self._copies,
            signer=signer,
            verifier=self._verifier(),
            domains=self._domains(),
            organisations=self._organisations(),
            threads=self._threads,
        )

    async def open(self, sockets: Mapping[str, socket.socket]) -> None:
        for listener in self._listeners:
            await listener.open(
                sockets[listener.settings.name], SESSIONS[listener.settings.protocol]
            )
        self.breaker.begin()

    async def stop_listening(self) -> None:
        """Accept no new connections."""
        for listener in self._listeners:
            await listener.stop_listening()

    async def close(self) -> None:
        """Drain all listeners, then close everything."""
        await asyncio.gather(*(listener.drain() for listener in self._listeners))
        await self.breaker.close()
        parts: tuple[Any, ...] = (
            *(self._authenticator, self._rates, self._signing, self.pool, self._journal),
            *(self._mailings, self._copies, self._bulk_counter, self._campaigns),
        )
        for part in parts:
            if part is not None:  # otherwise it is not configured
                part.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        await self._store.close()
        structlog.get_logger().info("worker drained")

    def end_at_once(self) -> None:
        """End without memory, but record what has yet to be written."""
        end_at_once(self._journal.close)

    def snapshot(self) -> Snapshot:
        pool = self.pool
        self.metrics.upstream(
            pool.idle,
            pool.in_use,
            limit=pool.settings.max_connections,
            waiting=pool.waiting,
            saturated=pool.saturated,
        )
        replica = self._store.replica()
        if replica is not None:
            self.metrics.replica_reads(replica.reads)
        if self._number == 0:  # all workers' gauges are added up
            if replica is not None and replica.in_use is not None:
                self.metrics.replica(replica.lag or 0.0, unused=not replica.in_use)
            for listener in self._listeners:
                if listener.tls is not None:
                    tls = listener.tls
                    self.metrics.certificate(
                        listener.settings.name, tls.expires(), usable=tls.usable()
                    )
        if not is_postgresql(self._settings.store):
            return self.metrics.snapshot()
        return merge((self.metrics.snapshot(), _store_snapshot()))

    def _rate_table(self) -> RateTable | None:
        if not self._settings.has_rates:
            return None
        return RateTable(self._settings.server.state_dir / "rates", time.monotonic)

    def _users(self) -> Authenticator | None:
        if all(listener.auth == "off" for listener in self._settings.listeners):
            return None
        return Authenticator(
            self._settings.auth,
            self._settings.server.workers,
            changed=lambda error: self._emit(FilesRead("", "users", error)),
        )

    def _links(self) -> UnsubscribeLinks | None:
        settings, state_dir = self._settings, self._settings.server.state_dir
        if not settings.adds_unsubscribe or settings.web is None or settings.web.public_url is None:
            return None

        def key_text(address: str) -> str:
            key = load_keys(state_dir).newest  # read each time: it may be replaced
            return key.text(key.pair(address))

        return UnsubscribeLinks(link_ring(state_dir), settings.web.public_url, key_text)

    def _return_path(self) -> ReturnPathMaker | None:
        settings, feedback = self._settings, self._settings.feedback
        if feedback is None or not any(stream.verp for stream in settings.streams.values()):
            return None
        paths = link_paths(settings.server.state_dir, feedback.domain)
        return lru_cache(1024)(paths.make)  # it is needed at RCPT and at the end

    def _signer(self) -> "Signer | None":
        if self._signing is None:
            return None
        from smtpproxy.relay.dkim_signing import Signer

        self._signing.open()
        return Signer(self._signing.keyring, self._threads, self._signing.sign)

    def _verifier(self) -> "Verifier | None":
        if not any(stream.check_dkim for stream in self._settings.streams.values()):
            return None
        from smtpproxy.relay.dkim_verifying import Verifier

        resolver = self._resolver
        return Verifier(lambda name: resolver.lookup(name, "TXT"), self._threads, time.time)

    def _domains(self) -> "RecipientDomains | None":
        if not self._settings.policy.check_recipient_domain:
            return None
        from smtpproxy.core.domains import RecipientDomains

        return RecipientDomains(self._resolver, self._settings.dns.timeout)

    def _organisations(self) -> "Organisations | None":
        streams = self._settings.streams.values()
        if not any(stream.alignment is Alignment.RELAXED for stream in streams):
            return None
        from smtpproxy.core.domains import Organisations

        resolver = self._resolver
        return Organisations(lambda name: resolver.lookup(name, "TXT"))

    @cached_property
    def _resolver(self) -> "Resolver":
        from smtpproxy.resolver import Resolver

        return Resolver(
            self._settings.dns, time.monotonic, lambda outcome: self._emit(DnsAsked(outcome))
        )
