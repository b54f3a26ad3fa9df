"""Which keys the rows of this database are stored under, and how nobody reads with fewer.

The view that lookups read suppressions through is named after the live keys. Whoever adds
or retires a key renames it in the same transaction, so a lookup that was prepared for other
keys fails on the very next read, and is prepared again with those of the file: there is no
moment when a row can be missed, and while nothing changes it costs nothing.
"""

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import aiosqlite

from smtpproxy.store.key_file import FILE_NAME, load_keys
from smtpproxy.store.keys import KeyRing, SuppressionKey
from smtpproxy.store.protocols import StoreMisconfigured
from smtpproxy.store.sqlite.writer import fetch_all

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
