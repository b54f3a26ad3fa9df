"""A store in memory, for tests and trials: the same answers as a database, nothing kept."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import datetime

from smtpproxy.mail.address import canonical
from smtpproxy.policy.model import (
    ConsentAct,
    Contact,
    Facts,
    Lookups,
    Origin,
    RecipientFacts,
    Suppression,
)
from smtpproxy.store.keys import SuppressionKey
from smtpproxy.store.memory_propagation import MemoryPropagation
from smtpproxy.store.memory_rights import MemoryRights
from smtpproxy.store.merge import (
    SCOPE_KINDS,
    WIDENED_ORIGINS,
    Known,
    Tally,
    as_update,
    merge,
    oldest_first,
)
from smtpproxy.store.propagation import Action
from smtpproxy.store.protocols import (
    BatchResult,
    ContactUpdate,
    LiftedSuppression,
    StoreUnavailable,
    SuppressionEntry,
)

_Place = tuple[bytes, str, Origin]  # exact key, scope, origin


class MemoryStore(MemoryPropagation, MemoryRights):
    """A `Store` for one process. `fail_with` makes every call fail as a database would."""

    def __init__(self, secret: bytes = b"") -> None:
        MemoryPropagation.__init__(self)
        MemoryRights.__init__(self)
        self._key = SuppressionKey(secret)
        self._suppressions: dict[bytes, dict[_Place, Suppression]] = {}  # by wide key
        self._lifted: dict[bytes, list[LiftedSuppression]] = {}  # by exact key
        self._contacts: dict[str, Known] = {}
        self._closed = False
        self.fail_with: str | None = None

    async def facts(self, lookups: Lookups) -> Facts:
        self._check()
        facts = {}
        for address in lookups.addresses:
            known = self._contacts.get(address) if lookups.contacts else None
            found = RecipientFacts(self._matching(address), known.contact if known else None)
            if found.suppressions or found.contact:
                facts[address] = found
        return facts

    def _matching(self, address: str) -> tuple[Suppression, ...]:
        wide, exact = self._key.pair(address)
        return oldest_first(
            Suppression(
                found.scope, found.origin, found.since, widened=key != exact, note=found.note
            )
            for (key, _, origin), found in self._suppressions.get(wide, {}).items()
            if key == exact or origin in WIDENED_ORIGINS
        )

    async def add_suppressions(self, entries: Sequence[SuppressionEntry]) -> BatchResult:
        self._check()
        tally = Tally()
        for (wide, exact), entry in [(self._key.read(entry.address), entry) for entry in entries]:
            places = self._suppressions.setdefault(wide, {})
            place = (exact, entry.scope, entry.origin)
            old = places.get(place)
            changed = old is None or entry.since > old.since
            if changed:
                note = entry.note if entry.note is not None or old is None else old.note
                places[place] = Suppression(entry.scope, entry.origin, entry.since, note=note)
                action: Action = "added" if old is None else "moved"
                self._changed(action, self._key.text((wide, exact)), places[place])
            tally.count(new=old is None, changed=changed)
        return tally.result()

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
        wide, exact = self._key.read(address)
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
            self._changed("lifted", self._key.text((wide, exact)), one)
        return [places.pop(place) for place in lifted]

    async def suppressions(self, address: str) -> Sequence[Suppression]:
        self._check()
        return self._matching(canonical(address))

    async def lifted_suppressions(self, address: str) -> Sequence[LiftedSuppression]:
        self._check()
        return tuple(self._lifted.get(self._key.read(address)[1], ()))

    async def standing(self, entries: Sequence[SuppressionEntry]) -> Sequence[datetime | None]:
        self._check()
        found = []
        for entry in entries:
            wide, exact = self._key.read(entry.address)
            place = (exact, entry.scope, entry.origin)
            suppression = self._suppressions.get(wide, {}).get(place)
            found.append(suppression.since if suppression else None)
        return found

    async def export_suppressions(self) -> AsyncGenerator[tuple[str, Suppression], None]:
        self._check()
        for wide, places in sorted(self._suppressions.items()):
            for (exact, _, _), suppression in sorted(places.items(), key=lambda item: item[0]):
                yield self._key.text((wide, exact)), suppression

    async def put_contacts(self, contacts: Sequence[Contact | ContactUpdate]) -> BatchResult:
        self._check()
        tally = Tally()
        for update in map(as_update, contacts):
            old = self._contacts.get(update.contact.address)
            merged = merge(old, update)
            self._contacts[update.contact.address] = merged.known
            tally.count(new=old is None, changed=merged.changed, older=merged.older)
        return tally.result()

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

    async def erase_contact(self, address: str, *, at: datetime) -> bool:
        name = canonical(address)
        await self.add_suppressions([SuppressionEntry(name, "all", Origin.ERASURE, at)])
        self._rectified.pop(name, None)
        return self._contacts.pop(name, None) is not None

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
