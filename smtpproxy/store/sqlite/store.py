"""The SQLite backend: the mail path reads on the event loop, the rest is on a thread."""

from collections.abc import Awaitable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from smtpproxy.mail.address import canonical
from smtpproxy.policy.model import ConsentAct, Contact, Facts, Lookups, Origin, Suppression
from smtpproxy.store.counters import with_mailings
from smtpproxy.store.keys import suppressed_name
from smtpproxy.store.merge import as_update
from smtpproxy.store.operations import Batch
from smtpproxy.store.protocols import (
    BatchResult,
    ContactUpdate,
    SuppressionEntry,
)
from smtpproxy.store.sqlite import contacts as contact_table
from smtpproxy.store.sqlite import imports as import_table
from smtpproxy.store.sqlite import suppressions as suppression_table
from smtpproxy.store.sqlite.contacts import Contacts
from smtpproxy.store.sqlite.counters import SqliteMailings
from smtpproxy.store.sqlite.live_keys import LiveKeys, Rekeying
from smtpproxy.store.sqlite.partners import PartnerExchange
from smtpproxy.store.sqlite.propagation import Propagation
from smtpproxy.store.sqlite.reader import Partner, SqliteReader
from smtpproxy.store.sqlite.retention import Retention
from smtpproxy.store.sqlite.suppressions import Suppressions


class SqliteStore(
    Suppressions, Contacts, Propagation, Rekeying, PartnerExchange, import_table.Imports, Retention
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
