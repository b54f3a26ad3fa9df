"""The feedback process: receives reports, acts on them, hands bounces on."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

import structlog

from smtpproxy.clock import new_ids, now
from smtpproxy.core.perform import Performer
from smtpproxy.core.services import services_of
from smtpproxy.events import WorkFailed, emitter
from smtpproxy.mailbox.acting import Actor, wants_feedback
from smtpproxy.mailbox.handing_on import BounceRelay
from smtpproxy.mailbox.inbox import Inbox
from smtpproxy.mailbox.listener import Listener
from smtpproxy.mailbox.messages import Messages
from smtpproxy.mailbox.reading import Reader
from smtpproxy.process.children import FEEDBACK, Beat, Channel, Start
from smtpproxy.relay.pool import UpstreamPool
from smtpproxy.relay.transaction import UpstreamTransaction
from smtpproxy.relay.upstream_limit import Workers
from smtpproxy.settings import FeedbackSettings, Settings
from smtpproxy.sinks.audit.journal import Journal
from smtpproxy.sinks.log import Log
from smtpproxy.sinks.metrics import Metrics
from smtpproxy.sinks.snapshots import Snapshot
from smtpproxy.store import open_breaker, open_feedback, open_store
from smtpproxy.store.maildir import Maildir
from smtpproxy.store.records import StoreUnavailable
from smtpproxy.store.register import relay_id
from smtpproxy.waiting import Deadlines

_LOOK = 1.0
"""Seconds between two looks into the maildir, into which others may deliver."""
_AFTER_TROUBLE = 5.0

log = structlog.get_logger()


def run(start: Start, sockets: Mapping[str, socket.socket], channel: socket.socket) -> int:
    settings = start.settings
    assert settings.feedback is not None
    return asyncio.run(_work(settings, settings.feedback, sockets.get(FEEDBACK), channel))


async def _work(
    settings: Settings,
    feedback: FeedbackSettings,
    listening: socket.socket | None,
    sock: socket.socket,
) -> int:
    channel = await Channel.over(sock)
    mailbox = Mailbox(settings, feedback)
    await mailbox.open(listening)
    beating = asyncio.create_task(channel.keep_beating(mailbox.beat))
    acting = asyncio.create_task(mailbox.keep_acting())
    handing_on = asyncio.create_task(mailbox.keep_handing_on())
    await channel.until_drain()
    await mailbox.end(acting, handing_on)
    beating.cancel()
    channel.send(Beat(mailbox.metrics.snapshot()))
    channel.close()
    return 0


class Mailbox:
    """The parts of the mailbox, put together."""

    def __init__(self, settings: Settings, feedback: FeedbackSettings) -> None:
        self.metrics = Metrics()
        self._log = Log()
        self._emit = emitter(self.metrics.handlers, self._log.handlers)
        self._ending = False
        self._arrived = asyncio.Event()
        self._acted = asyncio.Event()
        server = settings.server
        new_id = new_ids()
        self._store = open_store(settings.store, server.state_dir)
        self._feedback = open_feedback(settings.store, relay_id(server.state_dir))
        self._maildir = Maildir(settings.feedback_dir)
        self._journal = Journal(
            server.state_dir / "audit", server.workers, settings.audit, now=now, new_id=new_id
        )
        deadlines = Deadlines(asyncio.get_running_loop())
        workers = Workers.sharing(server.state_dir / "upstream", deadlines.now)
        self._pool = UpstreamPool(
            settings.upstream, server.hostname, deadlines, self.metrics.replies, workers
        )
        services = services_of(
            settings,
            now=now,
            ticks=time.perf_counter,
            new_id=new_id,
            emit=self._emit,
            note_outcome=self._journal.outcome,
            open_upstream=partial(UpstreamTransaction, self._pool),
        )
        self._breaker = open_breaker(settings, lambda: self._store)
        self._threads = ThreadPoolExecutor(1, "dkim")
        self._messages = Messages.of(settings)
        self._reader = Reader.of(settings, feedback, self._messages, self._threads)
        tells = wants_feedback(settings.webhooks)
        actor = Actor(feedback, lambda: self._store, self._feedback, self._breaker, tells)
        self._inbox = Inbox(self._maildir, self._reader, actor, self._messages, now)
        self._relay = BounceRelay(
            feedback,
            services,
            Performer(self._store, self._journal).handlers,
            self._feedback,
            self._maildir,
            self._messages,
        )
        self._listener = Listener(
            feedback,
            server.hostname,
            self._maildir,
            new_id=new_id,
            arrived=self._arrived.set,
            failed=self._failed,
        )

    async def open(self, listening: socket.socket | None) -> None:
        """Accept reports from now on. Reports whose record was lost in a crash are read again."""
        self._maildir.make()
        lost = await self._feedback.missing(list(self._maildir.settled()))
        for id in lost:
            self._maildir.give_back(id)
        if listening is not None:
            await self._listener.open(listening)

    def beat(self) -> Snapshot:
        """Leave connections to workers that need them more, each second; return the metrics."""
        self._pool.make_room()
        # It is no worker: workers take mail.
        return self.metrics.snapshot().with_gauges({"workers": {}})

    def _failed(self) -> None:
        self._emit(WorkFailed("feedback"))

    async def keep_acting(self) -> None:
        """Act on reports as they come."""
        await self._keep(self._act_on_some, self._arrived)

    async def keep_handing_on(self) -> None:
        """Hand on what is due, separately, so that a slow upstream does not delay suppressions."""
        await self._keep(lambda: self._relay.hand_on(self._is_ending), self._acted)

    async def _keep(self, work: Callable[[], Awaitable[int]], wake: asyncio.Event) -> None:
        """Work while there is something to do, when woken, and at intervals.

        After a failure it waits longer and tries again.
        """
        while not self._ending:
            wake.clear()
            pause = _LOOK
            try:
                if await work():
                    continue
            except Exception as error:
                if isinstance(error, (StoreUnavailable, OSError)):
                    log.error("feedback waits", error=str(error))
                else:
                    log.error("internal error", exc_info=error)
                self._failed()
                pause = _AFTER_TROUBLE
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await wake.wait()

    async def _act_on_some(self) -> int:
        done = await self._inbox.work_through(self._is_ending)
        if any(each.understood.hands_on for each in done):
            self._acted.set()
        return len(done)

    async def end(self, *working: "asyncio.Task[None]") -> None:
        """Finish what has begun; the rest stays in the maildir."""
        self._ending = True
        self._arrived.set()
        self._acted.set()
        self._listener.close()
        await asyncio.wait(working, timeout=3.0)
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)
        await self._reader.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._pool.close()
        self._journal.close()
        self._feedback.close()
        self._messages.close()
        self._breaker.close()
        await self._store.close()

    def _is_ending(self) -> bool:
        return self._ending
