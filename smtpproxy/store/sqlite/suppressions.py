"""Writing and exporting suppressions."""

from collections.abc import AsyncGenerator, Sequence
from datetime import datetime

import aiosqlite
import msgspec

from smtpproxy.policy.model import Origin, Suppression
from smtpproxy.store.keys import KeyPair, SuppressionKey
from smtpproxy.store.protocols import BatchResult, LiftedSuppression, SuppressionEntry
from smtpproxy.store.sqlite import rows
from smtpproxy.store.sqlite.rows import Row, from_micros, to_micros
from smtpproxy.store.sqlite.writer import fetch_all, run_many

_ADD = """
INSERT INTO suppression (wide_key, exact_key, scope, origin, since, key_version, note)
VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET since = excluded.since, note = coalesce(excluded.note, note)
WHERE excluded.since > since
"""
_LIFTED = """
SELECT scope, origin, since, note, lifted_at, reason FROM lifted_suppression
WHERE exact_key = ? ORDER BY lifted_at, id
"""
_COUNT = "SELECT sum(n) FROM tally WHERE kind <> 'contact'"
_WHICH = "wide_key = ?1 AND exact_key = ?2 AND ?3 IN (scope, '') AND ?4 IN (origin, '')"
_PAGE = """
SELECT wide_key, exact_key, scope, origin, since, note FROM suppression
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


def entry_row(key: SuppressionKey, entry: SuppressionEntry) -> Row:
    """Return the row of an entry; raises what `SuppressionKey.read` raises."""
    wide, exact = key.read(entry.address)
    since = to_micros(entry.since)
    return (wide, exact, entry.scope, entry.origin, since, key.version, entry.note)


async def add(connection: aiosqlite.Connection, entries: Sequence[Row]) -> BatchResult:
    before = (await fetch_all(connection, _COUNT))[0][0]
    # In the order of the primary key, neighbours share a page and its copy in the log.
    written = await run_many(connection, _ADD, sorted(entries, key=lambda row: row[:2]))
    added = (await fetch_all(connection, _COUNT))[0][0] - before
    return BatchResult(added, written - added, len(entries) - written)


async def standing(
    connection: aiosqlite.Connection, entries: Sequence[Row]
) -> list[datetime | None]:
    """Return since when each entry stands already; None where it does not."""
    keys = b"".join([wide + exact for wide, exact, *_ in entries])
    kinds = msgspec.json.encode([(row[2], row[3]) for row in entries]).decode()
    found: list[datetime | None] = [None] * len(entries)
    for place, since in await fetch_all(connection, _STANDING, keys, kinds):
        found[place] = from_micros(since)
    return found


async def lift(
    connection: aiosqlite.Connection,
    pair: KeyPair,
    scope: str | None,
    origin: Origin | None,
    at: datetime,
    reason: str,
) -> list[Suppression]:
    """Remove suppressions of the exact address; what was lifted, when and why stays."""
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


async def lifted(connection: aiosqlite.Connection, pair: KeyPair) -> list[LiftedSuppression]:
    """Look through all that was ever lifted: it is little, and seldom asked for."""
    return [
        LiftedSuppression(
            scope, Origin(origin), from_micros(since), note, from_micros(lifted_at), reason
        )
        for scope, origin, since, note, lifted_at, reason in await fetch_all(
            connection, _LIFTED, pair[1]
        )
    ]


async def export(
    connection: aiosqlite.Connection, key: SuppressionKey
) -> AsyncGenerator[tuple[str, Suppression], None]:
    """Read page by page: one long read would keep the log from being emptied."""
    last: Row = (b"", b"", "", "")
    while page := await fetch_all(connection, _PAGE, *last, _PAGE_SIZE):
        for wide, exact, *suppression in page:
            yield key.text((wide, exact)), rows.suppression(*suppression, widened=False)
        last = page[-1][:4]
