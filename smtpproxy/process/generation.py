"""The children of one configuration: started together, kept alive, drained together.

A reload starts a new generation beside the old one, over the same sockets, and drains the old one
once the new one is ready. So all work in progress goes on under the settings with which it began.
"""

import asyncio
import contextlib
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass

import structlog

from smtpproxy.process.children import (
    BEAT,
    FEEDBACK,
    SLOWEST_START,
    WEB,
    Answer,
    Ask,
    Channel,
    Closed,
    Drain,
    Message,
    Ready,
    Role,
    Start,
    name_of,
    other_roles,
)
from smtpproxy.process.nursery import ChildProcess, Nursery
from smtpproxy.settings import Settings

_ALIVE_WITHIN = 10.0
"""A worker silent for longer (seconds) does not count as alive."""
_HANGS_AFTER = 60.0
"""A child that is silent for this long (seconds) is killed, and another takes its place; except a
worker, which has mail in hand: that is for systemd's watchdog."""
_STARTS_WITHIN = 30.0
"""Seconds for which a child that ends before it works is tried again, at a start or a reload."""
_LOOK_EVERY = 0.5
_LONGEST_PAUSE = 30.0
_MEANINGS = {-signal.SIGBUS: ": a disk could not be read, or is full; see df and the kernel's log"}
_DOWN_FOR = 90.0
"""If a worker could not be restarted for this long (seconds), systemd has to restart the relay."""
_GRACE = 5.0
"""Seconds that a child has beyond the drain time before it is killed."""

SHARED: tuple[Role, ...] = ("worker", "web")
"""Roles whose children in two generations work side by side."""
ALONE: tuple[Role, ...] = ("webhooks", "feedback", "journals")
"""Roles of which only one child may work at a time, because it takes items from a queue."""

log = structlog.get_logger()


class Child:
    """One child process and the channel to it."""

    def __init__(self, role: Role, number: int) -> None:
        self.role: Role = role
        self.number = number
        self.name = name_of(role, number)
        self.ready = asyncio.Event()
        self.closed = asyncio.Event()  # it accepts no more connections, or is gone
        self.heard = 0.0
        self.began = 0.0  # when it was last started
        self.down_since: float | None = None  # since it ended, until it is ready again
        self.channel: Channel | None = None
        self.process: ChildProcess | None = None

    @property
    def key(self) -> tuple[str, int]:
        return self.name, self.process.pid if self.process is not None else 0

    def down_for(self, now: float) -> float:
        """How long it could not be started again; a try that is under way may be only slow."""
        if self.down_since is None:
            return 0.0
        is_at_it = self.channel is not None and now < self.began + SLOWEST_START
        return (self.began if is_at_it else now) - self.down_since

    def tell(self, message: Drain | Ask | Answer) -> None:
        if self.channel is not None:
            self.channel.send(message)


@dataclass(eq=False)
class Generation:
    """Runs one child for each role and number until it is told to end.

    `sockets` by listener, WEB and FEEDBACK. `heard` is called with the children's messages, `ended`
    when a child's process is gone, with whether it was told to end.
    """

    settings: Settings
    sockets: Mapping[str, socket.socket]
    started_at: float
    _: KW_ONLY
    nursery: Nursery
    heard: Callable[[Child, Channel, Message], None]
    ended: Callable[[Child, bool], None]

    def __post_init__(self) -> None:
        self.workers = [Child("worker", n) for n in range(self.settings.server.workers)]
        self._others = [Child(role, 0) for role in other_roles(self.settings)]
        self._ending = asyncio.Event()
        self._keepers: dict[Child, asyncio.Task[None]] = {}

    def start(self, roles: Sequence[Role]) -> None:
        """Start the children of these roles."""
        for child in self._of(roles):
            self._keepers[child] = asyncio.create_task(self._keep(child))

    def _of(self, roles: Sequence[Role]) -> list[Child]:
        return [child for child in (*self.workers, *self._others) if child.role in roles]

    async def ready(self, told_to_end: asyncio.Event) -> bool:
        """Wait until every started child works; False if told to end, or if one does not start."""
        ending = asyncio.create_task(told_to_end.wait())
        everybody = asyncio.gather(*(child.ready.wait() for child in self._keepers))
        began, told = time.monotonic(), False
        while not (everybody.done() or ending.done() or self._is_hopeless(began)):
            await asyncio.wait(
                (everybody, ending), timeout=_LOOK_EVERY, return_when=asyncio.FIRST_COMPLETED
            )
            if not told and time.monotonic() > began + _STARTS_WITHIN and self.missing:
                log.warning("still starting", missing=self.missing)
                told = True
        ready = everybody.done()
        ending.cancel()
        everybody.cancel()
        await asyncio.gather(ending, everybody, return_exceptions=True)
        if self.missing and not told_to_end.is_set():
            log.error("not started", missing=self.missing)
        return ready

    def _is_hopeless(self, began: float) -> bool:
        """Whether a child keeps ending, or takes longer than the slowest start."""
        now = time.monotonic()
        ends = any(child.down_for(now) > _STARTS_WITHIN for child in self._keepers)
        return ends or now > began + SLOWEST_START

    @property
    def missing(self) -> list[str]:
        """The children that were started but do not work."""
        return [child.name for child in self._keepers if not child.ready.is_set()]

    # one child

    async def _keep(self, child: Child) -> None:
        """Run a child; restart it whenever it ends unexpectedly."""
        pause = 0.5
        while not self._ending.is_set():
            started = time.monotonic()
            try:
                code = await self._run_once(child)
                outcome = f"exit code {code}{_MEANINGS.get(code, '')}"
            except Exception as error:  # no process, no memory, no file left: try again
                outcome = f"not started: {error}"
            self.ended(child, told := self._ending.is_set())
            if told:
                return
            if child.down_since is None:
                child.down_since = time.monotonic()
            pause = 0.5 if time.monotonic() - started > 60 else min(pause * 2, _LONGEST_PAUSE)
            log.error("child ended", child=child.name, outcome=outcome, restart_in=pause)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._ending.wait()

    async def _run_once(self, child: Child) -> int:
        wanted = self._listening(child.role)
        start = Start(child.role, child.number, self.settings, wanted, self.started_at)
        child.ready.clear()
        child.closed.clear()
        child.process = None
        child.began = time.monotonic()
        child.process, channel = await self.nursery.start_with_channel(start, self.sockets)
        child.channel = channel
        watching = asyncio.create_task(self._watch(child, child.process))
        try:
            if self._ending.is_set():
                child.tell(Drain())
            await self._listen(child, channel)
            child.closed.set()
            return await child.process.wait()
        finally:
            watching.cancel()
            channel.close()  # without it, the child ends
            child.channel = None

    def _listening(self, role: Role) -> tuple[str, ...]:
        if role == "worker":
            return tuple(listener.name for listener in self.settings.listeners)
        own = {"web": WEB, "feedback": FEEDBACK}.get(role, "")
        return (own,) if own in self.sockets else ()

    async def _listen(self, child: Child, channel: Channel) -> None:
        """Hear a child until it is gone."""
        async for message in channel.messages():
            child.heard = time.monotonic()
            if isinstance(message, Ready):
                child.ready.set()
                child.down_since = None
            elif isinstance(message, Closed):
                child.closed.set()
            else:
                self.heard(child, channel, message)

    async def _watch(self, child: Child, process: ChildProcess) -> None:
        """Kill a child that hangs. Time for which this process was stopped too does not count."""
        silent = 0.0
        while silent < _HANGS_AFTER or child.role == "worker":
            heard = child.heard
            await asyncio.sleep(BEAT)
            is_silent = child.ready.is_set() and child.heard == heard
            silent = silent + BEAT if is_silent else 0.0
        log.error("child hangs", child=child.name)
        process.kill()

    # all of them

    @property
    def answering(self) -> list[Child]:
        """The workers that can answer."""
        return [child for child in self.workers if child.channel and child.ready.is_set()]

    @property
    def alive(self) -> int:
        """How many workers gave a sign of life recently."""
        limit = time.monotonic() - _ALIVE_WITHIN
        return sum(child.heard >= limit for child in self.answering)

    @property
    def stuck(self) -> bool:
        """Whether a worker hangs, or could not be restarted for a long time."""
        now = time.monotonic()
        silent = any(child.heard < now - _ALIVE_WITHIN for child in self.answering)
        return silent or any(child.down_for(now) > _DOWN_FOR for child in self.workers)

    async def closed(self, within: float) -> None:
        """Wait until none of its workers accepts connections, at most `within` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                for child in self.workers:
                    if child.channel is not None:
                        await child.closed.wait()

    async def end(self, roles: Sequence[Role]) -> None:
        """Let the children of these roles finish; kill those that do not end. None is restarted."""
        self._ending.set()
        children = self._of(roles)
        for child in children:
            child.tell(Drain())
        tasks = [self._keepers[child] for child in children if child in self._keepers]
        if not tasks:
            return
        drain = self.settings.server.drain_timeout if "worker" in roles else 0.0
        timeout = drain + _GRACE
        _, late = await asyncio.wait(tasks, timeout=timeout)
        for child in children:
            if late and child.process is not None and child.process.returncode is None:
                log.error("killed", child=child.name)
                child.process.kill()
        if late:
            await asyncio.wait(late, timeout=_GRACE)
