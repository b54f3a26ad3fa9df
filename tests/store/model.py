"""The simplest model of a store, which backends are compared with."""

from collections.abc import AsyncGenerator, Iterator, Sequence
from datetime import datetime

from msgspec.structs import replace

from smtpproxy.mail.address import canonical, readings
from smtpproxy.policy.model import (
    ConsentAct,
    Contact,
    Facts,
    Lookups,
    Origin,
    RecipientFacts,
    Suppression,
)
from smtpproxy.policy.rulebook import WIDENED_ORIGINS
from smtpproxy.policy.scopes import SCOPE_KINDS
from smtpproxy.store.keys import SuppressionKey
from smtpproxy.store.merge import (
    Known,
    as_update,
    merge,
    oldest_first,
    with_readings,
)
from smtpproxy.store.records import BatchResult, ContactUpdate, SuppressionEntry

Place = tuple[bytes, bytes, str, Origin]  # wide key, exact key, scope, origin


class Model:
    """Suppressions and contacts of addresses, without imports, keys, partners and periods."""

    def __init__(self) -> None:
        self._key = SuppressionKey(b"")
        self._suppressions: dict[Place, Suppression] = {}
        self._contacts: dict[str, Known] = {}

    async def facts(self, lookups: Lookups) -> Facts:
        facts = {}
        for address in lookups.addresses:
            others = [(one, self._known(one)) for one in readings(address)]
            known = with_readings(self._known(address), others)
            if known is not None:
                facts[address] = known
        return facts

    def _known(self, address: str) -> RecipientFacts | None:
        known = self._contacts.get(address)
        found = oldest_first(self._matching(address))
        return RecipientFacts(found, known and known.contact) if found or known else None

    def _matching(self, address: str) -> Iterator[Suppression]:
        wide, exact = self._key.pair(address)
        for (its_wide, its_exact, _, origin), one in self._suppressions.items():
            if its_exact == exact or (its_wide == wide and origin in WIDENED_ORIGINS):
                yield replace(one, widened=its_exact != exact)

    async def add_suppressions(self, entries: Sequence[SuppressionEntry]) -> BatchResult:
        counts = [0, 0, 0]
        for entry in entries:
            place = (*self._key.pair(canonical(entry.address)), entry.scope, entry.origin)
            old = self._suppressions.get(place)
            counts[0 if old is None else 1 if entry.since > old.since else 2] += 1
            if old is None or entry.since > old.since:
                note = entry.note if entry.note is not None or old is None else old.note
                told = Suppression(entry.scope, entry.origin, entry.since, note=note)
                self._suppressions[place] = told
        return BatchResult(*counts)

    async def remove_suppression(
        self, address: str, *, at: datetime, reason: str, scope: str | None, origin: Origin | None
    ) -> list[Suppression]:
        pair = self._key.pair(canonical(address))
        lifted = [
            place
            for place in self._suppressions
            if place[:2] == pair and scope in (None, place[2]) and origin in (None, place[3])
        ]
        return [self._suppressions.pop(place) for place in lifted]

    async def export_suppressions(self) -> AsyncGenerator[tuple[str, Suppression], None]:
        for one in self._suppressions.values():
            yield "", one

    async def put_contacts(self, contacts: Sequence[Contact | ContactUpdate]) -> BatchResult:
        counts = [0, 0, 0, 0]
        for update in map(as_update, contacts):
            old = self._contacts.get(update.contact.address)
            merged = merge(old, update)
            self._contacts[update.contact.address] = merged.known
            counts[0 if old is None else 1 if merged.changed else 2] += 1
            counts[3] += merged.older
        return BatchResult(*counts[:3], older=counts[3])

    async def export_contacts(self) -> AsyncGenerator[Contact, None]:
        for known in self._contacts.values():
            yield known.contact

    async def erase_contact(self, address: str, *, at: datetime, scope: str = "marketing") -> bool:
        name = canonical(address)
        await self.add_suppressions([SuppressionEntry(name, scope, Origin.ERASURE, at)])
        pair = self._key.pair(name)
        for place, one in self._suppressions.items():
            if place[:2] == pair and "@" in (one.note or ""):
                self._suppressions[place] = replace(one, note=None)
        return self._contacts.pop(name, None) is not None

    async def record_act(self, address: str, act: ConsentAct) -> bool:
        contact = Contact(canonical(address), acts=(act,))
        result = await self.put_contacts([ContactUpdate(contact, given=frozenset())])
        return result.unchanged == 0

    async def counts(self) -> tuple[int, dict[tuple[str, str], int]]:
        counts = {(kind, str(origin)): 0 for kind in SCOPE_KINDS for origin in Origin}
        for _, _, scope, origin in self._suppressions:
            counts[scope.partition(":")[0], str(origin)] += 1
        return len(self._contacts), counts
