"""Which keys the rows of this database are stored under, and how nobody reads with fewer.

The view that lookups read suppressions through is named after the live keys. Whoever adds
or retires a key renames it in the same transaction, so a lookup that was prepared for other
keys fails on the very next read, and is prepared again with those of the file: there is no
moment when a row can be missed, and while nothing changes it costs nothing.
"""

import sqlite3
from collections.abc import AsyncGenerator, Sequence
from datetime import datetime
from pathlib import Path

import aiosqlite
import msgspec

from smtpproxy.store.key_files import FILE_NAME, add_key, drop_keys, load_keys
from smtpproxy.store.keys import KeyRing, SuppressionKey
from smtpproxy.store.protocols import KeyStatus, StoreMisconfigured
from smtpproxy.store.sqlite.connection import Connections, fetch_all, run_many
from smtpproxy.store.sqlite.rows import Row, optional_moment, to_micros

LIVE = "SELECT version, fingerprint FROM suppression_key WHERE retired_at IS NULL ORDER BY version"
_VIEW = "suppression_under_"
VIEWS = f"SELECT name FROM sqlite_master WHERE type = 'view' AND name GLOB '{_VIEW}*'"

Live = list[tuple[int, str]]
"""(version, fingerprint) of each live key, the oldest first."""


def view(versions: Sequence[int]) -> str:
    """Return the name of the view while these keys are live."""
    return _VIEW + "_".join(map(str, sorted(versions)))


def is_gone(error: BaseException) -> bool:
    """Tell whether a lookup failed because other keys are live than it was prepared for."""
    return isinstance(error, sqlite3.OperationalError) and f"no such table: {_VIEW}" in str(error)


def live(connection: sqlite3.Connection) -> Live:
    return connection.execute(LIVE).fetchall()


def knows_a_key(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM suppression_key").fetchone() is not None


def name(connection: sqlite3.Connection) -> None:
    """Name the view after the live keys, in the caller's transaction."""
    views = [old for (old,) in connection.execute(VIEWS).fetchall()]
    for statement in naming(views, [version for version, _ in live(connection)]):
        connection.execute(statement)


def naming(views: Sequence[str], versions: Sequence[int]) -> list[str]:
    """Return the statements that leave one view, of the name that these versions make."""
    drops = [f"DROP VIEW {old}" for old in views]
    if not versions:
        return drops
    return [*drops, f"CREATE VIEW {view(versions)} AS SELECT * FROM suppression"]


def register(connection: sqlite3.Connection, keys: KeyRing) -> None:
    """Remember the newest key when the database knows none yet."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        if not knows_a_key(connection):
            put(connection, keys.newest)
            name(connection)
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def put(connection: sqlite3.Connection, key: SuppressionKey, made_at: int | None = None) -> None:
    """Let a key count as live from now on, in the caller's transaction."""
    connection.execute(
        "INSERT INTO suppression_key (version, fingerprint, made_at) VALUES (?, ?, ?)",
        (key.version, key.fingerprint, made_at),
    )


def load(connection: sqlite3.Connection, state_dir: Path, path: Path) -> KeyRing:
    """Read the keys that are live in the database from their file.

    Raises:
        StoreMisconfigured: the file does not hold them; the suppressions would match nobody.
    """
    while True:
        wanted = live(connection)
        keys = load_keys(state_dir)
        # A key goes into the file before it is live and out of it after, so what was live
        # before and after must be there.
        if wanted == live(connection):
            return chosen(keys, wanted, path)


def chosen(keys: KeyRing, wanted: Live, path: Path) -> KeyRing:
    """Return the keys that are live; those of the file that are not yet, or not any more, go.

    Raises:
        StoreMisconfigured: a live key is missing.
    """
    found = {(key.version, key.fingerprint): key for key in keys.keys}
    if not wanted or any(one not in found for one in wanted):
        raise StoreMisconfigured(
            f"{path}: its suppressions are stored under another key than {FILE_NAME} in "
            "state_dir holds; restore the key file that belongs to this database"
        )
    return KeyRing(found[one] for one in wanted)


class LiveKeys:
    """The keys of one store's slow path, read again when others are live."""

    def __init__(self, path: Path, state_dir: Path) -> None:
        self._path = path
        self._state_dir = state_dir
        self._live: Live = []
        self._keys: KeyRing | None = None

    async def current(self, connection: aiosqlite.Connection) -> KeyRing:
        """Return the keys that are live, in a write transaction as long as it lasts.

        Raises StoreMisconfigured.
        """
        wanted = await _live(connection)
        while self._keys is None or wanted != self._live:
            keys, before = load_keys(self._state_dir), wanted
            wanted = await _live(connection)
            if before == wanted:
                self._keys, self._live = chosen(keys, wanted, self._path), wanted
        return self._keys


async def _live(connection: aiosqlite.Connection) -> Live:
    return [(version, fingerprint) for version, fingerprint in await fetch_all(connection, LIVE)]


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
# Where the newest key has the very same suppression already, the later word counts, and no
# import alone is behind it any more.
_MERGE = """
UPDATE suppression AS kept SET
    since = max(kept.since, gone.since),
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
    newest = add_key(state_dir, {key.version: key.fingerprint for key in keys.keys}).newest
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
    for statement in naming(
        [row[0] for row in await fetch_all(connection, VIEWS)],
        [row[0] for row in await fetch_all(connection, LIVE)],
    ):
        await connection.execute(statement)


class Rekeying(Connections):
    """Keeps `KeyRotation` for the store that it is mixed into."""

    _keys: LiveKeys

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
            drop_keys(self._state_dir, [newest])
        return done
