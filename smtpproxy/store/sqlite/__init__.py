"""SQLite, in WAL mode: one writer and any number of readers that never wait for it. The mail path
reads on the event loop, the rest is on a thread."""

import os
import sqlite3
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import closing, suppress
from datetime import datetime
from pathlib import Path

from smtpproxy.mail.address import canonical
from smtpproxy.policy.model import ConsentAct, Contact, Facts, Lookups, Origin, Suppression
from smtpproxy.settings import PartnerSettings
from smtpproxy.store.counters import with_mailings
from smtpproxy.store.key_files import give_to_owner_of, load_or_create_keys, load_partner_key
from smtpproxy.store.keys import suppressed_name
from smtpproxy.store.merge import as_update
from smtpproxy.store.operations import Batch
from smtpproxy.store.protocols import (
    BatchResult,
    ContactUpdate,
    NoStoreYet,
    StoreInaccessible,
    StoreMisconfigured,
    StoreUnavailable,
    SuppressionEntry,
)
from smtpproxy.store.sqlite import contacts as contact_table
from smtpproxy.store.sqlite import imports as import_table
from smtpproxy.store.sqlite import live_keys
from smtpproxy.store.sqlite import suppressions as suppression_table
from smtpproxy.store.sqlite.connection import (
    is_busy,
    migrate,
    open_reader,
    open_writer,
    unavailable,
    version_of,
)
from smtpproxy.store.sqlite.contacts import Contacts
from smtpproxy.store.sqlite.counters import SqliteMailings
from smtpproxy.store.sqlite.live_keys import LiveKeys, Rekeying
from smtpproxy.store.sqlite.partners import PartnerExchange
from smtpproxy.store.sqlite.propagation import Propagation
from smtpproxy.store.sqlite.reader import SqliteReader
from smtpproxy.store.sqlite.retention import Retention
from smtpproxy.store.sqlite.statements import Partner
from smtpproxy.store.sqlite.streams import Streams
from smtpproxy.store.sqlite.suppressions import Suppressions


class SqliteStore(
    Suppressions,
    Contacts,
    Propagation,
    Rekeying,
    PartnerExchange,
    import_table.Imports,
    Retention,
    Streams,
):
    """A `Store` in one SQLite file, for one process and one event loop: open it after a fork."""

    def __init__(
        self,
        path: Path,
        state_dir: Path,
        timeout: float,
        *,
        partners: Sequence[Partner] = (),
        read_only: bool = False,
    ) -> None:
        super().__init__(path, state_dir, timeout, read_only=read_only)
        self._keys = LiveKeys(path, state_dir)
        self._partners = partners
        self._reader = SqliteReader(path, state_dir, timeout, partners)
        self._mailings = SqliteMailings(path, timeout, read_only=read_only)

    def read(self, lookups: Lookups) -> Awaitable[tuple[Facts, object]]:
        return self._with_mailings(lookups) if lookups.mailings else self._reader.read(lookups)

    async def facts(self, lookups: Lookups) -> Facts:
        facts, _ = await self.read(lookups)
        limited = [a for a, known in facts.items() if known.contact and known.contact.preferences]
        if limited and not lookups.mailings:
            return with_mailings(facts, await self._mailings.known(limited))
        return facts

    def version(self) -> Awaitable[object]:
        return self._reader.version()

    async def _with_mailings(self, lookups: Lookups) -> tuple[Facts, object]:
        facts, version = await self._reader.read(lookups)
        return with_mailings(facts, await self._mailings.known(lookups.addresses)), version

    async def add_suppressions(
        self, entries: Sequence[SuppressionEntry], batch: Batch | None = None
    ) -> BatchResult:
        async with self._to_write().transaction() as connection:
            keys = await self._keys.current(connection)
            importer = await import_table.number_of(connection, batch)
            result = await suppression_table.add(
                connection, keys, entries, self._partners, importer
            )
            await import_table.take_in(connection, batch, result)
            return result

    async def suppress(self, entries: Sequence[SuppressionEntry]) -> Sequence[datetime | None]:
        async with self._to_write().transaction() as connection:
            keys = await self._keys.current(connection)
            before = await suppression_table.standing(connection, keys, entries)
            await suppression_table.add(connection, keys, entries, self._partners)
            return before

    async def suppressions(self, address: str) -> Sequence[Suppression]:
        name = suppressed_name(address)
        facts = await self._reader.facts(Lookups((name,), contacts=False))
        return facts[name].suppressions if name in facts else ()

    async def put_contacts(
        self, contacts: Sequence[Contact | ContactUpdate], batch: Batch | None = None
    ) -> BatchResult:
        updates = [as_update(contact) for contact in contacts]
        async with self._to_write().transaction() as connection:
            importer = await import_table.number_of(connection, batch)
            before = await import_table.newest_contact(connection) if batch else None
            erased: set[str] = set()
            if batch is not None:
                keys = await self._keys.current(connection)
                addresses = [update.contact.address for update in updates]
                erased = await suppression_table.erased(connection, keys, addresses)
            result = await contact_table.put(connection, updates, importer, erased)
            await import_table.take_in(connection, batch, result, before)
            return result

    async def put_contact(
        self, update: ContactUpdate, only_if: Callable[[Contact | None], bool]
    ) -> BatchResult | None:
        address = update.contact.address
        async with self._to_write().transaction() as connection:
            known = (await contact_table.stored(connection, [address])).get(address)
            if not only_if(known.contact if known else None):
                return None
            keys = await self._keys.current(connection)
            erased = await suppression_table.erased(connection, keys, [address])
            return await contact_table.put(connection, [update], None, erased)

    async def contact(self, address: str) -> Contact | None:
        name = canonical(address)
        facts = await self._reader.facts(Lookups((name,)))
        return facts[name].contact if name in facts else None

    async def erase_contact(self, address: str, *, at: datetime, scope: str = "marketing") -> bool:
        entry = SuppressionEntry(canonical(address), scope, Origin.ERASURE, at)
        writer = self._to_write()
        async with writer.transaction() as connection:
            keys = await self._keys.current(connection)
            await suppression_table.add(connection, keys, [entry], self._partners)
            erased = await contact_table.erase(connection, entry.address)
            await suppression_table.forget_texts(connection, keys.places(entry.address))
        await self._mailings.forget(entry.address)
        await writer.empty_log()  # it still holds the pages as they were
        return erased

    async def record_act(self, address: str, act: ConsentAct) -> bool:
        contact = Contact(canonical(address), acts=(act,))
        result = await self.put_contacts([ContactUpdate(contact, given=frozenset())])
        return result.unchanged == 0

    async def counts(self) -> tuple[int, Mapping[tuple[str, str], int]]:
        tally = await self._reader.tally()
        return tally.pop(("contact", "")), tally

    async def ping(self) -> None:
        await self._reader.tally()

    async def close(self) -> None:
        self._reader.close()
        self._mailings.close()
        if self._writer is not None:
            await self._writer.close()


__all__ = ["SqliteStore", "make", "open_sqlite"]


def open_sqlite(
    path: Path,
    state_dir: Path,
    timeout: float,
    *,
    partners: Sequence[PartnerSettings] = (),
    read_only: bool,
) -> SqliteStore:
    """Open the database; unless `read_only`, make it, its key and its tables where missing.

    Raises:
        StoreMisconfigured: what is there cannot be used; the text says how to fix it.
        StoreUnavailable: another process holds the database.
    """
    shared = [Partner(one.name, load_partner_key(one.key_file)) for one in partners]
    deadline = time.monotonic() + timeout
    while True:
        try:
            if read_only:
                _check_there(path)
            else:
                make(path, state_dir, timeout)
            return SqliteStore(path, state_dir, timeout, partners=shared, read_only=read_only)
        except sqlite3.Error as error:
            if not is_busy(error) or time.monotonic() > deadline:
                raise _fault(error, path) from error
            time.sleep(0.01)  # another process starts or ends just now
        except OSError as error:
            raise StoreInaccessible(f"{path}: {error.strerror} ({error.filename})") from error


def _check_there(path: Path) -> None:
    """Refuse a database that is not there, or only being made and without a key."""
    if path.exists():
        with closing(open_reader(path)) as connection:
            if version_of(connection) and live_keys.knows_a_key(connection):
                return
    raise NoStoreYet(f"{path}: there is no database yet; smtpproxy serve makes it, or an import")


def make(path: Path, state_dir: Path, timeout: float) -> None:
    """Bring file, tables and key into being; a new key only for a database that never had one."""
    _make_file(path)
    with closing(open_writer(path, timeout)) as connection:
        migrate(connection, path, live_keys.name)
        if not live_keys.knows_a_key(connection):
            live_keys.register(connection, load_or_create_keys(state_dir))


def _make_file(path: Path) -> None:
    """Make an empty file that only its owner can read: it will hold people's addresses."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        give_to_owner_of(path.parent, path)


def _fault(error: sqlite3.Error, path: Path) -> StoreUnavailable:
    primary = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if primary == sqlite3.SQLITE_NOTADB:
        return StoreMisconfigured(f"{path}: not an SQLite database; store.url names another file")
    if primary in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        return StoreInaccessible(
            f"{path}: cannot be opened ({error}); the file and its folder must belong to the "
            "user that smtpproxy runs as"
        )
    return unavailable(error)
