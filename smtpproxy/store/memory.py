"""A store in memory, for tests and trials: the same answers as a database, nothing kept."""

import dataclasses
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from datetime import datetime

import msgspec

from smtpproxy.mail.address import canonical, domains_over, names_domain, readings
from smtpproxy.policy.model import (
    ConsentAct,
    Contact,
    Facts,
    Lookups,
    Origin,
    RecipientFacts,
    Suppression,
)
from smtpproxy.store.imports import Batch
from smtpproxy.store.keys import KeyPair, is_key_text, suppressed_name
from smtpproxy.store.memory_exchange import MemoryExchange
from smtpproxy.store.memory_imports import MemoryImports
from smtpproxy.store.memory_propagation import MemoryPropagation
from smtpproxy.store.memory_retention import MemoryRetention
from smtpproxy.store.memory_rights import MemoryRights
from smtpproxy.store.merge import (
    SCOPE_KINDS,
    WIDENED_ORIGINS,
    Known,
    Tally,
    as_update,
    merge,
    oldest_first,
    refusals,
    with_readings,
)
from smtpproxy.store.propagation import Action
from smtpproxy.store.protocols import (
    BatchResult,
    ContactUpdate,
    LiftedSuppression,
    StoreUnavailable,
    SuppressionEntry,
)
from smtpproxy.store.undo import Version


class MemoryStore(MemoryPropagation, MemoryExchange, MemoryImports, MemoryRetention, MemoryRights):
    """A `Store` for one process. `fail_with` makes every call fail as a database would."""

    def __init__(self, secret: bytes = b"", partners: Mapping[str, bytes] | None = None) -> None:
        MemoryPropagation.__init__(self)
        MemoryRights.__init__(self)
        MemoryImports.__init__(self)
        MemoryExchange.__init__(self, secret, partners or {})
        MemoryRetention.__init__(self)
        self._contacts: dict[str, Known] = {}
        self._closed = False
        self.fail_with: str | None = None

    async def facts(self, lookups: Lookups) -> Facts:
        self._check()
        facts = {}
        for address in lookups.addresses:
            known = with_readings(
                self._known(address, lookups),
                [(one, self._known(one, lookups)) for one in readings(address)],
            )
            if known is not None:
                facts[address] = known
        return facts

    async def version(self) -> object:
        self._check()
        return object()  # it keeps no count of its changes

    def _known(self, address: str, lookups: Lookups) -> RecipientFacts | None:
        known = self._contacts.get(address) if lookups.contacts else None
        found = RecipientFacts(
            self._matching(address),
            known.contact if known else None,
            snapshot_at=self._snapshot_at() if lookups.snapshots else None,
        )
        there = found.suppressions or found.contact or (lookups.snapshots and self._partners)
        return found if there else None

    def _matching(self, name: str) -> tuple[Suppression, ...]:
        """Return what counts for a canonical address, or for a whole domain."""
        ours = [] if names_domain(name) else list(self._matching_address(name))
        for domain in domains_over(name):
            for wide, _ in (key.pair(domain) for key in self._keys.keys):
                found = self._suppressions.get(wide, {}).values()
                ours += [msgspec.structs.replace(one, domain=domain) for one in found]
        return oldest_first([*ours, *self._told_by_partners(name)])

    def _matching_address(self, address: str) -> Iterator[Suppression]:
        for wide, exact in (key.pair(address) for key in self._keys.keys):
            for (key, _, origin), found in self._suppressions.get(wide, {}).items():
                if key == exact or origin in WIDENED_ORIGINS:
                    yield msgspec.structs.replace(found, widened=key != exact)

    async def add_suppressions(
        self, entries: Sequence[SuppressionEntry], batch: Batch | None = None
    ) -> BatchResult:
        self._check()
        tally = Tally()
        for entry in entries:
            self._keys.places(entry.address)  # all of them, or none
        for entry in entries:
            key, (wide, exact) = self._newest_place(entry.address)
            places = self._suppressions.setdefault(wide, {})
            place = (exact, entry.scope, entry.origin)
            old = places.get(place)
            told = Version(entry.since, entry.note, self._number(batch))
            self._remember_suppression((wide, *place), old, told)
            changed = old is None or entry.since > old.since
            if changed:
                note = entry.note if entry.note is not None or old is None else old.note
                places[place] = Suppression(entry.scope, entry.origin, entry.since, note=note)
                action: Action = "added" if old is None else "moved"
                self._changed(action, key.text((wide, exact)), places[place])
                self._lasts_from_now(place)
            tally.count(new=old is None, changed=changed)
        if self._partners:
            await self.cover([e.address for e in entries if not is_key_text(e.address)])
        return self._take_in(batch, tally.result())

    def _on_lift(self, pair: KeyPair, what: Suppression) -> None:
        self._changed("lifted", self._under[pair[1]].text(pair), what)

    async def remove_suppression(
        self,
        address: str,
        *,
        at: datetime,
        reason: str,
        scope: str | None = None,
        origin: Origin | None = None,
    ) -> Sequence[Suppression]:
        self._check()
        key, (wide, exact) = self._newest_place(address)
        places = self._suppressions.get(wide, {})
        lifted = [
            place
            for place in places
            if place[0] == exact and scope in (None, place[1]) and origin in (None, place[2])
        ]
        for one in [places[place] for place in lifted]:
            self._lifted.setdefault(exact, []).append(
                LiftedSuppression(one.scope, one.origin, one.since, one.note, at, reason)
            )
            self._changed("lifted", key.text((wide, exact)), one)
        return [places.pop(place) for place in lifted]

    async def suppressions(self, address: str) -> Sequence[Suppression]:
        name = suppressed_name(address)
        facts = await self.facts(Lookups((name,), contacts=False))
        return facts[name].suppressions if name in facts else ()

    async def lifted_suppressions(self, address: str) -> Sequence[LiftedSuppression]:
        self._check()
        return [
            one
            for _, (_, exact) in reversed(self._keys.places(address))
            for one in self._lifted.get(exact, ())
        ]

    async def standing(self, entries: Sequence[SuppressionEntry]) -> Sequence[datetime | None]:
        self._check()
        found = []
        for entry in entries:
            times = [
                there.since
                for _, (wide, exact) in self._keys.places(entry.address)
                if (
                    there := self._suppressions.get(wide, {}).get(
                        (exact, entry.scope, entry.origin)
                    )
                )
            ]
            found.append(max(times, default=None))
        return found

    async def export_suppressions(self) -> AsyncGenerator[tuple[str, Suppression], None]:
        self._check()
        for wide, places in sorted(self._suppressions.items()):
            for (exact, _, _), suppression in sorted(places.items(), key=lambda item: item[0]):
                yield self._under[exact].text((wide, exact)), suppression

    async def put_contacts(
        self, contacts: Sequence[Contact | ContactUpdate], batch: Batch | None = None
    ) -> BatchResult:
        self._check()
        tally = Tally()
        for update in map(as_update, contacts):
            old = self._contacts.get(update.contact.address)
            if batch is not None and self._is_erased(update.contact.address):
                refusing = refusals(update)
                if old is None or refusing is None:
                    tally.erased += 1
                    continue
                update = refusing
            merged = merge(old, update)
            self._remember_contact(old, update, self._number(batch), changed=merged.changed)
            self._contacts[update.contact.address] = merged.known
            tally.count(new=old is None, changed=merged.changed, older=merged.older)
        return self._take_in(batch, tally.result())

    async def contact(self, address: str) -> Contact | None:
        self._check()
        known = self._contacts.get(canonical(address))
        return known.contact if known else None

    async def profiles(
        self, addresses: Sequence[str]
    ) -> Mapping[str, tuple[Contact, datetime | None]]:
        self._check()
        found = {address: self._contacts.get(address) for address in addresses}
        return {name: (known.contact, known.as_of) for name, known in found.items() if known}

    async def export_contacts(self) -> AsyncGenerator[Contact, None]:
        self._check()
        for known in list(self._contacts.values()):
            yield known.contact

    def _is_erased(self, address: str) -> bool:
        return any(one.origin is Origin.ERASURE for one in self._matching_address(address))

    async def erase_contact(self, address: str, *, at: datetime, scope: str = "marketing") -> bool:
        name = canonical(address)
        await self.add_suppressions([SuppressionEntry(name, scope, Origin.ERASURE, at)])
        self._rectified.pop(name, None)
        for _, (wide, exact) in self._keys.places(name):
            self._forget_texts(wide, exact)
        return self._contacts.pop(name, None) is not None

    def _forget_texts(self, wide: bytes, exact: bytes) -> None:
        """Remove what people wrote to suppressions, where it may hold an address."""
        places = self._suppressions.get(wide, {})
        for place, one in places.items():
            if place[0] == exact and "@" in (one.note or ""):
                places[place] = msgspec.structs.replace(one, note=None)
        self._lifted[exact] = [
            dataclasses.replace(
                one,
                note=None if "@" in (one.note or "") else one.note,
                reason="erased" if "@" in one.reason else one.reason,
            )
            for one in self._lifted.get(exact, ())
        ]

    async def record_act(self, address: str, act: ConsentAct) -> bool:
        contact = Contact(canonical(address), acts=(act,))
        result = await self.put_contacts([ContactUpdate(contact, given=frozenset())])
        return result.unchanged == 0

    async def counts(self) -> tuple[int, Mapping[tuple[str, str], int]]:
        self._check()
        counts = {(kind, str(origin)): 0 for kind in SCOPE_KINDS for origin in Origin}
        for places in self._suppressions.values():
            for _, scope, origin in places:
                counts[scope.partition(":")[0], str(origin)] += 1
        return len(self._contacts), counts

    async def ping(self) -> None:
        self._check()

    async def close(self) -> None:
        self._closed = True

    def _check(self) -> None:
        if self._closed or self.fail_with:
            raise StoreUnavailable(self.fail_with or "the store is closed")
