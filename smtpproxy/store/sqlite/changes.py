"""The log of changes of suppressions; triggers write it (0005_exchange.sql)."""

from collections.abc import Collection
from datetime import datetime

import aiosqlite
import msgspec

from smtpproxy.policy.model import Origin
from smtpproxy.store.keys import key_text
from smtpproxy.store.operations import ChangesGone, SuppressionChange
from smtpproxy.store.sqlite.connection import fetch_all
from smtpproxy.store.sqlite.rows import from_micros, to_micros

# The fingerprint of a key that is not known any more is of no use to anybody.
_AFTER = """
SELECT seq, at, action, coalesce(fingerprint, '00000000'), wide_key, exact_key, scope, origin, since
FROM suppression_change LEFT JOIN suppression_key ON version = key_version
WHERE seq > ? ORDER BY seq LIMIT ?
"""
_NEWEST = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'suppression_change'"
_OLDEST = "SELECT min(seq) FROM suppression_change"
# In the order of the numbers, which a clock that was set back does not disturb.
_FIRST_TO_KEEP = "SELECT seq FROM suppression_change WHERE at >= ? ORDER BY seq LIMIT 1"
_TRIM = """
DELETE FROM suppression_change WHERE seq <= ?1 AND seq IN
    (SELECT seq FROM suppression_change ORDER BY seq LIMIT ?2)
"""
AT_ONCE = 5_000
"""Rows in one transaction: other writers wait no longer than for these."""
_POSITIONS = """
SELECT min(position) FROM webhook_state
WHERE disabled_at IS NULL AND name IN (SELECT value FROM json_each(?))
"""


async def after(
    connection: aiosqlite.Connection, since: int, limit: int
) -> list[SuppressionChange]:
    """Read as one snapshot: what is trimmed meanwhile must not be missing in silence."""
    await connection.execute("BEGIN")
    try:
        newest = await newest_number(connection)
        oldest = (await fetch_all(connection, _OLDEST))[0][0]
        if since > newest or since < (newest if oldest is None else oldest - 1):
            raise ChangesGone(since, newest)
        found = await fetch_all(connection, _AFTER, since, limit)
    finally:
        await connection.execute("COMMIT")
    return [
        SuppressionChange(
            seq,
            from_micros(at),
            action,
            key_text(fingerprint, (wide, exact)),
            scope,
            Origin(origin),
            from_micros(moment),
        )
        for seq, at, action, fingerprint, wide, exact, scope, origin, moment in found
    ]


async def newest_number(connection: aiosqlite.Connection) -> int:
    number: int = (await fetch_all(connection, _NEWEST))[0][0]
    return number


async def trimmable(
    connection: aiosqlite.Connection, before: datetime, webhooks: Collection[str]
) -> int:
    """Return up to which number changes may go: none that one of `webhooks` waits for."""
    kept = await fetch_all(connection, _FIRST_TO_KEEP, to_micros(before))
    upto = kept[0][0] - 1 if kept else await newest_number(connection)
    names = msgspec.json.encode(list(webhooks)).decode()
    slowest = (await fetch_all(connection, _POSITIONS, names))[0][0]
    return upto if slowest is None else min(upto, slowest)


async def trim(connection: aiosqlite.Connection, upto: int) -> int:
    """Delete the oldest, up to that number; return how many, `AT_ONCE` at most."""
    async with await connection.execute(_TRIM, (upto, AT_ONCE)) as cursor:
        trimmed: int = cursor.rowcount
        return trimmed
