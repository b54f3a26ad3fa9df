"""Removing what has outlived its period, in small batches, so that mail and imports can go on.

A separate session finds the rows and only reads; each batch is checked again in the transaction
that removes it.
"""

import asyncio
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from itertools import islice

from smtpproxy.policy.model import Contact
from smtpproxy.store.keys import KeyPair, KeyRing
from smtpproxy.store.merge import is_undated, orders, outlived, removed
from smtpproxy.store.operations import NOTHING, Limits, PurgedContacts, PurgedSuppressions, Removed
from smtpproxy.store.records import SuppressionEntry
from smtpproxy.store.sql import contacts as contact_table
from smtpproxy.store.sql.live_keys import ADDRESSES
from smtpproxy.store.sql.rows import WIDENED, Row, from_micros, optional_moment, to_micros
from smtpproxy.store.sql.session import (
    ASKED_EXACT,
    ASKED_SUPPRESSIONS,
    ASKED_WIDE,
    Connections,
    Session,
    asked,
)

_BATCH = 500
"""Rows of one transaction, which hold the write lock for some 20 ms."""
_PAUSE = 0.005
"""Seconds for others to get the write lock."""
_PAGE = 2_000

# Skips contacts whose columns show a sign of life; acts and purchases are checked later.
_SILENT = """
SELECT id, address, undated_since FROM contact
WHERE id > ?1 AND coalesce(coalesce(collected_at, informed_at) NOT BETWEEN ?2 AND ?3, TRUE)
AND coalesce(last_activity_at NOT BETWEEN ?2 AND ?3, TRUE)
ORDER BY id LIMIT ?4
"""
_CONTACTS = "SELECT id, address, undated_since FROM contact WHERE id > ?1 ORDER BY id LIMIT ?4"
_OBJECTION = "origin = 'objection' AND scope IN ('marketing', 'all') AND since < ?1"
_ANY_OBJECTION = f"SELECT EXISTS (SELECT 1 FROM suppression WHERE {_OBJECTION})"
# The number of each key, and the time of its objection.
_OBJECTED = f"""
SELECT asked.key, min(since) FROM {ASKED_SUPPRESSIONS}
WHERE {ASKED_WIDE} AND {ASKED_EXACT} AND {_OBJECTION.replace("?1", "?3")} GROUP BY asked.key
"""
_UNDATED = "UPDATE contact SET undated_since = ? WHERE id = ? AND undated_since IS NULL"
_COUNTS_FOR = f"wide_key = ?1 AND (exact_key = ?2 OR origin IN ({WIDENED}))"
_RENEW = f"""
UPDATE suppression SET renewed_at = ?3 WHERE {_COUNTS_FOR} AND coalesce(renewed_at, 0) < ?3
"""

_OLD = "since < ?1 AND renewed_at < ?1"
_ANY_OLD = f"SELECT EXISTS (SELECT 1 FROM suppression WHERE {_OLD})"
_KEPT = """
/*DROP TABLE IF EXISTS pg_temp.kept;*/
CREATE TEMP TABLE kept (
    wide_key /*bytea*/, exact_key /*bytea*/, scope /*text*/, origin /*text*/,
    PRIMARY KEY (wide_key, exact_key, scope, origin)
)
"""
_KEEP = f"""
INSERT INTO kept
SELECT wide_key, exact_key, scope, origin FROM {ASKED_SUPPRESSIONS}
WHERE {ASKED_WIDE} AND ({ASKED_EXACT} OR origin IN ({WIDENED})) AND {_OLD.replace("?1", "?3")}
ON CONFLICT DO NOTHING
"""
_GOING = f"""
SELECT wide_key, exact_key, scope, origin,
       CASE WHEN renewed_at > since THEN renewed_at ELSE since END FROM suppression
WHERE (wide_key, exact_key, scope, origin) > (?2, ?3, ?4, ?5) AND {_OLD}
AND NOT EXISTS (SELECT 1 FROM kept WHERE
    (kept.wide_key, kept.exact_key, kept.scope, kept.origin)
    = (suppression.wide_key, suppression.exact_key, suppression.scope, suppression.origin))
ORDER BY wide_key, exact_key, scope, origin LIMIT ?6
"""
_DELETE_SUPPRESSION = f"""
DELETE FROM suppression
WHERE wide_key = ?2 AND exact_key = ?3 AND scope = ?4 AND origin = ?5 AND {_OLD}
"""
# For each column that may hold free text: the statements that find the texts, count the rows with
# one, and replace it.
_FREE = [
    (
        f"SELECT DISTINCT {column} FROM {table} WHERE {column} IS NOT NULL AND {at} < ?1",
        f"SELECT count(*) FROM {table} WHERE {at} < ?1 AND {column} = ?2",
        f"UPDATE {table} SET {column} = {instead} WHERE {at} < ?1 AND {column} = ?2",
    )
    for table, column, at, instead in (
        ("suppression", "note", "since", "NULL"),
        ("lifted_suppression", "note", "since", "NULL"),
        ("lifted_suppression", "reason", "lifted_at", "'not kept'"),
    )
]
_DELETE_LIFTED = "DELETE FROM lifted_suppression WHERE id = ?"
_LIFTED = "SELECT id, lifted_at FROM lifted_suppression WHERE id > ? AND lifted_at < ? LIMIT ?"


class Retention(Connections):
    """The part of a store that removes what has outlived its period.

    It does so in small steps, so that others can write. `at` is now; anything dated later has not
    happened. With `dry_run` nothing is changed, and the results are what would be done.
    """

    @abstractmethod
    async def _keep_orders(self, entries: Sequence[SuppressionEntry]) -> None: ...

    # contacts

    async def purge_contacts(
        self, limits: Limits, *, at: datetime, dry_run: bool = False
    ) -> PurgedContacts:
        """Remove contacts, after turning their withdrawals and objections into suppressions.

        Of people who objected to all marketing only that suppression is kept.

        The period of the suppressions of a removed contact's address starts now.
        """
        total, became, last, objected = NOTHING, 0, 0, 0
        first, now = to_micros(limits.prospects), to_micros(at)
        async with self._reading() as session:
            anybody = await _any_objection(session, limits)
            pages = _CONTACTS if anybody else _SILENT
            while page := await session.fetch_all(pages, last, first, now, _BATCH):
                last = page[-1][0]
                no = await self._objections(session, page, limits) if anybody else {}
                going, undated = await _outlived(session, page, no, limits, at)
                entries = [entry for one in going for entry in orders(one, limits, at)]
                if not dry_run:
                    going = await self._remove_contacts(going, entries, at)
                    if undated:  # when they were first found to have no date
                        async with self._writing() as writing:
                            marks = [(now, number) for number in undated]
                            await writing.run_many(_UNDATED, marks)
                total += removed(list(going.values()))
                became += len(entries)
                objected += sum(contact.address in no for contact in going)
        await self._purged(total, dry_run=dry_run)
        return PurgedContacts(total, became, objected)

    async def _objections(
        self, session: Session, page: list[Row], limits: Limits
    ) -> dict[str, datetime]:
        """Return the contacts of a page with an early enough objection to all marketing, and its
        time."""
        if limits.objected is None:
            return {}
        keys = (await self._keys.current(session)).keys
        pairs = [(address, key.pair(address)) for _, address, _ in page for key in keys]
        values = asked(pair for _, pair in pairs)
        found = await session.fetch_all(_OBJECTED, *values, to_micros(limits.objected))
        return {pairs[index][0]: from_micros(since) for index, since in found}

    async def _remove_contacts(
        self, going: dict[Contact, datetime], entries: list[SuppressionEntry], at: datetime
    ) -> dict[Contact, datetime]:
        """Store the refusals of a batch of contacts, then remove it; return those removed."""
        if not going:
            return {}
        await self._keep_orders(entries)
        await self.renew_suppressions({contact.address: at for contact in going})
        async with self._writing() as session:
            known = await contact_table.stored(session, [one.address for one in going])
            # A contact may have changed since it was read.
            same = {
                contact: date
                for contact, date in going.items()
                if contact.address in known and known[contact.address].contact == contact
            }
            gone = [(contact.address,) for contact in same]
            await session.run_many("DELETE FROM contact WHERE address = ?", gone)
        await asyncio.sleep(_PAUSE)
        return same

    # suppressions

    async def trim_notes(
        self, before: datetime, is_motive: Callable[[str], bool], *, dry_run: bool = False
    ) -> int:
        """Delete older notes of suppressions, and reasons for lifting one, if they are free text.

        Return how many.
        """
        limit, count = to_micros(before), 0
        async with self._reading() as session:
            for select, count_of, update in (self._dialect.earlier_texts, *_FREE):
                found = [note for (note,) in await session.fetch_all(select, limit)]
                free = [(limit, note) for note in found if not is_motive(note)]
                for _, note in free:
                    ((rows,),) = await session.fetch_all(count_of, limit, note)
                    count += rows
                if free and not dry_run:
                    async with self._writing() as writing:
                        await writing.run_many(update, free)
        await self._purged(Removed(count), dry_run=dry_run)
        return count

    async def renew_suppressions(self, matched: Mapping[str, datetime]) -> int:
        """Restart the period of the suppressions that count for these canonical addresses.

        Returns how many were renewed.
        """
        count = 0
        remaining = iter(matched.items())
        while some := list(islice(remaining, _BATCH)):
            async with self._writing() as session:
                keys = await self._keys.current(session)
                seen = [(*pair, to_micros(at)) for name, at in some for pair in _pairs(keys, name)]
                count += await session.run_many(_RENEW, sorted(seen))
            await asyncio.sleep(_PAUSE)
        return count

    async def purge_suppressions(
        self,
        before: datetime,
        *,
        dry_run: bool = False,
        matched: Iterable[Mapping[str, datetime]] = (),
    ) -> PurgedSuppressions:
        """Remove those last given, added, matched and held before a time, and no longer held.

        A suppression is held while it counts for the address of a contact. `matched`, for a dry
        run, are matches that have not renewed anything.
        """
        limit, total = to_micros(before), NOTHING
        async with self._reading() as session:
            if not (await session.fetch_all(_ANY_OLD, limit))[0][0]:
                return PurgedSuppressions()
            await session.run(_KEPT)
            for batch in matched:
                seen = [address for address, at in batch.items() if at >= before]
                await self._keep(session, seen, limit)
            matches = await _count_kept(session)
            last = await self._keep_held(session, 0, limit)
            held = await _count_kept(session) - matches
            after: Row = (b"", b"", "", "")
            while going := await session.fetch_all(_GOING, limit, *after, _BATCH):
                after = going[-1][:4]
                total += removed([from_micros(row[4]) for row in going])
                if not dry_run:
                    async with self._writing() as writing:
                        gone = [(limit, *row[:4]) for row in going]
                        await writing.run_many(_DELETE_SUPPRESSION, gone)
                    await asyncio.sleep(_PAUSE)
                    last = await self._keep_held(session, last, limit)
        await self._purged(total, dry_run=dry_run)
        return PurgedSuppressions(total, held)

    async def _keep_held(self, session: Session, last: int, limit: int) -> int:
        """Keep the suppressions held by contacts after number `last`; return the newest number."""
        while page := await session.fetch_all(ADDRESSES, last, _PAGE):
            last = page[-1][0]
            await self._keep(session, [address for _, address in page], limit)
        return last

    async def _keep(self, session: Session, addresses: Sequence[str], limit: int) -> None:
        """Keep the old suppressions that count for these canonical addresses."""
        keys = await self._keys.current(session)
        pairs = [pair for address in addresses for pair in _pairs(keys, address)]
        await session.run(_KEEP, *asked(pairs), limit)

    async def purge_lifted(self, before: datetime, *, dry_run: bool = False) -> Removed:
        """Remove the record of suppressions that were lifted before a time."""
        total, last = NOTHING, 0
        async with self._reading() as reading:
            while page := await reading.fetch_all(_LIFTED, last, to_micros(before), _BATCH):
                last = page[-1][0]
                total += removed([from_micros(lifted_at) for _, lifted_at in page])
                if not dry_run:
                    async with self._writing() as session:
                        await session.run_many(_DELETE_LIFTED, [(row[0],) for row in page])
                    await asyncio.sleep(_PAUSE)
        await self._purged(total, dry_run=dry_run)
        return total

    async def _purged(self, total: Removed, *, dry_run: bool) -> None:
        """Remove the rows from the log as well, which still holds the old pages."""
        if total.rows and not dry_run:
            await self._purge_log()


async def _any_objection(session: Session, limits: Limits) -> bool:
    if limits.objected is None:
        return False
    ((found,),) = await session.fetch_all(_ANY_OBJECTION, to_micros(limits.objected))
    return bool(found)


async def _outlived(
    session: Session,
    page: list[Row],
    objected: Mapping[str, datetime],
    limits: Limits,
    at: datetime,
) -> tuple[dict[Contact, datetime], list[int]]:
    """Return the contacts that have outlived their period, with dates, and those without a date."""
    known = await contact_table.stored(session, [address for _, address, _ in page])
    going: dict[Contact, datetime] = {}
    undated: list[int] = []
    for number, address, since in page:
        if address in known:
            contact = known[address].contact
            date = objected.get(address) or outlived(contact, optional_moment(since), limits, at)
            if date is not None:
                going[contact] = date
            elif since is None and is_undated(contact, at):
                undated.append(number)
    return going, undated


async def _count_kept(session: Session) -> int:
    count: int = (await session.fetch_all("SELECT count(*) FROM kept"))[0][0]
    return count


def _pairs(keys: KeyRing, address: str) -> list[KeyPair]:
    return [pair for key in keys.keys for pair in key.counting(address)]
