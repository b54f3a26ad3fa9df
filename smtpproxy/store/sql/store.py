"""The store, in a database of either kind.

All methods raise `StoreUnavailable` if it cannot answer (locked, full, gone): the mail path turns
that into 451 4.3.0, never into a pass. Methods canonicalise the addresses that they are given, or
raise `AddressError`. Both kinds pass the same tests (tests/store/).
"""

from abc import abstractmethod
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from msgspec.structs import replace

from smtpproxy.mail.mailboxes import recorded
from smtpproxy.policy.model import ConsentAct, Contact, Facts, Lookups, Origin, Suppression
from smtpproxy.policy.scopes import SCOPE_KINDS
from smtpproxy.store.keys import KeyRing, is_key_text, suppressed_name
from smtpproxy.store.merge import as_update
from smtpproxy.store.operations import Batch, Correction, Rectification
from smtpproxy.store.propagation import Propagation
from smtpproxy.store.records import (
    BatchResult,
    ContactUpdate,
    FactReader,
    ReplicaState,
    SuppressionEntry,
)
from smtpproxy.store.rectifying import corrected, following, follows
from smtpproxy.store.sql import contacts as contact_table
from smtpproxy.store.sql import imports as import_table
from smtpproxy.store.sql import suppressions as suppression_table
from smtpproxy.store.sql.contacts import Contacts
from smtpproxy.store.sql.live_keys import Rekeying
from smtpproxy.store.sql.mailings import MailingLog, with_mailings
from smtpproxy.store.sql.partners import PartnerExchange
from smtpproxy.store.sql.retention import Retention
from smtpproxy.store.sql.scopes import NamedScopes
from smtpproxy.store.sql.session import Session
from smtpproxy.store.sql.stream_counts import StreamCounts
from smtpproxy.store.sql.suppressions import Suppressions
from smtpproxy.store.streams import Streams

_ANYBODY = Lookups(("nobody@store.invalid",))


class Reader(FactReader, Protocol):
    """The reads of the mail path, in the fastest way for the database."""

    def tally(self) -> Awaitable[dict[tuple[str, str], int]]:
        """Return the count of each (kind, origin); contacts are ("contact", "")."""
        ...


class Store(
    Suppressions,
    Contacts,
    Propagation,
    Rekeying,
    PartnerExchange,
    import_table.Imports,
    Retention,
    Streams,
    NamedScopes,
):
    """Suppressions, contacts and consent acts, and all that is on record about them.

    It is a `FactReader`. What the kinds of database do differently is in their subclasses.
    """

    _reader: Reader
    _mailings: MailingLog
    _stream_counts: StreamCounts

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
        """Add a batch, and the checkpoint of its import, in one commit.

        There is one suppression per address, scope and origin. A later `since` moves it forward
        (unsubscribing again outweighs a consent in between); the same or an earlier one changes
        nothing. If the address was corrected since (`moved_to`), the new one is suppressed as
        well, and not counted.
        """
        async with self._writing() as session:
            keys = await self._keys.current(session)
            importer = await import_table.number_of(session, batch)
            result = await self._add(session, keys, entries, importer)
            await import_table.record_batch(session, batch, result)
            return result

    async def suppress(self, entries: Sequence[SuppressionEntry]) -> Sequence[datetime | None]:
        """Add a batch as `add_suppressions` does; return the result of `standing` before that."""
        async with self._writing() as session:
            keys = await self._keys.current(session)
            before = await suppression_table.standing(session, keys, entries)
            await self._add(session, keys, entries)
            return before

    async def _keep_orders(self, entries: Sequence[SuppressionEntry]) -> None:
        """Add suppressions that take the place of refusals on record."""
        async with self._writing() as session:
            keys = await self._keys.current(session)
            await self._add(session, keys, entries, as_dated=True)

    async def _add(
        self,
        session: Session,
        keys: KeyRing,
        entries: Sequence[SuppressionEntry],
        importer: int | None = None,
        *,
        as_dated: bool = False,
    ) -> BatchResult:
        """Suppress people, and at their present addresses too, if these were corrected since."""
        result = await suppression_table.add(
            session, keys, entries, self._partners, importer, as_dated=as_dated
        )
        if not await contact_table.anybody_moved(session):
            return result
        named = defaultdict[str, list[SuppressionEntry]](list)
        for one in entries:
            if follows(one.origin) and not is_key_text(one.address):
                named[suppressed_name(one.address)].append(one)
        moved = [
            replace(one, address=new)
            for old, new in await contact_table.moved_to(session, list(named))
            for one in named[old]
        ]
        if moved:
            await suppression_table.add(session, keys, moved, self._partners, importer)
        return result

    async def suppressions(self, address: str) -> Sequence[Suppression]:
        """Return the suppressions that count for the address, as in `facts`: also widened ones."""
        name = suppressed_name(address)
        facts = await self._reader.facts(Lookups((name,), contacts=False))
        return facts[name].suppressions if name in facts else ()

    async def put_contacts(
        self, contacts: Sequence[Contact | ContactUpdate], batch: Batch | None = None
    ) -> BatchResult:
        """Insert or update a batch, and the checkpoint of its import, in one commit.

        An import (with `batch`) leaves out people who were erased; of those who have come back
        by themselves it stores only refusals. Purchases and consent acts are added, never
        removed; an act is replaced only by a more complete one of the same fact. A bare `Contact`
        is an update of its whole profile without a date.
        """
        updates = [as_update(contact) for contact in contacts]
        async with self._writing() as session:
            importer = await import_table.number_of(session, batch)
            before = await import_table.newest_contact(session) if batch else None
            erased: set[str] = set()
            if batch is not None:
                keys = await self._keys.current(session)
                addresses = [update.contact.address for update in updates]
                erased = await suppression_table.erased(session, keys, addresses)
            result = await self._put(session, updates, importer, erased)
            await import_table.record_batch(session, batch, result, before)
            return result

    async def put_contact(
        self,
        address: str,
        decide: Callable[[Contact | None], ContactUpdate | None],
        *,
        imported: bool = False,
    ) -> BatchResult | None:
        """Insert or update one contact by what `decide` returns for the stored one.

        Nobody writes in between: `decide` sees whoever was erased or withdrew meanwhile. If it
        returns None, so does this, and nothing changes. `imported`: leaves out people who were
        erased, as an import would.
        """
        name = recorded(address)
        async with self._writing() as session:
            known = (await contact_table.stored(session, [name])).get(name)
            update = decide(known.contact if known else None)
            if update is None:
                return None
            erased: set[str] = set()
            if imported:
                keys = await self._keys.current(session)
                erased = await suppression_table.erased(session, keys, [name])
            return await self._put(session, [update], None, erased)

    async def contact(self, address: str) -> Contact | None:
        name = recorded(address)
        facts = await self._reader.facts(Lookups((name,)))
        return facts[name].contact if name in facts else None

    async def rectify(
        self, address: str, correction: Correction, *, at: datetime, reason: str
    ) -> Rectification | None:
        """Rectify a contact and record that; None if there is no contact.

        With a new address, acts, purchases and suppressions follow, except bounces, which are
        about a mailbox, not the person's wishes; so do later suppressions of the old address,
        which stays suppressed. If nothing changes, nothing is recorded.
        """
        name = recorded(address)
        new = correction.new_address or name
        if new != name:
            async with self._reading() as session:
                if not await contact_table.stored(session, [name]):
                    return None
            # This comes first: if the rest fails, people get too little mail, not too much.
            await self.add_suppressions(following(await self.suppressions(name), new))
        async with self._writing() as session:
            known = await contact_table.stored(session, [name, new])
            if name not in known:
                return None
            target = known.get(new) if new != name else None
            update, changes = corrected(known[name], target, correction, at)
            done = Rectification(at, reason, changes)
            if changes:
                await self._put(session, [update])
                await contact_table.record(session, name, new, done)
        if new != name:  # what came in between; from now on `add_suppressions` follows
            await self.add_suppressions(following(await self.suppressions(name), new))
        return done

    async def erase_contact(self, address: str, *, at: datetime, scope: str = "marketing") -> bool:
        """Remove profile and acts, and leave an `erasure` suppression.

        Notes and reasons in free text of the address's suppressions are removed too. Returns
        False if there was no contact; the suppression is left all the same.
        """
        entry = SuppressionEntry(recorded(address), scope, Origin.ERASURE, at)
        async with self._writing() as session:
            keys = await self._keys.current(session)
            await suppression_table.add(session, keys, [entry], self._partners)
            erased = await contact_table.erase(session, entry.address)
            await suppression_table.forget_texts(session, keys.places(entry.address))
        await self._mailings.forget(entry.address)
        await self._stream_counts.forget(entry.address)
        await self._purge_log()
        return erased

    async def record_act(
        self,
        address: str,
        act: ConsentAct,
        only_if: Callable[[Contact | None], bool] = lambda _: True,
    ) -> bool:
        """Add one act to the history; create the contact if there is none.

        A withdrawal also counts for contacts that had this address before a correction
        (`moved_to`). Returns False if the same act is already there, or if `only_if` does not
        accept the contact as stored.
        """
        people = [recorded(address)]
        async with self._writing() as session:
            known = (await contact_table.stored(session, people)).get(people[0])
            if not only_if(known.contact if known else None):
                return False
            if act.withdrawal:
                people += [new for _, new in await contact_table.moved_to(session, people)]
            contacts = [Contact(each, acts=(act,)) for each in dict.fromkeys(people)]
            updates = [ContactUpdate(contact, given=frozenset()) for contact in contacts]
            return (await self._put(session, updates)).unchanged < len(updates)

    async def counts(self) -> tuple[int, Mapping[tuple[str, str], int]]:
        """Return the number of contacts and suppressions by (scope kind, origin).

        It has every pair of the kinds `all`, `marketing` and `purpose` and an origin.
        """
        tally = await self._reader.tally()
        contacts = tally.pop(("contact", ""))
        found: Counter[tuple[str, str]] = Counter()
        for (scope, origin), n in tally.items():
            if (kind := scope.partition(":")[0]) in SCOPE_KINDS:
                found[kind, origin] += n
        return contacts, found

    async def named_scopes(self) -> Mapping[str, int]:
        """Return the number of suppressions by scope, for those that name a brand or a purpose."""
        found: Counter[str] = Counter()
        for (scope, _), n in (await self._reader.tally()).items():
            if ":" in scope and n:
                found[scope] += n
        return found

    def replica(self) -> ReplicaState | None:
        """Return the state of the standby, or None if there is none."""
        return None

    async def ping(self) -> None:
        """Raise `StoreUnavailable` unless recipients can be judged now: the mail path asks so."""
        await self._reader.read(_ANYBODY)
        await self._reader.version()

    @abstractmethod
    async def close(self) -> None: ...
