"""The states behind /healthz and /readyz, the readiness probe, and cached answers."""

import asyncio
import tempfile
from asyncio import StreamReader, StreamWriter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from msgspec import Struct

from smtpproxy.first_address import addresses, first_address
from smtpproxy.settings import UnixAddress, UpstreamSettings
from smtpproxy.tls import client_context

T = TypeVar("T")


class Cached(Generic[T]):
    """Caches the answer to `ask`: one question for all waiting, repeated after `every` seconds.

    `ask` must not raise.
    """

    def __init__(self, ask: Callable[[], Awaitable[T]], every: float) -> None:
        self._ask = ask
        self._every = every
        self._asking: asyncio.Future[T] | None = None
        self._good_until = 0.0

    async def __call__(self) -> T:
        now = asyncio.get_running_loop().time()
        if self._asking is None or (self._asking.done() and now >= self._good_until):
            self._asking = asyncio.ensure_future(self._ask())
            self._good_until = now + self._every
        # shielded: a caller that gives up must not cancel it for the others
        return await asyncio.shield(self._asking)


_ROOM = 256 * 1024
"""Octets that must fit where decisions are recorded: some hundred decisions."""

State = Literal["ok", "failing", "draining"]


class Health(Struct, frozen=True):
    """How many workers there should be, and how many have reported lately."""

    workers: int
    alive: int

    @property
    def ok(self) -> bool:
        return self.alive >= self.workers


class Readiness(Struct, frozen=True):
    """Whether mail would be accepted and relayed now, part by part."""

    listeners: State
    store: State
    upstream: State
    audit: State = "ok"

    @property
    def parts(self) -> Mapping[str, State]:
        return {
            "listeners": self.listeners,
            "store": self.store,
            "audit": self.audit,
            "upstream": self.upstream,
        }

    @property
    def ok(self) -> bool:
        return all(state == "ok" for state in self.parts.values())


async def _always() -> None:
    """The probe of a part that is not configured."""


@dataclass(eq=False, kw_only=True)
class ReadinessProbe:
    """Asks each part whether it works.

    `listeners` answers at once. `store`, `upstream` and `audit` return if they work and raise if
    not, within `timeout` seconds, and are asked again after `every` seconds.
    """

    listeners: Callable[[], State]
    store: Callable[[], Awaitable[None]]
    upstream: Callable[[], Awaitable[None]]
    audit: Callable[[], Awaitable[None]] = _always
    timeout: float = 3.0
    every: float = 5.0

    def __post_init__(self) -> None:
        self._probed = Cached(self._probe, self.every)

    async def __call__(self) -> Readiness:
        store, upstream, audit = await self._probed()
        return Readiness(listeners=self.listeners(), store=store, upstream=upstream, audit=audit)

    async def _probe(self) -> tuple[State, State, State]:
        return await asyncio.gather(
            self._works(self.store), self._works(self.upstream), self._works(self.audit)
        )

    async def _works(self, ask: Callable[[], Awaitable[None]]) -> State:
        try:
            async with asyncio.timeout(self.timeout):
                await ask()
        except Exception:  # whatever it raises, it does not work
            return "failing"
        return "ok"


async def take(folder: Path) -> None:
    """Return if files can be written in `folder`; raise `OSError` if not."""
    await asyncio.to_thread(_write_and_forget, folder)


def _write_and_forget(folder: Path) -> None:
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(_ROOM))


async def greet(upstream: UpstreamSettings) -> None:
    """Return if the upstream greets with 220 at one of its addresses; raise `OSError` otherwise."""
    address, tls = upstream.address, dict[str, Any]()
    if upstream.tls == "implicit":
        context = await asyncio.to_thread(client_context, upstream.ca_file)
        tls = {"ssl": context, "server_hostname": upstream.certificate_name}

    async def greeted(host: str, port: int) -> tuple[StreamReader, StreamWriter]:
        reader, writer = await (
            asyncio.open_unix_connection(host, **tls)
            if isinstance(address, UnixAddress)
            else asyncio.open_connection(host, port, **tls)
        )
        try:
            greeting = b""
            with suppress(OSError):
                greeting = await reader.readline()
            if not greeting.startswith(b"220"):
                refusal = f"{address} does not greet with 220: {greeting[:80]!r}"
                raise ConnectionRefusedError(refusal)
        except BaseException:  # a cancellation too, when another greets first
            writer.close()
            raise
        return reader, writer

    reader, writer = (
        await greeted(str(address.path), 0)
        if isinstance(address, UnixAddress)
        else await first_address(await addresses(address.host, address.port), greeted)
    )
    try:
        writer.write(b"QUIT\r\n")
        with suppress(OSError):
            await reader.read()  # its 221 and the close: otherwise it would log a lost connection
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
