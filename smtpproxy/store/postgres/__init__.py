"""A store in PostgreSQL, for relays on several machines, over the event loop."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from msgspec.structs import replace

from smtpproxy.settings import StoreSettings
from smtpproxy.store.key_files import load_partners
from smtpproxy.store.postgres.connection import Lease, Target
from smtpproxy.store.postgres.reader import PostgresReader
from smtpproxy.store.postgres.replica import ReplicaReader
from smtpproxy.store.postgres.side_tables import PostgresMailings, PostgresTables
from smtpproxy.store.postgres.statements import DIALECT
from smtpproxy.store.records import ReplicaState, StoreUnavailable
from smtpproxy.store.sql.live_keys import LiveKeys
from smtpproxy.store.sql.session import Session
from smtpproxy.store.sql.store import Store
from smtpproxy.store.sql.stream_counts import StreamCounts

_LOCK_SNAPSHOTS = "SELECT pg_try_advisory_xact_lock(hashtext('smtpproxy partner snapshots'))"


class PostgresStore(Store):
    """A `Store` for one process and one event loop. The database is only contacted, and its version
    checked, with the first use."""

    _dialect = DIALECT
    _reader: PostgresReader | ReplicaReader

    def __init__(
        self, settings: StoreSettings, state_dir: Path, *, read_only: bool = False
    ) -> None:
        """Raises StoreMisconfigured if a partner's key is missing."""
        primary, second = target(settings), standby(settings)
        self._lease = Lease(primary, state_dir)
        self._state_dir = state_dir
        self._partners = load_partners(settings.partners)
        self._read_only = read_only
        self._keys = LiveKeys("store.url", state_dir)
        reader = PostgresReader(self._lease, state_dir, self._partners)
        self._standby = Lease(second) if second is not None else None
        if self._standby is None:
            self._reader = reader
        else:
            other = PostgresReader(self._standby, state_dir, self._partners)
            self._reader = ReplicaReader(reader, other, settings.max_replica_lag)
        self._mailings = PostgresMailings(PostgresTables(primary, "mailings"))
        self._stream_counts = StreamCounts(PostgresTables(primary, "streams"))

    def _transaction(self) -> AbstractAsyncContextManager[Session]:
        return self._lease.database.writing()

    async def _purge_log(self) -> None:
        """PostgreSQL recycles its log itself (docs/store.md)."""

    def _reading(self, *, snapshot: bool = False) -> AbstractAsyncContextManager[Session]:
        return self._lease.database.reading(snapshot=snapshot)

    @asynccontextmanager
    async def _importing(self) -> AsyncIterator[None]:
        async with self._lease.database.transaction() as session:
            await session.run("SET LOCAL idle_in_transaction_session_timeout = 0")
            if not (await session.fetch_all(_LOCK_SNAPSHOTS))[0][0]:
                raise StoreUnavailable("another snapshot is being imported; try again later")
            yield

    def replica(self) -> ReplicaState | None:
        return self._reader.state() if isinstance(self._reader, ReplicaReader) else None

    async def close(self) -> None:
        self._reader.close()
        self._mailings.close()
        self._stream_counts.close()
        self._lease.close()
        if self._standby is not None:
            self._standby.close()


def target(settings: StoreSettings) -> Target:
    return Target(
        settings.url,
        settings.timeout,
        settings.connections,
        synchronous=settings.require_synchronous,
        prepares=settings.prepared_statements,
    )


def standby(settings: StoreSettings) -> Target | None:
    """Return the standby to read from, if any; its timeout leaves time to ask the primary."""
    if settings.replica_url is None:
        return None
    timeout = settings.timeout / 4
    first = replace(target(settings), url=settings.replica_url, timeout=timeout)
    return replace(first, server="standby", synchronous=False)
