"""Writing and exporting suppressions."""

from collections.abc import AsyncGenerator, Sequence
from datetime import datetime

import aiosqlite

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
