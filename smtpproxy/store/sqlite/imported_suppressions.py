"""Which import a suppression is from, what it was before, and how an import is taken back."""

from collections import Counter
from collections.abc import Container, Iterable, Sequence

import aiosqlite
import msgspec

from smtpproxy.store.sqlite.connection import fetch_all, run_many
from smtpproxy.store.sqlite.rows import Row, from_micros, to_micros
from smtpproxy.store.undo import Fate, Standing, Version, fate, said, without

_KEY = "wide_key = ? AND exact_key = ? AND scope = ? AND origin = ?"
_COLUMNS = "since, note, import, also, earlier"
# As in suppressions: ?1 holds the keys, ?2 the scope and origin of each.
_KNOWN = f"""
WITH entry AS (
    SELECT key AS place,
           substr(?1, key * 48 + 1, 16) AS wide, substr(?1, key * 48 + 17, 32) AS exact,
           json_extract(value, '$[0]') AS scope, json_extract(value, '$[1]') AS origin
    FROM json_each(?2)
)
SELECT place, {_COLUMNS} FROM entry CROSS JOIN suppression
ON wide_key = wide AND exact_key = exact
AND suppression.scope = entry.scope AND suppression.origin = entry.origin
WHERE import IS NOT NULL OR ?3 IS NOT NULL
"""
_PUT = f"UPDATE suppression SET also = ?, earlier = ? WHERE {_KEY}"
_OF_IMPORT = """
SELECT wide_key, exact_key, scope, origin FROM suppression
WHERE (wide_key, exact_key, scope, origin) > (?, ?, ?, ?)
AND (import = ?5 OR also = ?5 OR instr(earlier, ?6))
ORDER BY wide_key, exact_key, scope, origin LIMIT ?7
"""
_ONE = f"SELECT {_COLUMNS} FROM suppression WHERE {_KEY}"
_BACK = (
    f"UPDATE suppression SET since = ?, note = ?, import = ?, also = ?, earlier = ? WHERE {_KEY}"
)
_LIFT = f"""
INSERT INTO lifted_suppression (wide_key, exact_key, scope, origin, since, key_version, note,
                                lifted_at, reason)
SELECT wide_key, exact_key, scope, origin, since, key_version, note, ?, ?
FROM suppression WHERE {_KEY}
"""
FIRST: Row = (b"", b"", "", "")

# Of an import, the number stands in quotes, so that it can be searched for.
_Earlier = list[tuple[int, str | None, str | None, int | None]]
_read = msgspec.json.Decoder(_Earlier).decode
_write = msgspec.json.Encoder().encode


async def remember(
    connection: aiosqlite.Connection, entries: Sequence[Row], importer: int | None
) -> None:
    """Note what is about to be moved forward, and what is said again."""
    keys = b"".join([wide + exact for wide, exact, *_ in entries])
    kinds = msgspec.json.encode([(row[2], row[3]) for row in entries]).decode()
    changed: dict[Row, Row] = {}
    standing: dict[Row, Standing] = {}
    for place, *known in await fetch_all(connection, _KNOWN, keys, kinds, importer):
        row = entries[place]
        key = row[:4]
        before = standing.get(key) or _standing(known)
        after = said(before, Version(from_micros(row[4]), row[6], importer))
        standing[key] = after
        if after is not before:
            # A later moment is put by the insertion, which starts without `also`.
            also = after.now.also if after.now.since == before.now.since else None
            changed[key] = (also, _written(after.earlier), *key)
    await run_many(connection, _PUT, changed.values())


async def page(connection: aiosqlite.Connection, number: int, after: Row, limit: int) -> list[Row]:
    """Return the next keys of suppressions that the import had to do with."""
    return await fetch_all(connection, _OF_IMPORT, *after, number, f'"{number}"', limit)


async def take_back(
    connection: aiosqlite.Connection,
    number: int,
    undone: Container[int],
    keys: Iterable[Row],
    lift: tuple[int, str] | None,
) -> tuple[int, int, int]:
    """Take the import back from these; return how many were lifted, put back and kept.

    `lift` is the moment in microseconds and the reason; None only counts.
    """
    lifted: list[Row] = []
    put: list[Row] = []
    fates: Counter[Fate] = Counter()
    for key in keys:
        for row in await fetch_all(connection, _ONE, *key):
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
        await run_many(connection, _BACK, put)
        await run_many(connection, _LIFT, [(*lift, *key) for key in lifted])
        await run_many(connection, f"DELETE FROM suppression WHERE {_KEY}", lifted)
    return fates["removed"], fates["put back"], fates["kept"]


def _standing(row: Sequence[object]) -> Standing:
    since, note, owner, also, earlier = row
    versions = _read(earlier) if isinstance(earlier, str) else []
    assert isinstance(since, int)
    assert note is None or isinstance(note, str)
    assert owner is None or isinstance(owner, int)
    assert also is None or isinstance(also, int)
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
