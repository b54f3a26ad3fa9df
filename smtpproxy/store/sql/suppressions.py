"""The table of suppressions: adding, lifting, exporting, and undoing an import of them."""

from collections import Counter
from collections.abc import AsyncGenerator, Collection, Container, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from operator import itemgetter

import msgspec

from smtpproxy.policy.model import Origin, Suppression
from smtpproxy.store.keys import (
    KeyPair,
    KeyRing,
    Partner,
    SuppressionKey,
    is_key_text,
    suppressed_name,
)
from smtpproxy.store.records import (
    BatchResult,
    LiftedSuppression,
    Place,
    SuppressionEntry,
    SuppressionPage,
)
from smtpproxy.store.sql import live_keys, rows
from smtpproxy.store.sql import partners as partner_table
from smtpproxy.store.sql.rows import Row, from_micros, record_of, to_micros
from smtpproxy.store.sql.said_last import agreed_ahead, dated
from smtpproxy.store.sql.session import (
    ASKED_EXACT,
    ASKED_SUPPRESSIONS,
    ASKED_WIDE,
    Connections,
    Session,
    asked,
    listed,
)
from smtpproxy.store.undo import Fate, Standing, Version, fate, updated, without

_ADD = """
INSERT INTO suppression (wide_key, exact_key, scope, origin, since, key_version, note, given_by,
                         import, renewed_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (wide_key, exact_key, scope, origin) DO UPDATE SET since = excluded.since,
    note = coalesce(excluded.note, suppression.note), import = excluded.import, also = NULL,
    given_by = excluded.given_by
WHERE excluded.since > suppression.since
"""
_LIFTED = """
SELECT scope, origin, since, note, lifted_at, reason, given_by, lifted_by, id
FROM lifted_suppression
WHERE exact_key = ?
"""
_FORGET_NOTE = """
UPDATE suppression SET note = NULL WHERE wide_key = ? AND exact_key = ? AND note LIKE '%@%'
"""
_FORGET_REASON = """
UPDATE lifted_suppression SET note = CASE WHEN note LIKE '%@%' THEN NULL ELSE note END,
    reason = CASE WHEN reason LIKE '%@%' THEN 'erased' ELSE reason END
WHERE exact_key = ?
"""
_LIFTABLE = "wide_key, exact_key, scope, origin, since, key_version, note, given_by"
_LIFT = f"INSERT INTO lifted_suppression ({_LIFTABLE}, lifted_at, reason, lifted_by)"
_AUTHORS = """
SELECT scope, origin, given_by FROM suppression
WHERE wide_key = ? AND exact_key = ? AND given_by IS NOT NULL
"""
_COUNT = "SELECT CAST(sum(n) AS BIGINT) FROM tally WHERE kind <> 'contact'"
_WHICH = (
    "wide_key = ?1 AND exact_key = ?2 AND ?3 IN (scope, '') AND ?4 IN (origin, '')"
    " AND coalesce(?5, since) = since AND coalesce(?6, since) >= since"
)
_FOUND = f"SELECT scope, origin, since, note FROM suppression WHERE {_WHICH}"
_LIFT_FOUND = f"{_LIFT} SELECT {_LIFTABLE}, ?7, ?8, ?9 FROM suppression WHERE {_WHICH}"
_PAGE = """
SELECT wide_key, exact_key, scope, origin, since, note, key_version FROM suppression
WHERE (wide_key, exact_key, scope, origin) > (?, ?, ?, ?)
ORDER BY wide_key, exact_key, scope, origin LIMIT ?
"""
_PAGE_OF_SCOPES = _PAGE.replace("\nORDER", " AND scope IN (SELECT value FROM json_each(?))\nORDER")
_PAGE_SIZE = 2_000
# With the scope and origin of each.
_ENTRIES = f"""
SELECT asked.key AS place, suppression.* FROM {ASKED_SUPPRESSIONS}
WHERE {ASKED_WIDE} AND {ASKED_EXACT}
AND scope = json_extract(asked.value, '$[0]') AND origin = json_extract(asked.value, '$[1]')
"""
_STANDING = f"SELECT place, since FROM ({_ENTRIES}) AS found"
_ERASURES = "SELECT CAST(sum(n) AS BIGINT) FROM tally WHERE origin = 'erasure'"
_ERASED = f"""
SELECT DISTINCT asked.key FROM {ASKED_SUPPRESSIONS}
WHERE {ASKED_WIDE} AND origin = 'erasure'
"""
KEY = "wide_key = ? AND exact_key = ? AND scope = ? AND origin = ?"
_COLUMNS = "since, note, import, also, earlier"
_KNOWN = f"""
SELECT place, {_COLUMNS} FROM ({_ENTRIES}) AS found
WHERE import IS NOT NULL OR CAST(?3 AS BIGINT) IS NOT NULL
"""
_PUT = f"UPDATE suppression SET also = ?, earlier = ? WHERE {KEY}"
_OF_IMPORT = """
SELECT wide_key, exact_key, scope, origin FROM suppression
WHERE (wide_key, exact_key, scope, origin) > (?, ?, ?, ?)
AND (import = ?5 OR also = ?5 OR earlier LIKE ?6)
ORDER BY wide_key, exact_key, scope, origin LIMIT ?7
"""
_STANDING_ONE = f"SELECT {_COLUMNS} FROM suppression WHERE {KEY}"
_BACK = f"UPDATE suppression SET since = ?, note = ?, import = ?, also = ?, earlier = ? WHERE {KEY}"
_LIFT_ONE = f"{_LIFT} SELECT {_LIFTABLE}, ?, ?, NULL FROM suppression WHERE {KEY}"
FIRST: Place = (b"", b"", "", "")

# The number of an import is in quotes, so that it can be searched for.
_Earlier = list[tuple[int, str | None, str | None, int | None]]
_read = msgspec.json.Decoder(_Earlier).decode
_write = msgspec.json.Encoder().encode


async def erased(session: Session, keys: KeyRing, addresses: Sequence[str]) -> set[str]:
    """Return the canonical addresses whose people were erased."""
    if not (await session.fetch_all(_ERASURES))[0][0]:
        return set()
    places = [(address, key.pair(address)) for address in addresses for key in keys.keys]
    found = await session.fetch_all(_ERASED, *asked(pair for _, pair in places))
    return {places[place][0] for (place,) in found}


async def add(
    session: Session,
    keys: KeyRing,
    entries: Sequence[SuppressionEntry],
    partners: Sequence[Partner] = (),
    importer: int | None = None,
    *,
    as_dated: bool = False,
) -> BatchResult:
    """Add under the newest key; raises what `KeyRing.places` raises.

    `importer` is the number of the import that the entries belong to. `as_dated`: they are not new,
    and keep their dates.
    """
    if not as_dated and (ahead := await agreed_ahead(session, entries, datetime.now(UTC))):
        entries = dated(entries, ahead, await standing(session, keys, entries))
    new, moves = [], []
    for entry in entries:
        (key, pair), *older = keys.places(entry.address)
        since = to_micros(entry.since)
        new.append((*pair, entry.scope, entry.origin, since, key.version, entry.note, entry.by))
        moves += [(*old, *pair, key.version) for _, old in older]
    if moves:
        await live_keys.move(session, moves)
    await _remember(session, new, importer)
    before = (await session.fetch_all(_COUNT))[0][0]
    now = to_micros(datetime.now(UTC).replace(microsecond=0))
    # In the order of the primary key, neighbouring rows share a page and its copy in the log.
    ordered = sorted(new, key=itemgetter(0, 1))
    written = await session.run_many(_ADD, [(*row, importer, now) for row in ordered])
    added = (await session.fetch_all(_COUNT))[0][0] - before
    if partners:
        names = [suppressed_name(e.address) for e in entries if not is_key_text(e.address)]
        await partner_table.cover(session, keys, partners, names)
    return BatchResult(added, written - added, len(entries) - written)


async def standing(
    session: Session, keys: KeyRing, entries: Sequence[SuppressionEntry]
) -> list[datetime | None]:
    """Return since when the same suppression exists, for each entry; raises as `add` does."""
    found: list[datetime | None] = [None] * len(entries)
    places = [(n, pair) for n, e in enumerate(entries) for _, pair in keys.places(e.address)]
    kinds = [(entries[n].scope, entries[n].origin) for n, _ in places]
    values = asked((pair for _, pair in places), kinds)
    for place, since in await session.fetch_all(_STANDING, *values):
        number, at = places[place][0], from_micros(since)
        found[number] = max(at, found[number] or at)
    return found


async def forget_texts(session: Session, places: Sequence[tuple[SuppressionKey, KeyPair]]) -> None:
    """Remove the notes and reasons of the exact address that may hold an address."""
    pairs = [pair for _, pair in places]
    await session.run_many(_FORGET_NOTE, pairs)
    await session.run_many(_FORGET_REASON, [(exact,) for _, exact in pairs])


class Suppressions(Connections):
    """The part of a store about suppressions, except adding them."""

    async def remove_suppression(
        self,
        address: str,
        *,
        at: datetime,
        reason: str,
        scope: str | None = None,
        origin: Origin | None = None,
        since: datetime | None = None,
        up_to: datetime | None = None,
        by: str | None = None,
    ) -> Sequence[Suppression]:
        """Lift suppressions of the exact address; return those that were lifted.

        One whose time is no longer `since`, or is later than `up_to`, stays. The reason and `by`,
        the program over the API, stay on record.
        """
        async with self._writing() as session:
            (key, pair), *older = (await self._keys.current(session)).places(address)
            await live_keys.move(session, [(*old, *pair, key.version) for _, old in older])
            moments = rows.optional_micros(since), rows.optional_micros(up_to)
            which = (*pair, scope or "", origin or "", *moments)
            found = await session.fetch_all(_FOUND, *which)
            await session.run(_LIFT_FOUND, *which, to_micros(at), reason, by)
            await session.run(f"DELETE FROM suppression WHERE {_WHICH}", *which)
        return [rows.suppression(*row, widened=False) for row in found]

    async def authors(self, address: str) -> Mapping[tuple[str, str], str]:
        """Return the programs that suppressed exactly this address, by scope and origin."""
        async with self._reading() as session:
            places = (await self._keys.current(session)).places(address)
            found = [row for _, pair in places for row in await session.fetch_all(_AUTHORS, *pair)]
        return {(scope, origin): by for scope, origin, by in found}

    async def lifted_suppressions(self, address: str) -> Sequence[LiftedSuppression]:
        """Return the lifted suppressions of exactly this address, in the order of lifting."""
        async with self._reading() as session:
            places = (await self._keys.current(session)).places(address)
            found = [row for _, (_, exact) in places
                     for row in await session.fetch_all(_LIFTED, exact)]  # fmt: skip
        found.sort(key=lambda row: (row[4], row[-1]))
        return [record_of(LiftedSuppression, row[:-1]) for row in found]

    async def standing(self, entries: Sequence[SuppressionEntry]) -> Sequence[datetime | None]:
        """Return since when the same suppression exists, for each entry; None if it does not."""
        async with self._reading() as session:
            return await standing(session, await self._keys.current(session), entries)

    async def suppression_page(
        self, after: Place | None, limit: int, scopes: Collection[str] | None = None
    ) -> SuppressionPage:
        """Return up to `limit` suppressions, of all or some scopes, in the order of their keys.

        `after` is the `next` of the previous page.
        """
        start = after or FIRST
        async with self._reading() as session:
            if scopes is None:
                page = await session.fetch_all(_PAGE, *start, limit + 1)
            else:
                values = (*start, listed(sorted(scopes)), limit + 1)
                page = await session.fetch_all(_PAGE_OF_SCOPES, *values)
            keys = await self._keys.current(session)
        found = [
            (keys.of_version(version).text((wide, exact)), rows.suppression(*one, widened=False))
            for wide, exact, *one, version in page[:limit]
        ]
        return SuppressionPage(found, page[limit - 1][:4] if len(page) > limit else None)

    async def export_suppressions(self) -> AsyncGenerator[tuple[str, Suppression], None]:
        """Yield (key text, suppression), as the address itself is not stored.

        Under the same key, a `SuppressionEntry` may have the key text instead of the address.
        """
        # Page by page: during one long read the log could not be emptied. A suppression that is
        # moved to another key meanwhile may come twice; adding it twice changes nothing.
        last = FIRST
        async with self._reading() as session:
            while page := await session.fetch_all(_PAGE, *last, _PAGE_SIZE):
                keys = await self._keys.current(session)
                for wide, exact, *suppression, version in page:
                    text = keys.of_version(version).text((wide, exact))
                    yield text, rows.suppression(*suppression, widened=False)
                last = page[-1][:4]


async def _remember(session: Session, entries: Sequence[Row], importer: int | None) -> None:
    """Record the versions of suppressions that are about to be moved forward or confirmed."""
    values = asked(
        ((wide, exact) for wide, exact, *_ in entries), [(row[2], row[3]) for row in entries]
    )
    changed: dict[Row, Row] = {}
    standing: dict[Row, Standing] = {}
    for place, *known in await session.fetch_all(_KNOWN, *values, importer):
        row = entries[place]
        key = row[:4]
        before = standing.get(key) or _standing(tuple(known))
        after = updated(before, Version(from_micros(row[4]), row[6], importer))
        standing[key] = after
        if after is not before:
            # A later time is written by the insertion, which clears `also`.
            also = after.now.also if after.now.since == before.now.since else None
            changed[key] = (also, _written(after.earlier), *key)
    await session.run_many(_PUT, changed.values())


async def page(session: Session, number: int, after: Row, limit: int) -> list[Row]:
    """Return the next keys of suppressions that the import has touched."""
    return await session.fetch_all(_OF_IMPORT, *after, number, f'%"{number}"%', limit)


async def undo(
    session: Session,
    number: int,
    undone: Container[int],
    keys: Iterable[Row],
    lift: tuple[int, str] | None,
) -> tuple[int, int, int]:
    """Undo the import for these; return how many were lifted, put back and kept.

    `lift` is the time in microseconds and the reason; with None this only counts.
    """
    lifted: list[Row] = []
    put: list[Row] = []
    fates: Counter[Fate] = Counter()
    for key in keys:
        for row in await session.fetch_all(_STANDING_ONE, *key):
            before = _standing(row)
            after = without(before, number, undone)
            fates[fate(before, after, number)] += 1
            if after is None:
                lifted.append(key)
            elif after is not before:
                now = after.now
                version = (to_micros(now.since), now.note, now.owner, now.also)
                put.append((*version, _written(after.earlier), *key))
    if lift is not None:
        await session.run_many(_BACK, put)
        await session.run_many(_LIFT_ONE, [(*lift, *key) for key in lifted])
        await session.run_many(f"DELETE FROM suppression WHERE {KEY}", lifted)
    return fates["removed"], fates["put back"], fates["kept"]


def _standing(row: Row) -> Standing:
    since, note, owner, also, earlier = row
    versions = _read(earlier) if earlier else []
    return Standing(
        Version(from_micros(since), note, owner, also),
        tuple(
            Version(from_micros(at), text, None if by is None else int(by), more)
            for at, text, by, more in versions
        ),
    )


def _written(earlier: Sequence[Version]) -> str | None:
    if not earlier:
        return None
    versions: _Earlier = [
        (to_micros(one.since), one.note, None if one.owner is None else str(one.owner), one.also)
        for one in earlier
    ]
    return _write(versions).decode()
