"""The supervisor: opens the sockets, keeps the workers alive, ends them in good order."""

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import time
from collections.abc import Mapping

import structlog

from smtpproxy.process.children import (
    FEEDBACK,
    Answer,
    Ask,
    Beat,
    Channel,
    Drain,
    Ready,
    Role,
    Start,
    start_child,
)
from smtpproxy.process.daily_purge import DailyPurge
from smtpproxy.settings import Settings
from smtpproxy.sinks.metrics import Snapshot, Totals

_ALIVE_WITHIN = 10.0
"""A worker that was silent for longer (seconds) does not count as alive."""
_STARTS_WITHIN = 30.0
_ANSWERS_WITHIN = 1.0
_LONGEST_PAUSE = 30.0
_DOWN_FOR = 90.0
"""A worker that could not be started again for this long (seconds) is a case for systemd."""
_GRACE = 5.0
"""What a child has beyond the drain time before it is killed."""

log = structlog.get_logger()


class Child:
    """One child process and the channel to it."""

    def __init__(self, role: Role, number: int) -> None:
        self.role: Role = role
        self.number = number
        self.name = f"worker-{number}" if role == "worker" else role
        self.ready = asyncio.Event()
        self.heard = 0.0
        self.down_since: float | None = None  # it ended, and is not ready again
        self.channel: Channel | None = None
        self.process: asyncio.subprocess.Process | None = None

    @property
    def key(self) -> tuple[str, int]:
        return self.name, self.process.pid if self.process is not None else 0

    def tell(self, message: Drain | Ask | Answer) -> None:
        if self.channel is not None:
            self.channel.send(message)


class Supervisor:
    """Runs one child for each role and number until it is told to end."""

    def __init__(
        self, settings: Settings, sockets: Mapping[str, socket.socket], notifier: "Notifier"
    ) -> None:
        self._settings = settings
        self._sockets = sockets
        self._notifier = notifier
        self._totals = Totals()
        self._workers = [Child("worker", n) for n in range(settings.server.workers)]
        self._web = [Child("web", 0)] if settings.web is not None else []
        self._webhooks = [Child("webhooks", 0)] if settings.webhooks else []
        self._feedback = [Child("feedback", 0)] if settings.feedback is not None else []
        self._ending = asyncio.Event()
        self._started_at = time.time()
        self._paused: tuple[str, ...] = ()
        self._numbers = itertools.count()
        self._asked: dict[int, asyncio.Future[None]] = {}

    async def run(self) -> int:
        """Run until SIGTERM, SIGINT or SIGHUP; return the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._ending.set)
        children = [*self._workers, *self._web, *self._webhooks, *self._feedback]
        keepers = [asyncio.create_task(self._keep(child)) for child in children]
        started = await self._all_ready(children)
        told = self._ending.is_set()
        watchdog = asyncio.create_task(self._watchdog())
        purging = asyncio.create_task(self._purge() if started else asyncio.sleep(0))
        if started:
            self._notifier.ready()
            self._tell_status()
            log.info("ready", workers=len(self._workers))
            await self._ending.wait()
            log.info("draining")
        self._ending.set()
        self._notifier.stopping()
        purging.cancel()
        await self._end(keepers)
        await asyncio.wait((purging,))
        watchdog.cancel()
        return 0 if started or told else 1

    def _tell_status(self) -> None:
        """What `systemctl status` shows."""
        paused = f"; paused: {', '.join(self._paused)}" if self._paused else ""
        self._notifier.status(f"{len(self._workers)} workers take mail{paused}")

    async def _purge(self) -> None:
        """Let the daily purge run; how often it failed is one of the numbers."""

        def failed(times: int) -> None:
            counted = Snapshot(counters={"purge_failures_total": {(): times}})
            self._totals.update("purge", counted)

        await DailyPurge(self._settings, failed).run()

    # one child

    async def _keep(self, child: Child) -> None:
        """Run a child; start it again whenever it ends before its time."""
        pause = 0.5
        while not self._ending.is_set():
            started = time.monotonic()
            try:
                outcome = f"exit code {await self._run_once(child)}"
            except Exception as error:  # no process, no memory, no file left: try again
                outcome = f"not started: {error}"
            if child.role != "web":
                self._totals.retire(child.key, takes_mail=child.role == "worker")
            if self._ending.is_set():
                return
            if child.down_since is None:
                child.down_since = time.monotonic()
            pause = 0.5 if time.monotonic() - started > 60 else min(pause * 2, _LONGEST_PAUSE)
            log.error("child ended", child=child.name, outcome=outcome, restart_in=pause)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._ending.wait()

    async def _run_once(self, child: Child) -> int:
        ours, theirs = socket.socketpair()
        wanted = self._listeners_of(child.role)
        listening = {name: self._sockets[name].fileno() for name in wanted}
        for fd in (theirs.fileno(), *listening.values()):
            os.set_inheritable(fd, True)
        child.ready.clear()
        child.process = None
        start = Start(
            child.role,
            child.number,
            self._settings,
            theirs.fileno(),
            listening,
            self._started_at,
        )
        try:
            child.process = await start_child(start)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        child.channel = await Channel.over(ours)
        listening_to = asyncio.create_task(self._listen(child, child.channel))
        if self._ending.is_set():
            child.tell(Drain())
        code = await child.process.wait()
        await listening_to
        child.channel.close()
        child.channel = None
        return code

    async def _listen(self, child: Child, channel: Channel) -> None:
        async for message in channel.messages():
            child.heard = time.monotonic()
            if isinstance(message, Ready):
                child.ready.set()
                child.down_since = None
            elif isinstance(message, Beat):
                self._totals.update(child.key, message.snapshot)
                if child is self._workers[0] and message.paused != self._paused:
                    self._paused = message.paused
                    self._tell_status()
            elif isinstance(message, Answer):
                self._totals.update(child.key, message.snapshot)
                self._answered(message.number)
            elif isinstance(message, Ask):
                asyncio.get_running_loop().create_task(self._answer(channel, message.number))

    # all children

    def _listeners_of(self, role: Role) -> tuple[str, ...]:
        if role == "worker":
            return tuple(listener.name for listener in self._settings.listeners)
        own = {"web": "web", "feedback": FEEDBACK}.get(role, "")
        return (own,) if own in self._sockets else ()

    async def _all_ready(self, children: list[Child]) -> bool:
        """Wait until every child does its work; False when told to end before, or in vain."""
        waiting = [asyncio.create_task(child.ready.wait()) for child in children]
        ending = asyncio.create_task(self._ending.wait())
        everybody = asyncio.gather(*waiting)
        await asyncio.wait(
            (everybody, ending), timeout=_STARTS_WITHIN, return_when=asyncio.FIRST_COMPLETED
        )
        ready = everybody.done()
        for task in (ending, *waiting):
            task.cancel()
        await asyncio.gather(ending, everybody, return_exceptions=True)
        missing = [child.name for child in children if not child.ready.is_set()]
        if missing and not self._ending.is_set():
            log.error("not started", missing=missing)
        return ready

    def _alive(self) -> int:
        limit = time.monotonic() - _ALIVE_WITHIN
        return sum(
            child.channel is not None and child.ready.is_set() and child.heard >= limit
            for child in self._workers
        )

    def _stuck(self) -> bool:
        """Whether a worker hangs, or one that ended could not be started again for long."""
        now = time.monotonic()
        return any(
            (
                child.ready.is_set()
                and child.channel is not None
                and child.heard < now - _ALIVE_WITHIN
            )
            or (child.down_since is not None and child.down_since < now - _DOWN_FOR)
            for child in self._workers
        )

    async def _answer(self, web: Channel, number: int) -> None:
        """Ask every worker for its numbers; one that is silent counts with its last."""
        asked: dict[int, asyncio.Future[None]] = {}
        for child in self._workers:
            if child.channel is not None and child.ready.is_set():
                ask = Ask(next(self._numbers))
                asked[ask.number] = asyncio.get_running_loop().create_future()
                child.tell(ask)
        self._asked |= asked
        if asked:
            await asyncio.wait(asked.values(), timeout=_ANSWERS_WITHIN)
        for late in asked:
            self._asked.pop(late, None)
        web.send(
            Answer(
                number,
                self._totals.merged(),
                workers=len(self._workers),
                alive=self._alive(),
                draining=self._ending.is_set(),
            )
        )

    def _answered(self, number: int) -> None:
        future = self._asked.pop(number, None)
        if future is not None and not future.done():
            future.set_result(None)

    async def _watchdog(self) -> None:
        """Tell systemd that all is well, while no worker is stuck."""
        interval = self._notifier.watchdog_interval
        while interval is not None:
            if not self._stuck() or self._ending.is_set():
                self._notifier.watchdog()
            await asyncio.sleep(interval)

    async def _end(self, keepers: list[asyncio.Task[None]]) -> None:
        """Drain the workers, then end the other processes; kill what does not end."""
        for sock in self._sockets.values():
            sock.close()
        grace = self._settings.server.drain_timeout + _GRACE
        others = [*self._web, *self._webhooks, *self._feedback]
        for children, timeout in ((self._workers, grace), (others, _GRACE)):
            for child in children:
                child.tell(Drain())
            chosen = [
                k for k, c in zip(keepers, [*self._workers, *others], strict=True) if c in children
            ]
            if not chosen:
                continue
            _, late = await asyncio.wait(chosen, timeout=timeout)
            for child in children:
                if late and child.process is not None and child.process.returncode is None:
                    log.error("killed", child=child.name)
                    child.process.kill()
            if late:
                await asyncio.wait(late, timeout=_GRACE)
        log.info("ended")


class Notifier:
    """Speaks for this process; does nothing when systemd did not ask for it.

    `environ` is the process's environment. Nothing is ever raised: a service must not
    fail because nobody listens to how it is.
    """

    def __init__(self, environ: Mapping[str, str], pid: int | None = None) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):  # abstract: no file, a NUL byte in its place
            self._address = "\0" + self._address[1:]
        self.watchdog_interval = _watchdog_interval(environ, os.getpid() if pid is None else pid)

    def ready(self) -> None:
        self._send("READY=1")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """Set the line that `systemctl status` shows."""
        self._send("STATUS=" + text.replace("\n", " "))

    def watchdog(self) -> None:
        self._send("WATCHDOG=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.setblocking(False)
                sock.sendto(message.encode(), self._address)
        except OSError:
            pass


def _watchdog_interval(environ: Mapping[str, str], pid: int) -> float | None:
    """Return the seconds between signs of life; None: not asked.

    A quarter of what systemd waits, so that a few may fail to come.
    """
    microseconds = environ.get("WATCHDOG_USEC", "")
    if not microseconds.isdecimal() or int(microseconds) == 0:
        return None
    if environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    return int(microseconds) / 4_000_000
