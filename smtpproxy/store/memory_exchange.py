"""The part of the store in memory that replaces keys, and exchanges hashes with partners."""

import secrets
from collections.abc import AsyncGenerator, AsyncIterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from smtpproxy.mail.address import domains_over, names_domain
from smtpproxy.policy.model import Origin, Suppression
from smtpproxy.store.keys import KeyPair, KeyRing, SuppressionKey, suppressed_name
from smtpproxy.store.merge import WIDENED_ORIGINS, Known
from smtpproxy.store.partners import Coverage, PartnerSnapshot, SnapshotRow
from smtpproxy.store.protocols import KeyStatus, LiftedSuppression

Place = tuple[bytes, str, Origin]  # exact key, scope, origin


@dataclass(frozen=True, slots=True)
class _Taken:
    """A partner's snapshot with its rows by wide key."""

    snapshot: PartnerSnapshot
    rows: Mapping[bytes, Sequence[SnapshotRow]]


class MemoryExchange:
    """Keeps `KeyRotation` and `PartnerStore` for the store that it is mixed into."""

    _contacts: dict[str, Known]

    def __init__(self, secret: bytes, partners: Mapping[str, bytes]) -> None:
        self._keys = KeyRing([SuppressionKey(secret)])
        self._since: dict[int, datetime] = {}
        self._suppressions: dict[bytes, dict[Place, Suppression]] = {}  # by wide key
        self._lifted: dict[bytes, list[LiftedSuppression]] = {}  # by exact key
        self._under: dict[bytes, SuppressionKey] = {}  # which key an exact key is under
        self._partners = {name: SuppressionKey(key) for name, key in partners.items()}
        self._told: dict[tuple[str, bytes], KeyPair] = {}  # by partner and our exact key
        self._taken: dict[str, _Taken] = {}

    def _check(self) -> None:
        raise NotImplementedError

    def _newest_place(self, text: str) -> tuple[SuppressionKey, KeyPair]:
        """Return the newest place of an address as given, and move what it has there."""
        (key, pair), *older = self._keys.places(text)
        for _, old in older:
            self._move(old, pair)
        self._under[pair[1]] = key
        return key, pair

    def _move(self, old: KeyPair, new: KeyPair) -> int:
        gone = self._suppressions.get(old[0], {})
        kept = self._suppressions.setdefault(new[0], {})
        places = [place for place in gone if place[0] == old[1]]
        for place in places:
            moved = gone.pop(place)
            there = kept.get((new[1], *place[1:]), moved)
            later, earlier = (moved, there) if moved.since > there.since else (there, moved)
            note = earlier.note if later.note is None else later.note
            kept[new[1], place[1], place[2]] = Suppression(
                moved.scope, moved.origin, later.since, note=note
            )
        lifted = self._lifted.pop(old[1], [])
        if lifted:
            both = self._lifted.get(new[1], []) + lifted
            self._lifted[new[1]] = sorted(both, key=lambda one: one.lifted_at)
        for partner in self._partners:
            if told := self._told.pop((partner, old[1]), None):
                self._told.setdefault((partner, new[1]), told)
        return len(places) + len(lifted)

    # KeyRotation

    async def keys(self) -> Sequence[KeyStatus]:
        self._check()
        rows = [exact for places in self._suppressions.values() for exact, _, _ in places]
        lifted = [exact for exact, found in self._lifted.items() for _ in found]
        return [
            KeyStatus(
                key.version,
                key.fingerprint,
                self._since.get(key.version),
                sum(self._under[exact] is key for exact in rows),
                sum(self._under[exact] is key for exact in lifted),
            )
            for key in self._keys.keys
        ]

    async def start_rekey(self, *, at: datetime) -> int:
        self._check()
        if len(self._keys.keys) == 1:
            version = self._keys.newest.version + 1
            new = SuppressionKey(secrets.token_bytes(32), version)
            self._keys = KeyRing([*self._keys.keys, new])
            self._since[version] = at
        return self._keys.newest.version

    async def rekey(self, addresses: Sequence[str]) -> int:
        self._check()
        count = 0
        for (key, pair), *older in [self._keys.places(address) for address in addresses]:
            self._under[pair[1]] = key
            count += sum(self._move(old, pair) for _, old in older)
        return count

    async def contact_addresses(self) -> AsyncGenerator[Sequence[str], None]:
        self._check()
        yield list(self._contacts)

    async def finish_rekey(self, *, at: datetime) -> bool:
        *older, _ = await self.keys()
        if any(key.suppressions or key.lifted for key in older):
            return False
        self._keys = KeyRing([self._keys.newest])
        return True

    # PartnerStore

    async def cover(self, addresses: Sequence[str]) -> int:
        self._check()
        count = 0
        for address in addresses:
            for _, (wide, exact) in self._keys.places(address):
                if any(place[0] == exact for place in self._suppressions.get(wide, {})):
                    for name, key in self._partners.items():
                        count += (name, exact) not in self._told
                        self._told[name, exact] = key.pair(suppressed_name(address))
        return count

    async def forget_partners(self) -> int:
        self._check()
        return 0  # those of now are all there ever were

    async def coverage(self, partner: str) -> Coverage:
        found = [pair async for pair, _ in self.export_to_partner(partner)]
        return Coverage(sum(pair is not None for pair in found), len(found))

    async def export_to_partner(
        self, partner: str
    ) -> AsyncGenerator[tuple[KeyPair | None, Suppression], None]:
        self._check()
        _ = self._partners[partner]
        for places in self._suppressions.values():
            for (exact, _, _), found in places.items():
                bare = Suppression(found.scope, found.origin, found.since)
                yield self._told.get((partner, exact)), bare

    async def snapshots(self) -> Mapping[str, PartnerSnapshot]:
        self._check()
        return {name: taken.snapshot for name, taken in self._taken.items()}

    async def take_snapshot(
        self, partner: str, snapshot: PartnerSnapshot, batches: AsyncIterable[Sequence[SnapshotRow]]
    ) -> None:
        self._check()
        _ = self._partners[partner]
        rows: dict[bytes, list[SnapshotRow]] = {}
        async for batch in batches:
            for row in batch:
                rows.setdefault(row.keys[0], []).append(row)
        self._taken[partner] = _Taken(snapshot, rows)

    def _told_by_partners(self, name: str) -> Iterator[Suppression]:
        for partner, taken in self._taken.items():
            key = self._partners[partner]
            for domain in domains_over(name):
                for row in taken.rows.get(key.pair(domain)[0], ()):
                    yield _told(partner, row, domain=domain)
            if not names_domain(name):
                wide, exact = key.pair(name)
                for row in taken.rows.get(wide, ()):
                    if row.keys[1] == exact or row.origin in WIDENED_ORIGINS:
                        yield _told(partner, row, widened=row.keys[1] != exact)

    def _snapshot_at(self) -> datetime | None:
        """When the oldest of the partners' snapshots was taken; None when one is missing."""
        if not self._partners or len(self._taken) < len(self._partners):
            return None
        return min(taken.snapshot.taken_at for taken in self._taken.values())


def _told(
    partner: str, row: SnapshotRow, *, widened: bool = False, domain: str | None = None
) -> Suppression:
    note = f"partner {partner}: {row.origin}"
    return Suppression(row.scope, Origin.EXTERNAL, row.since, widened, note, domain)
