"""The store of suppressions, contacts and consent acts, and of the counts beside them.

What is opened here for one event loop has to be closed.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from smtpproxy.settings import Settings, StoreSettings
from smtpproxy.store.breaker import Breaker
from smtpproxy.store.feedback import FeedbackLog
from smtpproxy.store.journals import AskedMessages, IndexQuery, IndexRow, SharedJournals
from smtpproxy.store.records import StoreMisconfigured
from smtpproxy.store.register import known_relay_id
from smtpproxy.store.sql.bulk import BulkCounter
from smtpproxy.store.sql.copies import CopyLedger
from smtpproxy.store.sql.mailings import MailingLog
from smtpproxy.store.sql.side_tables import SideTables
from smtpproxy.store.sql.store import Store
from smtpproxy.store.sql.stream_counts import StreamCounts
from smtpproxy.store.sql.web_tables import ConfirmationLimit, KeptAnswers

if TYPE_CHECKING:
    from smtpproxy.store.postgres.connection import StoreConnections


def open_store(settings: StoreSettings, state_dir: Path, *, read_only: bool = False) -> Store:
    """Open the store at `settings.url`. Open it after a fork, and close it.

    Unless `read_only`, this creates or migrates the database, its tables and the key of the
    suppressions (in `state_dir`). An open store sees what other processes have written with its
    next read.

    Raises:
        StoreMisconfigured: it cannot be used as it is; the text says what to do.
        StoreUnavailable: another process holds it for longer than `settings.timeout`.
    """
    if is_postgresql(settings):
        from smtpproxy.store.postgres import PostgresStore

        return PostgresStore(settings, state_dir, read_only=read_only)
    path = store_path(settings)
    from smtpproxy.store.sqlite import open_sqlite

    return open_sqlite(
        path, state_dir, settings.timeout, partners=settings.partners, read_only=read_only
    )


def open_mailings(settings: StoreSettings) -> MailingLog:
    """Open the record of who was mailed when, for one event loop. Raises StoreMisconfigured."""
    tables = _side_tables(settings, "mailings")
    if is_postgresql(settings):
        from smtpproxy.store.postgres.side_tables import PostgresMailings

        return PostgresMailings(tables)
    return MailingLog(tables)


def open_bulk_counter(settings: StoreSettings) -> BulkCounter:
    """Open the counter of people sent the same text. Raises StoreMisconfigured."""
    return BulkCounter(_side_tables(settings, "bulk"))


def open_stream_counts(settings: StoreSettings, *, read_only: bool = False) -> StreamCounts:
    """Open the counts of mail and feedback by stream. Raises StoreMisconfigured."""
    return StreamCounts(_side_tables(settings, "streams", read_only=read_only))


def open_breaker(
    settings: Settings, states: Callable[[], Store], *, read_only: bool = False
) -> Breaker:
    """Open the breaker, for one event loop.

    `states` returns the store to write to, when that is needed. Raises StoreMisconfigured.
    """
    counts = open_stream_counts(settings.store, read_only=read_only)
    streams = settings.streams.values()
    return Breaker(settings.breaker, streams, counts, states, now=lambda: datetime.now(UTC))


def open_copies(settings: StoreSettings, now: Callable[[], datetime]) -> CopyLedger:
    """Open the ledger of copies delivered before the final answer. Raises StoreMisconfigured."""
    return CopyLedger(_side_tables(settings, "copies"), now)


def open_confirmation_limit(settings: StoreSettings) -> ConfirmationLimit:
    """Open the counter of confirmation mails. Raises StoreMisconfigured."""
    return ConfirmationLimit(_side_tables(settings, "confirmations"))


def open_answers(settings: StoreSettings, now: Callable[[], datetime]) -> KeptAnswers:
    """Open the answers to requests with an idempotency key. Raises StoreMisconfigured."""
    return KeptAnswers(_side_tables(settings, "answers"), now)


def open_feedback(settings: StoreSettings, mailbox: str = "") -> FeedbackLog:
    """Open the record of feedback reports. Raises StoreMisconfigured.

    `mailbox`, needed to add or remove reports, is the `relay_id` of the relay with their files.
    """
    of_relay = (mailbox,) if is_postgresql(settings) else ()
    return FeedbackLog(_side_tables(settings, "feedback"), *of_relay)


def open_journals(settings: StoreSettings) -> SharedJournals | None:
    """Open what relays know about each other's journals; None if one relay has its own store."""
    return SharedJournals(_side_tables(settings, "journals")) if is_postgresql(settings) else None


def _side_tables(settings: StoreSettings, part: str, *, read_only: bool = False) -> SideTables:
    """Open the tables of a part, for one event loop. Raises StoreMisconfigured."""
    if is_postgresql(settings):
        from smtpproxy.store.postgres import target
        from smtpproxy.store.postgres.side_tables import PostgresTables

        return PostgresTables(target(settings), part)
    path = store_path(settings)
    from smtpproxy.store.sqlite.side_file import SideFile

    return SideFile(path, part, settings.timeout, read_only=read_only)


def side_file_faults(settings: StoreSettings) -> Iterator[str]:
    """Say which files beside the store's cannot be used; PostgreSQL has none."""
    if not is_postgresql(settings):
        from smtpproxy.store.sqlite.side_file import side_file_faults

        yield from side_file_faults(store_path(settings))


@asynccontextmanager
async def opened_store(settings: Settings, *, read_only: bool = False) -> AsyncIterator[Store]:
    """Open the store, and close it at the end. Raises as `open_store` does."""
    store = open_store(settings.store, settings.server.state_dir, read_only=read_only)
    try:
        yield store
    finally:
        await store.close()


async def decisions_elsewhere(
    settings: Settings, wanted: IndexQuery, limit: int
) -> Sequence[IndexRow] | None:
    """Return decisions of other relays from the index, the newest first; None without an index.

    Raises StoreUnavailable, OSError.
    """
    index = open_journals(settings.store)
    if index is None:
        return None
    with closing(index):
        own = known_relay_id(settings.server.state_dir) or ""
        return await index.find(wanted, limit, but=own)


def open_asked_messages(settings: StoreSettings) -> AskedMessages | None:
    """Open what relays ask each other about messages; None if one relay has its own store."""
    return AskedMessages(_side_tables(settings, "journals")) if is_postgresql(settings) else None


async def replica_fault(settings: StoreSettings) -> str | None:
    """Return why the standby is not read from now, or None if it is or there is none.

    Raises StoreMisconfigured if it is not a standby of that database.
    """
    if settings.replica_url is None:
        return None
    from smtpproxy.store.postgres.standby_checks import look_at_replica

    found = await look_at_replica(settings)
    return None if found is None else found.fault or None


def store_connections() -> "Sequence[StoreConnections]":
    """Return the use of this event loop's connections to PostgreSQL, for each database."""
    from smtpproxy.store.postgres.connection import databases

    return [database.connections() for database in databases()]


def is_postgresql(settings: StoreSettings) -> bool:
    return settings.url.startswith("postgresql://")


def store_path(settings: StoreSettings) -> Path:
    """Return the file of a database of SQLite. Raises StoreMisconfigured."""
    scheme, _, rest = settings.url.partition("://")
    if scheme != "sqlite" or not rest.startswith("/"):
        raise StoreMisconfigured(
            "store.url: not the URL of a store; write it like "
            "sqlite:///var/lib/smtpproxy/smtpproxy.db"
        )
    return Path(rest)
