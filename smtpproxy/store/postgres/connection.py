"""How PostgreSQL is reached: one pool for each event loop and URL, transactions, what errors mean.

asyncpg is loaded with the first use: who keeps the store in SQLite does without.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

from smtpproxy.store.postgres.errors import unavailable
from smtpproxy.store.postgres.kept import KeptConnections, Lent
from smtpproxy.store.postgres.lineage import Lineage
from smtpproxy.store.postgres.session import PostgresSession, is_over, transaction
from smtpproxy.store.postgres.synchronous import WAITS, check_waits
from smtpproxy.store.protocols import StoreUnavailable

if TYPE_CHECKING:
    from asyncpg import Connection, Record

_BEGIN_WRITING = """
UPDATE store_state SET version = version + 1, written_in = pg_current_xact_id()
"""
_SECRET = "SELECT octets FROM secret WHERE part = $1 OR part IS NULL ORDER BY part LIMIT 1"
_ONLY_A_PRIMARY = re.compile(r"[?&]target_session_attrs=(?:primary|read-write)(?:&|\Z)")
_NET = 60.0  # seconds of any statement, and of any pause within a transaction
_ON_THE_WAY = 5.0  # seconds longer than that: the network is dead, or the machine
_SOON = 1.0  # seconds
_MOST = 2_000_000  # seconds: more milliseconds than that, PostgreSQL has no number for
_CONNECT = 5.0  # seconds


Server = Literal["primary", "standby", "prefer-standby"]
"""What a standby says may be older than the last objection."""


@dataclass(frozen=True, slots=True)
class Target:
    """Which database, how long anything may wait for it (seconds), and over how many connections
    at once. `patient`: what is asked may take as long as it needs. `prepares`: a connection is to
    one session of the server, from its beginning to its end."""

    url: str
    timeout: float
    connections: int
    patient: bool = False
    server: Server = "primary"
    synchronous: bool = False  # whether nothing is done unless commits wait for a standby
    prepares: bool = True

    @property
    def longest(self) -> float | None:
        """Seconds that any answer is waited for: a dead machine says no more that it is dead."""
        return None if self.patient else _net(self.timeout) + _ON_THE_WAY

    @property
    def soon(self) -> float | None:
        """Seconds that what takes no time is waited for: a beginning, and an end. It may wait for
        others for as long as `timeout`, which the database says itself."""
        return None if self.patient else self.timeout + _SOON

    @property
    def setting(self) -> str:
        """Which one names it, for messages."""
        return "store.url" if self.server == "primary" else "store.replica_url"

    @property
    def session_attributes(self) -> str | None:
        """Which of the hosts of the URL is asked; None: it says that itself."""
        if not self.prepares:
            return "any"  # each transaction may be another server's, and says which it needs
        asks_primary = self.server == "primary" and _ONLY_A_PRIMARY.search(self.url)
        return None if asks_primary else self.server

    def begin(self, isolation: str, **told: str) -> str:
        """How a transaction begins that is told these settings. One that no session is told
        anything before is told all, and that it must not be a standby's."""
        access = ""
        if not self.prepares:
            access = " READ WRITE" if self.server == "primary" else " READ ONLY"
            told = {**session_settings(self.timeout), **told}
        settings = "".join(f"; SET LOCAL {name} = '{value}'" for name, value in told.items())
        return f"ISOLATION LEVEL {isolation}{access}{settings}"


@dataclass(frozen=True, slots=True)
class StoreConnections:
    """How this process uses its connections to a database now; `waited` is in seconds, by all who
    have waited for one so far."""

    busy: int
    idle: int
    limit: int
    waiting: int
    waited: float


class Database:
    """The connections of one process to one database. They are made when they are needed, and anew
    where they were lost."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.loop = asyncio.get_running_loop()
        """To ask for it anew each time is a system call."""
        self.holders = 0
        self._kept: KeptConnections | None = None
        self._opening = asyncio.Lock()
        self._secrets: dict[str, bytes] = {}
        self.lineage = Lineage(self._expire)
        self.queued = 0
        """How many questions wait until a connection is free for the next statement."""
        self.waited = 0.0
        """Seconds that all together have waited for a connection."""
        self._lining_up = 0

    def connections(self) -> StoreConnections:
        size, idle = 0, 0
        if self._kept is not None:
            size, idle = self._kept.pool.get_size(), self._kept.pool.get_idle_size()
            idle += len(self._kept)
        return StoreConnections(
            size - idle, idle, self.target.connections, self._lining_up + self.queued, self.waited
        )

    @asynccontextmanager
    async def connection(self) -> AsyncIterator["Connection"]:
        """Lend a connection. Raises StoreUnavailable for whatever the database does wrong."""
        async with self._lending() if self.target.prepares else self.begun() as connection:
            yield connection

    @asynccontextmanager
    async def begun(
        self, isolation: str = "READ COMMITTED", **told: str
    ) -> AsyncIterator["Connection"]:
        """Lend a connection in a transaction that is told these settings."""
        async with (
            self._lending() as connection,
            transaction(connection, self.target.soon, self.target.begin(isolation, **told)),
        ):
            yield connection

    async def ask(self, sql: str, values: Sequence[Any], until: float) -> "Sequence[Record]":
        """Return the rows of a statement that is asked again and again; `until` is on the loop's
        clock. Raises StoreUnavailable for whatever the database does wrong."""
        if not self.target.prepares:
            async with asyncio.timeout_at(until), self.begun() as connection:
                rows: Sequence[Record] = await connection.fetch(sql, *values)
                return rows
        lent = None if self._kept is None else self._kept.take()
        try:
            if lent is None:
                async with asyncio.timeout_at(until):
                    lent = await self._lent()
            try:
                rows = await lent.fetch(sql, values, until - self.loop.time())
            except BaseException:
                lent.keeper.give_back(lent)  # once the database has taken notice
                raise
            if self._lining_up or not lent.keeper.keep(lent):
                await lent.give_back()
        except _failures() as error:
            raise unavailable(error, self.target.setting) from error
        return rows

    @asynccontextmanager
    async def _lending(self) -> AsyncIterator["Connection"]:
        try:
            lent = None if self._kept is None else self._kept.take()
            if lent is None:
                lent = await self._lent()
            try:
                yield lent.connection
            except BaseException:
                await lent.give_back()
                raise
            open_still = not is_over(lent.connection) and lent.connection.is_in_transaction()
            if open_still or self._lining_up or not lent.keeper.keep(lent):
                await lent.give_back()  # which rolls back what somebody forgot to end
        except _failures() as error:
            raise unavailable(error, self.target.setting) from error

    async def _lent(self) -> Lent:
        """Wait for the pool to lend one."""
        kept = self._kept or await self._opened()
        began = time.monotonic()
        self._lining_up += 1
        try:
            return Lent(await kept.pool.acquire(timeout=self.target.timeout), kept)
        finally:
            self._lining_up -= 1
            self.waited += time.monotonic() - began

    async def _opened(self) -> KeptConnections:
        from asyncpg import create_pool

        async with self._opening:
            if self._kept is None:
                pool = await create_pool(
                    self.target.url,
                    min_size=0,
                    max_size=self.target.connections,
                    timeout=min(_CONNECT, self.target.timeout),
                    command_timeout=self.target.longest,
                    server_settings=(
                        session_settings(self.target.timeout) if self.target.prepares else None
                    ),
                    statement_cache_size=100 if self.target.prepares else 0,
                    reset=_left_as_it_is,
                    init=self._admit if self.target.prepares else None,
                    target_session_attrs=self.target.session_attributes,
                )
                self._kept = KeptConnections(pool, self.loop)
        return self._kept

    async def _admit(self, connection: "Connection") -> None:
        await self.lineage.admit(connection)
        if self.target.synchronous:
            check_waits(await connection.fetchval(f"SELECT {WAITS}"))

    async def _expire(self) -> None:
        """Use no connection any more that there was so far."""
        if (kept := self._kept) is not None:
            self._kept = KeptConnections(kept.pool, self.loop)
            kept.retire()
            await kept.pool.expire_connections()

    @asynccontextmanager
    async def transaction(self, **told: str) -> AsyncIterator[PostgresSession]:
        """Do something all at once, beside others who do, with these settings."""
        async with self.begun(**told) as connection:
            yield PostgresSession(connection)

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[PostgresSession]:
        """As `Writer.transaction`: its first statement waits until nobody else is writing."""
        async with self.transaction() as session:
            async with asyncio.timeout(self.target.soon):
                await session.run(_BEGIN_WRITING)
                if self.target.synchronous:
                    check_waits((await session.fetch_all(f"SELECT {WAITS}"))[0][0])
            yield session

    @asynccontextmanager
    async def reading(self, *, snapshot: bool = False) -> AsyncIterator[PostgresSession]:
        async with self.begun("REPEATABLE READ") if snapshot else self.connection() as connection:
            yield PostgresSession(connection)

    async def secret(self, part: str) -> bytes:
        """Return octets of the database's own, to key the hashes of persons in a part with."""
        if part not in self._secrets:
            async with self.connection() as connection:
                self._secrets[part] = await connection.fetchval(_SECRET, part)
        return self._secrets[part]

    def terminate(self) -> None:
        kept, self._kept = self._kept, None
        if kept is not None:
            with suppress(RuntimeError):  # the loop is closed, and they with it
                kept.terminate()


def _failures() -> tuple[type[Exception], ...]:
    """What asyncpg raises. Its own faults are those of a connection that ends while it is asked."""
    from asyncpg import InterfaceError, InternalClientError, PostgresError

    return (PostgresError, InterfaceError, InternalClientError, OSError, UnicodeError)


def session_settings(timeout: float) -> Mapping[str, str]:
    """What each session is told. Every lookup has its index: plans made while a table was empty
    must not read all of it once it is not. To plan takes longer than to look something up."""
    return {
        "application_name": "smtpproxy",
        "statement_timeout": _milliseconds(_net(timeout)),
        "lock_timeout": _milliseconds(timeout),
        "idle_in_transaction_session_timeout": _milliseconds(_NET),
        "enable_seqscan": "off",
        "plan_cache_mode": "force_generic_plan",
        "jit": "off",
        "max_parallel_workers_per_gather": "0",
    }


def _net(timeout: float) -> float:
    return max(_NET, timeout)


def _milliseconds(seconds: float) -> str:
    return str(max(1, int(min(seconds, _MOST) * 1000)))


async def _left_as_it_is(_: "Connection") -> None:
    """Nothing to reset: what a session is told stays as it was, and no transaction is open."""


_shared: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Target, Database]] = WeakKeyDictionary()


def databases() -> Sequence[Database]:
    """Return those that this event loop uses now."""
    return list(_shared.get(asyncio.get_running_loop(), {}).values())


class Lease:
    """The share of one part of a process in the connections, taken with the first use: only then
    the event loop is known. The last one who gives it back closes them."""

    def __init__(self, target: Target, state_dir: Path | None = None) -> None:
        self.target = target
        self._state_dir = state_dir
        self._database: Database | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    @property
    def database(self) -> Database:
        """Raises StoreUnavailable: it was given back."""
        if self._closed:
            raise StoreUnavailable("the store is closed")
        loop = asyncio.get_running_loop()
        if self._database is None or self._loop is not loop:  # a command may have one after another
            self._let_go()
            known = _shared.setdefault(loop, {})
            if self.target not in known:
                known[self.target] = Database(self.target)
            self._database, self._loop = known[self.target], loop
            self._database.holders += 1
            if self._state_dir is not None:
                self._database.lineage.folder = self._state_dir
        return self._database

    def close(self) -> None:
        self._closed = True
        self._let_go()

    def _let_go(self) -> None:
        database, self._database, self._loop = self._database, None, None
        if database is not None:
            database.holders -= 1
            if not database.holders:
                _shared[database.loop].pop(database.target)  # it holds the loop that holds it
                database.terminate()


class Counts:
    """What the mail path itself writes down, for the part that it is mixed into. Commits are not
    flushed: a crash of the database's machine costs counts and no proof."""

    _part: str
    """As the file of these counts is called where the store is in SQLite."""

    def __init__(self, target: Target) -> None:
        self._lease = Lease(target)

    @asynccontextmanager
    async def _counting(self, *, flushed: bool = False) -> AsyncIterator[PostgresSession]:
        """Write something down, all at once. Raises StoreUnavailable, in time for a 451."""
        told = {} if flushed else {"synchronous_commit": "off"}
        try:
            async with (
                asyncio.timeout(self._lease.target.timeout),
                self._lease.database.transaction(**told) as session,
            ):
                yield session
        except TimeoutError as error:
            raise unavailable(error) from error

    @asynccontextmanager
    async def _asking(self) -> AsyncIterator[PostgresSession]:
        """Read something, all of it as of one moment where it is one statement."""
        try:
            async with (
                asyncio.timeout(self._lease.target.timeout),
                self._lease.database.reading() as session,
            ):
                yield session
        except TimeoutError as error:
            raise unavailable(error) from error

    async def _secret(self) -> bytes:
        """Return octets of the database's own, to key the hashes of persons with."""
        return await self._lease.database.secret(self._part)

    def close(self) -> None:
        self._lease.close()
