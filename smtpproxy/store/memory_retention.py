"""What has outlived its period, in memory: the same answers as a database."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from smtpproxy.policy.model import Origin, Suppression
from smtpproxy.store.keys import KeyRing
from smtpproxy.store.merge import WIDENED_ORIGINS, Known
from smtpproxy.store.outlived import is_undated, orders, outlived, removed
from smtpproxy.store.protocols import BatchResult, LiftedSuppression, SuppressionEntry
from smtpproxy.store.retention import Limits, PurgedContacts, PurgedSuppressions, Removed

Place = tuple[bytes, str, Origin]
"""Exact key, scope, origin."""


class MemoryRetention:
    """Keeps `RetentionStore` for the store that it is mixed into."""

    _keys: KeyRing
    _suppressions: dict[bytes, dict[Place, Suppression]]
    _lifted: dict[bytes, list[LiftedSuppression]]
    _contacts: dict[str, Known]

    def __init__(self) -> None:
        self._renewed: dict[Place, datetime] = {}
        self._undated: dict[str, datetime] = {}
        self._journal_read: dict[int, int] = {}

    async def add_suppressions(self, entries: Sequence[SuppressionEntry]) -> BatchResult:
        raise NotImplementedError

    def _check(self) -> None:
        raise NotImplementedError

    def _lasts_since(self, place: Place) -> datetime:
        return self._renewed.get(place, datetime.max.replace(tzinfo=UTC))  # it is not known

    def _lasts_from_now(self, place: Place) -> None:
        """Call it when a suppression is added or moved forward."""
        self._renewed[place] = datetime.now(UTC)

    async def purge_contacts(
        self, limits: Limits, *, at: datetime, dry_run: bool = False
    ) -> PurgedContacts:
        self._check()
        going = {}
        for address, known in self._contacts.items():
            date = outlived(known.contact, self._undated.get(address), limits, at)
            if date is not None:
                going[address] = date
            elif not dry_run and is_undated(known.contact, at):
                self._undated.setdefault(address, at)
        entries = [
            entry for name in going for entry in orders(self._contacts[name].contact, limits, at)
        ]
        if not dry_run:
            await self.add_suppressions(entries)
            await self.renew_suppressions(dict.fromkeys(going, at))
            for address in going:
                del self._contacts[address]
                self._undated.pop(address, None)
        return PurgedContacts(removed(list(going.values())), len(entries))

    async def journal_read(self) -> Mapping[int, int]:
        self._check()
        return dict(self._journal_read)

    async def renew_suppressions(
        self, matched: Mapping[str, datetime], read: Mapping[int, int] | None = None
    ) -> int:
        self._check()
        count = 0
        for address, at in matched.items():
            for _, place in self._counting_for(address):
                if self._lasts_since(place) < at:
                    self._renewed[place] = at
                    count += 1
        self._journal_read.update(read or {})
        return count

    def _counting_for(self, address: str) -> list[tuple[bytes, Place]]:
        return [
            (wide, place)
            for wide, exact in (pair for key in self._keys.keys for pair in key.counting(address))
            for place in self._suppressions.get(wide, {})
            if place[0] == exact or place[2] in WIDENED_ORIGINS
        ]

    async def purge_suppressions(
        self,
        before: datetime,
        *,
        dry_run: bool = False,
        matched: Iterable[Mapping[str, datetime]] = (),
    ) -> PurgedSuppressions:
        self._check()
        last = {
            (wide, place): max(found.since, self._lasts_since(place))
            for wide, places in self._suppressions.items()
            for place, found in places.items()
        }
        old = {at for at, moment in last.items() if moment < before}
        seen = [address for batch in matched for address, at in batch.items() if at >= before]
        old -= {at for address in seen for at in self._counting_for(address)}
        held = old & {at for address in self._contacts for at in self._counting_for(address)}
        for wide, place in () if dry_run else old - held:
            del self._suppressions[wide][place]
        return PurgedSuppressions(removed([last[at] for at in old - held]), len(held))

    async def purge_lifted(self, before: datetime, *, dry_run: bool = False) -> Removed:
        self._check()
        going = [
            one.lifted_at
            for lifted in self._lifted.values()
            for one in lifted
            if one.lifted_at < before
        ]
        if not dry_run:
            for exact, lifted in self._lifted.items():
                self._lifted[exact] = [one for one in lifted if one.lifted_at >= before]
        return removed(going)
