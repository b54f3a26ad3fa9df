"""The hashes of suppressions for partners, and the snapshots from them."""

import secrets
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from msgspec.structs import astuple

from smtpproxy.disk import locked
from smtpproxy.policy.model import Suppression
from smtpproxy.store.keys import Coverage, KeyPair, KeyRing, Partner, PartnerSnapshot, SnapshotRow
from smtpproxy.store.records import StoreUnavailable
from smtpproxy.store.sql import rows
from smtpproxy.store.sql.rows import record_of, row_of, to_micros
from smtpproxy.store.sql.session import Connections, Session, listed, put_row

# Only for suppressed addresses: those of other contacts do not concern partners.
_COVER = """
INSERT INTO partner_hash (exact_key, key, partner_wide, partner_exact) SELECT ?2, ?3, ?4, ?5
WHERE EXISTS (SELECT 1 FROM suppression WHERE wide_key = ?1 AND exact_key = ?2)
ON CONFLICT DO NOTHING
"""
_FORGET = "DELETE FROM partner_hash WHERE key NOT IN (SELECT value FROM json_each(?))"
_COVERAGE = """
SELECT count(key), count(*) FROM suppression
LEFT JOIN partner_hash ON partner_hash.exact_key = suppression.exact_key AND key = ?
"""
_PAGE = """
SELECT wide_key, suppression.exact_key, scope, origin, since, partner_wide, partner_exact
FROM suppression
LEFT JOIN partner_hash ON partner_hash.exact_key = suppression.exact_key AND key = ?5
WHERE (wide_key, suppression.exact_key, scope, origin) > (?1, ?2, ?3, ?4)
ORDER BY wide_key, suppression.exact_key, scope, origin LIMIT ?6
"""
_PAGE_SIZE = 2_000

_TAKE_ROW = """
INSERT INTO partner_entry (snapshot, wide_key, exact_key, scope, origin, since)
VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (snapshot, wide_key, exact_key, scope, origin)
DO UPDATE SET since = excluded.since WHERE excluded.since > partner_entry.since
"""
_SNAPSHOT = "key, sender, taken_at, imported_at, count, digest"
_PUT = put_row("partner_snapshot", f"partner, snapshot, {_SNAPSHOT}")
_SWEEP = """
DELETE FROM partner_entry WHERE (snapshot, wide_key, exact_key, scope, origin) IN (
    SELECT snapshot, wide_key, exact_key, scope, origin FROM partner_entry
    WHERE snapshot = ? LIMIT 5000)
"""
_LEFT = """
WITH RECURSIVE number (n) AS (
    SELECT min(snapshot) FROM partner_entry
    UNION SELECT (SELECT min(snapshot) FROM partner_entry WHERE snapshot > n) FROM number
    WHERE n IS NOT NULL)
SELECT n FROM number
WHERE n IS NOT NULL AND n NOT IN (SELECT snapshot FROM partner_snapshot)
"""


async def cover(
    session: Session,
    keys: KeyRing,
    partners: Sequence[Partner],
    addresses: Sequence[str],
) -> int:
    """Store the partners' hashes of those addresses that are suppressed; return how many."""
    values = [
        (*own, key.fingerprint, *key.pair(address))
        for address in addresses
        for _, own in keys.places(address)
        for _, key in partners
    ]
    return await session.run_many(_COVER, sorted(values))


class PartnerExchange(Connections):
    """The part of a store about the partners that it was opened with.

    Methods raise `KeyError` for the name of any other partner.
    """

    def _partner(self, name: str) -> Partner:
        for partner in self._partners:
            if partner.name == name:
                return partner
        raise KeyError(name)

    async def cover(self, addresses: Sequence[str]) -> int:
        """Store every partner's hash of those canonical addresses that are suppressed.

        Returns how many are new. Suppressions added with their address are covered at once; this is
        for older ones, and for those added as key texts.
        """
        async with self._writing() as session:
            keys = await self._keys.current(session)
            return await cover(session, keys, self._partners, addresses)

    async def forget_partners(self) -> int:
        """Delete the hashes under keys that are no longer a partner's."""
        known = listed(key.fingerprint for _, key in self._partners)
        async with self._writing() as session:
            return await session.run_many(_FORGET, [(known,)])

    async def coverage(self, partner: str) -> Coverage:
        key = self._partner(partner).key.fingerprint
        async with self._reading() as session:
            covered, total = (await session.fetch_all(_COVERAGE, key))[0]
        return Coverage(covered, total)

    async def export_to_partner(
        self, partner: str
    ) -> AsyncGenerator[tuple[KeyPair | None, Suppression], None]:
        """Yield every suppression with its keys for the partner, or None if not covered."""
        key, last = self._partner(partner).key.fingerprint, (b"", b"", "", "")
        async with self._reading() as session:
            while page := await session.fetch_all(_PAGE, *last, key, _PAGE_SIZE):
                for *_, scope, origin, since, wide, exact in page:
                    pair = None if wide is None else (wide, exact)
                    yield pair, rows.suppression(scope, origin, since, None, widened=False)
                last = page[-1][:4]

    async def snapshots(self) -> Mapping[str, PartnerSnapshot]:
        """Return the snapshots of known partners that were made with their current key."""
        async with self._reading() as session:
            found = await session.fetch_all(f"SELECT partner, {_SNAPSHOT} FROM partner_snapshot")
        return {
            name: record_of(PartnerSnapshot, snapshot)
            for name, *snapshot in found
            if any((name, snapshot[0]) == (p.name, p.key.fingerprint) for p in self._partners)
        }

    async def take_snapshot(
        self, partner: str, snapshot: PartnerSnapshot, batches: AsyncIterable[Sequence[SnapshotRow]]
    ) -> None:
        """Write the rows in batches beside those that count, then switch to them."""
        self._partner(partner)
        async with self._importing():
            await self._sweep()
            number = secrets.randbits(62)
            async for batch in batches:
                values = sorted(
                    (number, *row.keys, row.scope, row.origin, to_micros(row.since))
                    for row in batch
                )
                async with self._writing() as session:
                    await session.run_many(_TAKE_ROW, values)
            async with self._writing() as session:
                await session.run(_PUT, partner, number, *row_of(astuple(snapshot)))
            await self._sweep()

    @asynccontextmanager
    async def _importing(self) -> AsyncIterator[None]:
        """Lock out a second import, which would remove the rows written so far."""
        busy = StoreUnavailable("another snapshot is being imported; try again later")
        with locked(self._state_dir / "partner.lock", busy, makes=True):
            yield

    async def _sweep(self) -> None:
        """Remove the rows of snapshots that were replaced or not completed."""
        async with self._reading() as session:
            left = await session.fetch_all(_LEFT)
        for number in left:
            swept = 1
            while swept:
                async with self._writing() as session:
                    swept = await session.run_many(_SWEEP, [number])
