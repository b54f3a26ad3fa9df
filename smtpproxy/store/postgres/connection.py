"""Connections to PostgreSQL: one pool for each event loop and URL, transactions, and errors.

asyncpg is imported with the first use: with a store in SQLite it is not needed.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

from msgspec import Struct

from smtpproxy.store.postgres.errors import unavailable
from smtpproxy.store.postgres.hosts import Hosts, Lineage
from smtpproxy.store.postgres.kept import KeptConnections, Lent
from smtpproxy.store.postgres.session import (
    WAITS,
    PostgresSession,
    check_waits,
    is_over,
    transaction,
)
from smtpproxy.store.records import StoreMisconfigured, StoreUnavailable

if TYPE_CHECKING:
    from asyncpg import Connection, Record

_BEGIN_WRITING = "UPDATE store_state SET version = version + 1, written_in = pg_current_xact_id()"
_SECRET = "SELECT octets FROM secret WHERE part = $1 OR part IS NULL ORDER BY part LIMIT 1"
_PREPARED_BY_POOLER = "SELECT name FROM pg_prepared_statements WHERE name LIKE 'PGBOUNCER%' LIMIT 1"
"""Also finds itself, as 1.21 and later name it on the server, unless a client has its own."""
_ONLY_A_PRIMARY = re.compile(r"[?&]target_session_attrs=(?:primary|read-write)(?:&|\Z)")
_LONGEST_STATEMENT = 60.0  # seconds of any statement, and of any pause within a transaction
_NETWORK = 5.0  # seconds longer than that: the network is dead, or the machine
_MARGIN = 1.0  # seconds
_LONGEST_WAIT = 2_000_000  # seconds: the milliseconds have to fit into 31 bits
_CONNECT = 5.0  # seconds
_PAUSE = 0.5  # seconds

Server = Literal["primary", "standby", "prefer-standby"]
"""A standby may lack the last objection."""


class Target(Struct, frozen=True):
    """A database, the timeout for it (seconds), and the number of connections to it.

    `patient`: statements may take as long as they need. `prepares`: a connection has the same
    session of the server from its beginning to its end.
    """

    url: str
    timeout: float
    connections: int
    patient: bool = False
    server: Server = "primary"
    synchronous: bool = False  # refuse everything unless commits wait for a standby
    prepares: bool = True

    @property
    def pause(self) -> float:
        """Seconds that a host may say nothing before the next one is asked too."""
        return min(_PAUSE, self.timeout / 4)

    @property
    def statement_timeout(self) -> float | None:
        """Seconds to wait for any answer, as a dead machine does not report that it is dead."""
        return None if self.patient else _longest_statement(self.timeout) + _NETWORK

    @property
    def transaction_timeout(self) -> float | None:
        """Seconds to wait at the begin or end of a transaction: longer than the database waits."""
        return None if self.patient else self.timeout + _MARGIN

    @property
    def setting(self) -> str:
        """The setting with the URL, for messages."""
        return "store.url" if self.server == "primary" else "store.replica_url"

    @property
    def session_attributes(self) -> str | None:
        """Which of the URL's hosts to use; None: the URL itself says it."""
        if not self.prepares:
            return "any"  # each transaction may reach another server, and says which it needs
        asks_primary = self.server == "primary" and _ONLY_A_PRIMARY.search(self.url)
        return None if asks_primary else self.server

    def begin(self, isolation: str, **settings: str) -> str:
        """Return how to begin a transaction with these settings.

        Behind a pooler there are no settings of the session: then it gets all of them, and the
        access mode, which keeps it off a standby.
        """
        access = ""
        if not self.prepares:
            access = " READ WRITE" if self.server == "primary" else " READ ONLY"
            settings = {**session_settings(self.timeout), **settings}
        local = "".join(f"; SET LOCAL {name} = '{value}'" for name, value in settings.items())
        return f"ISOLATION LEVEL {isolation}{access}{local}"


class StoreConnections(Struct, frozen=True):
    """The use of a database's connections; `waited` is the total of seconds waited for one."""

    busy: int
    idle: int
    limit: int
    waiting: int
    waited: float


class Database:
    """The connections of one process to one database, opened when needed, also after a loss."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.loop = asyncio.get_running_loop()  # kept, as this makes a system call
        self.holders = 0
        self._kept: KeptConnections | None = None
        self._opening = asyncio.Lock()
        self._secrets: dict[str, bytes] = {}
        self.lineage = Lineage(self._expire)
        self.queued = 0  # lookups that wait for a free connection
        self.waited = 0.0  # seconds in all, for a connection
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
        """Lend a connection. Raises StoreUnavailable for any failure of the database."""
        async with self._lending() if self.target.prepares else self.in_transaction() as connection:
            yield connection

    @asynccontextmanager
    async def in_transaction(
        self, isolation: str = "READ COMMITTED", **settings: str
    ) -> AsyncIterator["Connection"]:
        """Lend a connection in a transaction with these settings."""
        begin = self.target.begin(isolation, **settings)
        async with (
            self._lending() as connection,
            transaction(connection, self.target.transaction_timeout, begin),
        ):
            yield connection

    async def fetch(self, sql: str, values: Sequence[Any], until: float) -> "Sequence[Record]":
        """Return the rows of a statement that is run often; `until` is on the loop's clock.

        Raises StoreUnavailable for any failure of the database.
        """
        if not self.target.prepares:
            async with asyncio.timeout_at(until), self.in_transaction() as connection:
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
                lent.keeper.give_back(lent)  # after the database has cancelled the statement
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
                await lent.give_back()  # this rolls back a transaction left open
        except _failures() as error:
            raise unavailable(error, self.target.setting) from error

    async def _lent(self) -> Lent:
        """Wait for a connection of the pool."""
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
                    connect=Hosts(self.target.url, self.target.pause, self._admit).connect,
                    init=self._begin,
                    timeout=min(_CONNECT, self.target.timeout),
                    command_timeout=self.target.statement_timeout,
                    statement_cache_size=100 if self.target.prepares else 0,
                    reset=_left_as_it_is,
                    target_session_attrs=self.target.session_attributes,
                )
                self._kept = KeptConnections(pool, self.loop)
        return self._kept

    async def _admit(self, connection: "Connection") -> None:
        if self.target.prepares:  # else the next transaction may reach another server
            await self.lineage.admit(connection)

    async def _begin(self, connection: "Connection") -> None:
        """Begin a session. Its settings are not sent when connecting: PgBouncer would refuse them,
        or drop them unnoticed."""
        if not self.target.prepares:
            return
        settings = session_settings(self.target.timeout).items()
        await connection.execute("; ".join(f"SET {name} = '{value}'" for name, value in settings))
        if await connection.fetchval(_PREPARED_BY_POOLER):
            raise StoreMisconfigured(
                "PgBouncer is in transaction mode, where a session's settings are lost: set"
                " store.prepared_statements = false, or name the server itself"
            )
        if self.target.synchronous:
            check_waits(await connection.fetchval(f"SELECT {WAITS}"))

    async def _expire(self) -> None:
        """Stop using all present connections."""
        if (kept := self._kept) is not None:
            self._kept = KeptConnections(kept.pool, self.loop)
            kept.retire()
            await kept.pool.expire_connections()

    @asynccontextmanager
    async def transaction(self, **settings: str) -> AsyncIterator[PostgresSession]:
        """Run a transaction with these settings, concurrently with others."""
        async with self.in_transaction(**settings) as connection:
            yield PostgresSession(connection)

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[PostgresSession]:
        """Run a `Writer.transaction`: its first statement waits until nobody else is writing."""
        async with self.transaction() as session:
            async with asyncio.timeout(self.target.transaction_timeout):
                await session.run(_BEGIN_WRITING)
                if self.target.synchronous:
                    check_waits((await session.fetch_all(f"SELECT {WAITS}"))[0][0])
            yield session

    @asynccontextmanager
    async def reading(self, *, snapshot: bool = False) -> AsyncIterator[PostgresSession]:
        async with (
            self.in_transaction("REPEATABLE READ") if snapshot else self.connection() as connection
        ):
            yield PostgresSession(connection)

    async def secret(self, part: str) -> bytes:
        """Return the database's secret for hashes of persons in a part."""
        if part not in self._secrets:
            async with self.connection() as connection:
                self._secrets[part] = await connection.fetchval(_SECRET, part)
        return self._secrets[part]

    def terminate(self) -> None:
        kept, self._kept = self._kept, None
        if kept is not None:
            with suppress(RuntimeError):  # the loop is closed, and so are the connections
                kept.terminate()


def _failures() -> tuple[type[Exception], ...]:
    """Return what asyncpg raises; an internal error is a connection that ended during a query."""
    from asyncpg import InterfaceError, InternalClientError, PostgresError

    return (PostgresError, InterfaceError, InternalClientError, OSError, UnicodeError)


def session_settings(timeout: float) -> Mapping[str, str]:
    """Return the settings of each session.

    Every lookup has an index, and a plan made while a table was empty must not read all of it
    later. Planning takes longer than a lookup, so plans are reused.
    """
    return {
        "application_name": "smtpproxy",
        "statement_timeout": _milliseconds(_longest_statement(timeout)),
        "lock_timeout": _milliseconds(timeout),
        "idle_in_transaction_session_timeout": _milliseconds(_LONGEST_STATEMENT),
        "enable_seqscan": "off",
        "plan_cache_mode": "force_generic_plan",
        "jit": "off",
        "max_parallel_workers_per_gather": "0",
    }


def _longest_statement(timeout: float) -> float:
    return max(_LONGEST_STATEMENT, timeout)


def _milliseconds(seconds: float) -> str:
    return str(max(1, int(min(seconds, _LONGEST_WAIT) * 1000)))


async def _left_as_it_is(_: "Connection") -> None:
    """Reset nothing: the session's settings stay, and no transaction is open."""


_shared: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Target, Database]] = WeakKeyDictionary()


def databases() -> Sequence[Database]:
    """Return the databases that this event loop uses."""
    return list(_shared.get(asyncio.get_running_loop(), {}).values())


class Lease:
    """A share of one part of a process in the connections, taken with the first use, when the event
    loop is known. The last lease to end closes the connections."""

    def __init__(self, target: Target, state_dir: Path | None = None) -> None:
        self.target = target
        self._state_dir = state_dir
        self._database: Database | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    @property
    def database(self) -> Database:
        """Raises StoreUnavailable after `close`."""
        if self._closed:
            raise StoreUnavailable("the store is closed")
        loop = asyncio.get_running_loop()
        if self._database is None or self._loop is not loop:  # a command may use several loops
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
