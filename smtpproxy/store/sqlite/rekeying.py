"""Moving what is stored from an older key to the newest, and adding and retiring keys."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from pathlib import Path

import aiosqlite
import msgspec

from smtpproxy.store import key_file
from smtpproxy.store.keys import KeyRing
from smtpproxy.store.protocols import KeyStatus
from smtpproxy.store.sqlite import live_keys
from smtpproxy.store.sqlite.live_keys import LiveKeys
from smtpproxy.store.sqlite.rows import Row, optional_moment, to_micros
from smtpproxy.store.sqlite.writer import SqliteWriter, fetch_all, run_many

# ?1 holds the old keys, 16 and 32 octets each; ?2 their places. Most have nothing to move.
_STORED = """
WITH entry AS (
    SELECT value AS place,
           substr(?1, value * 48 + 1, 16) AS wide, substr(?1, value * 48 + 17, 32) AS exact
    FROM json_each(?2)
)
SELECT place FROM entry
WHERE EXISTS (SELECT 1 FROM suppression WHERE wide_key = wide AND exact_key = exact)
   OR EXISTS (SELECT 1 FROM lifted_suppression WHERE exact_key = exact)
"""
# ?1 and ?2 are the old keys of an address, ?3 and ?4 those under the key of version ?5.
_NEW_KEYS = "wide_key = ?3, exact_key = ?4, key_version = ?5"
_MOVE = f"""
UPDATE OR IGNORE suppression SET {_NEW_KEYS} WHERE wide_key = ?1 AND exact_key = ?2
"""
# Where the newest key has the very same suppression already, the later word stands, and no
# import alone stands for it any more.
_MERGE = """
UPDATE suppression AS kept SET
    since = max(kept.since, gone.since),
    also = CASE WHEN kept.import IS NULL THEN NULL ELSE 0 END,  -- no import's alone
    note = CASE WHEN gone.since > kept.since THEN coalesce(gone.note, kept.note)
           ELSE coalesce(kept.note, gone.note) END,
    renewed_at = nullif(max(coalesce(kept.renewed_at, 0), coalesce(gone.renewed_at, 0)), 0),
    import = NULL, also = NULL, earlier = NULL
FROM suppression AS gone
WHERE gone.wide_key = ?1 AND gone.exact_key = ?2 AND kept.wide_key = ?3 AND kept.exact_key = ?4
  AND kept.scope = gone.scope AND kept.origin = gone.origin
"""
_MOVE_HASHES = "UPDATE OR IGNORE partner_hash SET exact_key = ?2 WHERE exact_key = ?1"
_CLEAR = "DELETE FROM suppression WHERE wide_key = ? AND exact_key = ?"
_MOVE_LIFTED = f"UPDATE lifted_suppression SET {_NEW_KEYS} WHERE wide_key = ?1 AND exact_key = ?2"

_STATUS = """
SELECT version, fingerprint, made_at,
       (SELECT count(*) FROM suppression WHERE key_version = version),
       (SELECT count(*) FROM lifted_suppression WHERE key_version = version)
FROM suppression_key WHERE retired_at IS NULL ORDER BY version
"""
_REMAINS = """
SELECT EXISTS (SELECT 1 FROM suppression WHERE key_version <> ?1)
    OR EXISTS (SELECT 1 FROM lifted_suppression WHERE key_version <> ?1)
"""
_ADDRESSES = "SELECT id, address FROM contact WHERE id > ? ORDER BY id LIMIT ?"
_PAGE_SIZE = 2_000


async def move(connection: aiosqlite.Connection, moves: Sequence[Row]) -> int:
    """Move rows to the newest key; return how many.

    Each move is (old wide, old exact, new wide, new exact, version). What stood under both
    keys becomes one, as if it had been added again: nothing is forgotten, nothing lifted.
    """
    old = b"".join([wide + exact for wide, exact, *_ in moves])
    places = msgspec.json.encode(list(range(len(moves)))).decode()
    moves = [moves[place] for (place,) in await fetch_all(connection, _STORED, old, places)]
    moved = await run_many(connection, _MOVE, moves)
    await run_many(connection, _MERGE, [row[:4] for row in moves])
    await run_many(connection, _MOVE_HASHES, [(row[1], row[3]) for row in moves])
    moved += await run_many(connection, _CLEAR, [row[:2] for row in moves])
    return moved + await run_many(connection, _MOVE_LIFTED, moves)


def moves_of(keys: KeyRing, addresses: Sequence[str]) -> list[Row]:
    """Return the moves for addresses as given. Raises AddressError."""
    moves: list[Row] = []
    for address in addresses:
        (key, pair), *older = keys.places(address)
        moves += [(*old, *pair, key.version) for _, old in older]
    return sorted(moves)


async def start(
    connection: aiosqlite.Connection, state_dir: Path, keys: KeyRing, at: datetime
) -> int:
    """Let a new key be the newest, unless there are two already; return its version.

    The file has it before the database names it: who reads finds it there in time.
    """
    if len(keys.versions) > 1:
        return keys.newest.version
    newest = key_file.add_key(state_dir, {key.version: key.fingerprint for key in keys.keys}).newest
    await connection.execute(
        "INSERT INTO suppression_key (version, fingerprint, made_at) VALUES (?, ?, ?)",
        (newest.version, newest.fingerprint, to_micros(at)),
    )
    await _name(connection)
    return newest.version


async def retire(connection: aiosqlite.Connection, newest: int, at: datetime) -> bool:
    """Retire all keys but the newest; False when something is still stored under one."""
    if (await fetch_all(connection, _REMAINS, newest))[0][0]:
        return False
    await connection.execute(
        "UPDATE suppression_key SET retired_at = ? WHERE version <> ? AND retired_at IS NULL",
        (to_micros(at), newest),
    )
    await _name(connection)
    return True


async def _name(connection: aiosqlite.Connection) -> None:
    for statement in live_keys.naming(
        [row[0] for row in await fetch_all(connection, live_keys.VIEWS)],
        [row[0] for row in await fetch_all(connection, live_keys.LIVE)],
    ):
        await connection.execute(statement)


class Rekeying:
    """Keeps `KeyRotation` for the store that it is mixed into."""

    _state_dir: Path
    _keys: LiveKeys

    def _to_write(self) -> SqliteWriter:
        raise NotImplementedError

    def _reading(self) -> AbstractAsyncContextManager[aiosqlite.Connection]:
        raise NotImplementedError

    async def keys(self) -> Sequence[KeyStatus]:
        async with self._reading() as connection:
            return [
                KeyStatus(version, fingerprint, optional_moment(made_at), suppressions, lifted)
                for version, fingerprint, made_at, suppressions, lifted in await fetch_all(
                    connection, _STATUS
                )
            ]

    async def start_rekey(self, *, at: datetime) -> int:
        async with self._to_write().transaction() as connection:
            keys = await self._keys.current(connection)
            return await start(connection, self._state_dir, keys, at)

    async def rekey(self, addresses: Sequence[str]) -> int:
        async with self._to_write().transaction() as connection:
            keys = await self._keys.current(connection)
            return await move(connection, moves_of(keys, addresses))

    async def contact_addresses(self) -> AsyncGenerator[Sequence[str], None]:
        last = 0
        async with self._reading() as connection:
            while page := await fetch_all(connection, _ADDRESSES, last, _PAGE_SIZE):
                yield [address for _, address in page]
                last = page[-1][0]

    async def finish_rekey(self, *, at: datetime) -> bool:
        async with self._to_write().transaction() as connection:
            newest = (await self._keys.current(connection)).newest.version
            done = await retire(connection, newest, at)
        if done:
            key_file.drop_keys(self._state_dir, [newest])
        return done
