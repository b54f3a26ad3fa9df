"""Writing and exporting suppressions."""

from collections.abc import AsyncGenerator, Sequence
from datetime import datetime

import aiosqlite
import msgspec

from smtpproxy.policy.model import Origin, Suppression
from smtpproxy.store.keys import KeyPair, KeyRing, SuppressionKey, is_key_text, suppressed_name
from smtpproxy.store.protocols import BatchResult, LiftedSuppression, SuppressionEntry
from smtpproxy.store.sqlite import imported_suppressions, live_keys, rows
from smtpproxy.store.sqlite import partners as partner_table
from smtpproxy.store.sqlite.connection import fetch_all, run_many
from smtpproxy.store.sqlite.live_keys import LiveKeys
from smtpproxy.store.sqlite.reader import Partner
from smtpproxy.store.sqlite.rows import Row, from_micros, to_micros

_ADD = """
INSERT INTO suppression (wide_key, exact_key, scope, origin, since, key_version, note, import,
                         renewed_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, CAST(strftime('%s', 'now') AS INTEGER) * 1000000)
ON CONFLICT DO UPDATE SET since = excluded.since, note = coalesce(excluded.note, note),
    import = excluded.import, also = NULL
WHERE excluded.since > since
"""
_LIFTED = """
SELECT scope, origin, since, note, lifted_at, reason, id FROM lifted_suppression
WHERE exact_key = ?
"""
_FORGET_NOTE = """
UPDATE suppression SET note = NULL WHERE wide_key = ? AND exact_key = ? AND instr(note, '@')
"""
_FORGET_REASON = """
UPDATE lifted_suppression SET note = iif(instr(note, '@'), NULL, note),
    reason = iif(instr(reason, '@'), 'erased', reason)
WHERE exact_key = ?
"""
_COUNT = "SELECT sum(n) FROM tally WHERE kind <> 'contact'"
_WHICH = "wide_key = ?1 AND exact_key = ?2 AND ?3 IN (scope, '') AND ?4 IN (origin, '')"
_PAGE = """
SELECT wide_key, exact_key, scope, origin, since, note, key_version FROM suppression
WHERE (wide_key, exact_key, scope, origin) > (?, ?, ?, ?)
ORDER BY wide_key, exact_key, scope, origin LIMIT ?
"""
_PAGE_SIZE = 2_000
# ?1 holds the keys, 16 and 32 octets each; ?2 the scope and origin of each, as JSON.
_STANDING = """
WITH entry AS (
    SELECT key AS place,
           substr(?1, key * 48 + 1, 16) AS wide, substr(?1, key * 48 + 17, 32) AS exact,
           json_extract(value, '$[0]') AS scope, json_extract(value, '$[1]') AS origin
    FROM json_each(?2)
)
SELECT place, since FROM entry CROSS JOIN suppression
ON wide_key = wide AND exact_key = exact
AND suppression.scope = entry.scope AND suppression.origin = entry.origin
"""

_ERASURES = "SELECT sum(n) FROM tally WHERE origin = 'erasure'"
# ?1 holds the wide keys, 16 octets each; ?2 is a list as long.
_ERASED = """
WITH asked AS (SELECT key AS place, substr(?1, key * 16 + 1, 16) AS wide FROM json_each(?2))
SELECT DISTINCT place FROM asked CROSS JOIN suppression ON wide_key = wide
WHERE origin = 'erasure'
"""


async def erased(
    connection: aiosqlite.Connection, keys: KeyRing, addresses: Sequence[str]
) -> set[str]:
    """Return which of the canonical addresses are of people who were erased."""
    if not (await fetch_all(connection, _ERASURES))[0][0]:
        return set()
    places = [(address, key.pair(address)[0]) for address in addresses for key in keys.keys]
    octets = b"".join([wide for _, wide in places])
    asked = msgspec.json.encode([0] * len(places)).decode()
    return {places[row[0]][0] for row in await fetch_all(connection, _ERASED, octets, asked)}


async def add(
    connection: aiosqlite.Connection,
    keys: KeyRing,
    entries: Sequence[SuppressionEntry],
    partners: Sequence[Partner] = (),
    importer: int | None = None,
) -> BatchResult:
    """Add under the newest key; raises what `KeyRing.places` raises.

    `importer` is the number of the import whose entries these are.
    """
    new, moves = [], []
    for entry in entries:
        (key, pair), *older = keys.places(entry.address)
        since = to_micros(entry.since)
        new.append((*pair, entry.scope, entry.origin, since, key.version, entry.note))
        moves += [(*old, *pair, key.version) for _, old in older]
    if moves:
        await live_keys.move(connection, moves)
    await imported_suppressions.remember(connection, new, importer)
    before = (await fetch_all(connection, _COUNT))[0][0]
    # In the order of the primary key, neighbours share a page and its copy in the log.
    ordered = sorted(new, key=lambda row: row[:2])
    written = await run_many(connection, _ADD, [(*row, importer) for row in ordered])
    added = (await fetch_all(connection, _COUNT))[0][0] - before
    if partners:
        told = [suppressed_name(e.address) for e in entries if not is_key_text(e.address)]
        await partner_table.cover(connection, keys, partners, told)
    return BatchResult(added, written - added, len(entries) - written)


async def standing(
    connection: aiosqlite.Connection, keys: KeyRing, entries: Sequence[SuppressionEntry]
) -> list[datetime | None]:
    """Return since when each entry stands already; None where it does not."""
    places = [(n, pair) for n, e in enumerate(entries) for _, pair in keys.places(e.address)]
    octets = b"".join([wide + exact for _, (wide, exact) in places])
    kinds = [(entries[n].scope, entries[n].origin) for n, _ in places]
    found: list[datetime | None] = [None] * len(entries)
    asked = msgspec.json.encode(kinds).decode()
    for place, since in await fetch_all(connection, _STANDING, octets, asked):
        number, at = places[place][0], from_micros(since)
        found[number] = max(at, found[number] or at)
    return found


async def lift(
    connection: aiosqlite.Connection,
    places: Sequence[tuple[SuppressionKey, KeyPair]],
    scope: str | None,
    origin: Origin | None,
    at: datetime,
    reason: str,
) -> list[Suppression]:
    """Remove suppressions of the exact address; what was lifted, when and why stays."""
    (key, pair), *older = places
    await live_keys.move(connection, [(*old, *pair, key.version) for _, old in older])
    which = (*pair, scope or "", origin or "")
    found = await fetch_all(
        connection, f"SELECT scope, origin, since, note FROM suppression WHERE {_WHICH}", *which
    )
    await connection.execute(
        "INSERT INTO lifted_suppression (wide_key, exact_key, scope, origin, since,"
        " key_version, note, lifted_at, reason)"
        " SELECT wide_key, exact_key, scope, origin, since, key_version, note, ?5, ?6"
        f" FROM suppression WHERE {_WHICH}",
        (*which, to_micros(at), reason),
    )
    await connection.execute(f"DELETE FROM suppression WHERE {_WHICH}", which)
    return [rows.suppression(*row, widened=False) for row in found]


async def lifted(
    connection: aiosqlite.Connection, places: Sequence[tuple[SuppressionKey, KeyPair]]
) -> list[LiftedSuppression]:
    found = [row for _, pair in places for row in await fetch_all(connection, _LIFTED, pair[1])]
    return [
        LiftedSuppression(
            scope, Origin(origin), from_micros(since), note, from_micros(lifted_at), reason
        )
        for scope, origin, since, note, lifted_at, reason, _ in sorted(
            found, key=lambda row: (row[4], row[-1])
        )
    ]


async def forget_texts(
    connection: aiosqlite.Connection, places: Sequence[tuple[SuppressionKey, KeyPair]]
) -> None:
    """Remove what people wrote to suppressions of the exact address, where it may hold one."""
    pairs = [pair for _, pair in places]
    await run_many(connection, _FORGET_NOTE, pairs)
    await run_many(connection, _FORGET_REASON, [(exact,) for _, exact in pairs])


async def export(
    connection: aiosqlite.Connection, live: LiveKeys
) -> AsyncGenerator[tuple[str, Suppression], None]:
    """Read page by page: one long read would keep the log from being emptied.

    What is moved to another key meanwhile may come twice; adding it twice changes nothing.
    """
    last: Row = (b"", b"", "", "")
    while page := await fetch_all(connection, _PAGE, *last, _PAGE_SIZE):
        keys = await live.current(connection)
        for wide, exact, *suppression, version in page:
            text = keys.of_version(version).text((wide, exact))
            yield text, rows.suppression(*suppression, widened=False)
        last = page[-1][:4]
