"""The supervisor: runs the relay's children, changes their configuration, ends them."""

import asyncio
import itertools
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import structlog
from msgspec import Struct

from smtpproxy.config import ConfigError
from smtpproxy.process import control
from smtpproxy.process.children import Answer, Ask, Beat, Channel, Message
from smtpproxy.process.control import Control, HandOver, Reload, Request, Response, StepDown
from smtpproxy.process.daily_purge import purge_daily
from smtpproxy.process.generation import ALONE, SHARED, Child, Generation
from smtpproxy.process.import_jobs import ImportRunner
from smtpproxy.process.listening import CannotListen, Sockets
from smtpproxy.process.notifier import Notifier
from smtpproxy.process.nursery import Nursery
from smtpproxy.process.register import tell_others
from smtpproxy.settings import Settings
from smtpproxy.sinks.log import configure_logging
from smtpproxy.sinks.snapshots import Samples, Snapshot, Totals
from smtpproxy.store.records import StoreUnavailable
from smtpproxy.version import VERSION

_ANSWERS_WITHIN = 1.0
_CLOSED_WITHIN = 2.0
"""Seconds that a reload waits for workers with the old settings to release their sockets."""

log = structlog.get_logger()


class Source(Struct, frozen=True):
    """Where settings come from: `read` raises ConfigError, and so does `prepare`.

    `prepare` makes the folders and the store that the settings name.
    """

    read: Callable[[], Settings]
    prepare: Callable[[Settings], None]


class Supervisor:
    """Runs the children of one generation until it is told to end or to reload its settings."""

    def __init__(
        self,
        settings: Settings,
        sockets: Sockets,
        source: Source,
        notifier: Notifier,
        nursery: Nursery,
    ) -> None:
        self._nursery = nursery
        self._sockets = sockets
        self._source = source
        self._notifier = notifier
        self._totals = Totals()
        self._started_at, self._began = time.time(), time.monotonic()
        self._paused: tuple[str, ...] = ()
        self._numbers = itertools.count()
        self._asked: dict[int, asyncio.Future[None]] = {}
        self._ending = asyncio.Event()
        self._failed = False
        self._reloading = asyncio.Lock()
        self._next_reload: asyncio.Task[list[str]] | None = None
        self._reloads = {"done": 0, "failed": 0}
        self._purge_failures = 0
        self._exits: Counter[tuple[str, ...]] = Counter()  # of children other than workers
        self._generation = self._made(settings, sockets.listening)
        self._control = Control(settings.server.state_dir, self._asked_for)
        self._under_way: set[asyncio.Task[Any]] = set()
        self._former: list[Generation] = []
        self._alone: list[asyncio.Task[None]] = []  # what runs under the current settings
        self._importing: asyncio.Task[None] | None = None

    async def run(self, take_place: Callable[[], None] | None = None) -> int:
        """Run until SIGTERM or SIGINT; SIGHUP reloads the settings. Returns the exit code.

        `take_place` lets the previous relay end, once this one can accept its mail.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ending.set)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._begin(self.reload()))
        self._nursery.open(self._nursery_ended)
        generation = self._generation
        generation.start(SHARED if take_place else (*SHARED, *ALONE))
        started = await generation.ready(self._ending)
        told_to_end = self._ending.is_set()
        watchdog = asyncio.create_task(self._watchdog())
        if started:
            if take_place is not None:
                await asyncio.to_thread(take_place)
                generation.start(ALONE)
            self._control.open()
            self._begin_alone(generation.settings)
            self._importing = asyncio.create_task(self._imports(generation.settings).run())
            self._say_ready()
            await self._ending.wait()
            log.info("draining")
            await self._control.close()
        self._ending.set()
        self._notifier.stopping()
        async with self._reloading:  # a reload that has begun is completed or undone
            await self._end()
        watchdog.cancel()
        return 0 if (started or told_to_end) and not self._failed else 1

    def _nursery_ended(self, code: int) -> None:
        """End the relay, since no child can be started; whatever started it will restart it."""
        outcome = f"exit code {code}: no others can be started, so the relay ends"
        log.error("child ended", child="nursery", outcome=outcome)
        self._failed = True
        self._ending.set()

    def _begin(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _end(self) -> None:
        """Drain the workers while the web process still answers, then end the others."""
        generation = self._generation
        alone = [*self._alone, *([self._importing] if self._importing else ())]
        self._sockets.close()
        for task in alone:
            task.cancel()
        await generation.end(("worker",))
        await generation.end(("web", *ALONE))
        await asyncio.gather(*self._under_way)
        if alone:
            await asyncio.wait(alone)
        log.info("ended")

    def _say_ready(self) -> None:
        self._notifier.ready()
        self._tell_status()
        log.info("ready", **_summary(self._generation.settings))

    def _tell_status(self) -> None:
        """Set the text that `systemctl status` shows."""
        paused = f"; paused: {', '.join(self._paused)}" if self._paused else ""
        self._notifier.status(f"{len(self._generation.workers)} workers take mail{paused}")

    def _made(self, settings: Settings, sockets: Mapping[str, socket.socket]) -> Generation:
        return Generation(
            settings,
            sockets,
            self._started_at,
            nursery=self._nursery,
            heard=self._heard,
            ended=self._child_ended,
        )

    def _begin_alone(self, settings: Settings) -> None:
        works = (self._purge(settings), self._tell(settings))
        self._alone = [asyncio.create_task(work) for work in works]

    async def _purge(self, settings: Settings) -> None:
        """Run the daily purge; its number of failures, across reloads, is a metric."""

        def failed() -> None:
            self._purge_failures += 1
            counted = Snapshot(counters={"purge_failures_total": {(): self._purge_failures}})
            self._totals.update("purge", counted)

        await purge_daily(settings, self._nursery, failed)

    async def _tell(self, settings: Settings) -> None:
        """Tell the other relays of the store; the number of differences is a metric."""

        def counted(misfits: Samples) -> None:
            self._totals.update("relays", Snapshot(gauges={"store_misfits": misfits}))

        await tell_others(settings, counted)

    def _imports(self, settings: Settings) -> ImportRunner:
        ended: Counter[str] = Counter()

        def count(outcome: str) -> None:
            ended[outcome] += 1
            counts: Samples = {(name,): n for name, n in ended.items()}
            self._totals.update("imports", Snapshot(counters={"imports_total": counts}))

        return ImportRunner(settings, count)

    # other settings

    async def reload(self) -> list[str]:
        """Read and apply the settings again, or return the faults and change nothing.

        Work in progress goes on under the settings with which it began. All who ask while a reload
        is in progress share the next one.
        """
        if self._ending.is_set():  # the end would wait for this, and this for the end
            return ["the relay is ending"]
        if self._next_reload is None:
            self._next_reload = asyncio.create_task(self._reload())
        return await asyncio.shield(self._next_reload)

    async def _reload(self) -> list[str]:
        async with self._reloading:
            self._next_reload = None  # the file may change again once it is read
            if self._ending.is_set():
                return ["the relay is ending"]
            self._notifier.reloading()
            faults = await self._try_to_reload()
            self._reloads["failed" if faults else "done"] += 1
            counts: Samples = {(name,): n for name, n in self._reloads.items()}
            self._totals.update("reloads", Snapshot(counters={"reloads_total": counts}))
            if faults:
                log.error("not reloaded", faults=faults)
                self._notifier.ready()
            else:
                self._say_ready()
            return faults

    async def _try_to_reload(self) -> list[str]:
        try:
            settings = await asyncio.to_thread(self._source.read)
            if settings.server.state_dir != self._generation.settings.server.state_dir:
                return ["server.state_dir: it cannot change while the relay runs: restart it"]
            await asyncio.to_thread(self._source.prepare, settings)
            sockets = await asyncio.to_thread(self._sockets.for_settings, settings)
        except ConfigError as error:
            return list(error.faults)
        except (CannotListen, StoreUnavailable, OSError, RuntimeError) as error:
            return [str(error)]  # RuntimeError: no thread can be started
        successor = self._made(settings, sockets)
        successor.start(SHARED)
        if not await successor.ready(self._ending):
            faults = [
                f"{name} does not start with these settings: see the log"
                for name in successor.missing
            ]
            await successor.end(SHARED)
            self._sockets.forget(sockets)
            return ["the relay is ending"] if self._ending.is_set() else faults
        former, self._generation = self._generation, successor
        configure_logging(settings.server, process="supervisor")
        await former.end(ALONE)
        successor.start(ALONE)
        self._sockets.keep(sockets)
        self._begin(self._drain(former))
        await former.closed(_CLOSED_WITHIN)  # whoever connects later gets the new settings
        if self._alone:
            for task in self._alone:
                task.cancel()
            await asyncio.wait(self._alone)
            self._begin_alone(settings)
        return []

    async def _drain(self, former: Generation) -> None:
        self._former.append(former)
        await former.end(SHARED)
        self._former.remove(former)

    # what children say

    def _heard(self, child: Child, channel: Channel, message: Message) -> None:
        if isinstance(message, (Beat, Answer)):
            self._totals.update(child.key, message.snapshot)
        if isinstance(message, Beat):
            if child is self._generation.workers[0] and message.paused != self._paused:
                self._paused = message.paused
                self._tell_status()
        elif isinstance(message, Answer):
            future = self._asked.pop(message.number, None)
            if future is not None and not future.done():
                future.set_result(None)
        elif isinstance(message, Ask):
            asyncio.get_running_loop().create_task(self._answer(channel, message.number))

    def _child_ended(self, child: Child, told: bool) -> None:
        is_worker = child.role == "worker"
        self._totals.retire(child.key, counts=is_worker and not told)
        if not (is_worker or told):
            self._exits[child.role,] += 1
            counted = Snapshot(counters={"background_failures_total": dict(self._exits)})
            self._totals.update("exits", counted)

    async def _answer(self, web: Channel, number: int) -> None:
        web.send(await self._numbers_of_all(number))

    async def _numbers_of_all(self, number: int) -> Answer:
        """Ask every worker for its metrics; a silent one counts with its last."""
        asked: dict[int, asyncio.Future[None]] = {}
        for generation in (self._generation, *self._former):
            for child in generation.answering:
                ask = Ask(next(self._numbers))
                asked[ask.number] = asyncio.get_running_loop().create_future()
                child.tell(ask)
        self._asked |= asked
        if asked:
            await asyncio.wait(asked.values(), timeout=_ANSWERS_WITHIN)
        for late in asked:
            self._asked.pop(late, None)
        return Answer(
            number,
            self._totals.merged(),
            workers=len(self._generation.workers),
            alive=self._generation.alive,
            draining=self._ending.is_set(),
        )

    async def _watchdog(self) -> None:
        """Tell systemd that all is well while no worker is stuck."""
        interval = self._notifier.watchdog_interval
        while interval is not None:
            if not self._generation.stuck or self._ending.is_set():
                self._notifier.watchdog()
            await asyncio.sleep(interval)

    # what commands ask

    async def _asked_for(self, request: Request) -> control.Answer:
        if isinstance(request, Reload):
            faults = await self.reload()
            return Response(faults, _summary(self._generation.settings)), []
        if isinstance(request, HandOver):
            if self._notifier.is_unit:
                fault = "systemd started the relay: use a socket unit and systemctl restart"
                return Response([fault]), []
            return Response(), self._sockets.hand_over()
        if isinstance(request, StepDown):
            await self._generation.end(ALONE)
            self._control.leave()
            self._ending.set()
            return Response(), []
        now = await self._numbers_of_all(next(self._numbers))
        generation = self._generation
        summary = _summary(generation.settings) | {
            "pid": os.getpid(),
            "started_at": self._started_at,
            "uptime_seconds": round(time.monotonic() - self._began),
            "alive": generation.alive,
            "draining": len(self._former),
            "reloads": self._reloads,
        }
        return Response(told=summary, snapshot=now.snapshot), []


def _summary(settings: Settings) -> dict[str, Any]:
    """A summary of what a relay with these settings does."""
    return {
        "version": VERSION,
        "mode": str(settings.policy.mode),
        "workers": settings.server.workers,
        "listeners": {each.name: str(each.address) for each in settings.listeners},
        "streams": {each.name: str(each.mode) for each in settings.streams.values()},
        "hash": settings.hash,
    }
