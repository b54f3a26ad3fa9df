"""Which keys the rows of this database are stored under, and how nobody reads with fewer.

The view that lookups read suppressions through is named after the live keys. Whoever adds
or retires a key renames it in the same transaction, so a lookup that was prepared for other
keys fails on the very next read, and is prepared again with those of the file: there is no
moment when a row can be missed, and while nothing changes it costs nothing.
"""

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from smtpproxy.store.key_files import load_keys
from smtpproxy.store.keys import KeyRing, SuppressionKey
from smtpproxy.store.sql.live_keys import LIVE, Live, chosen
from smtpproxy.store.sql.session import Session

_VIEW = "suppression_under_"
VIEWS = f"SELECT name FROM sqlite_master WHERE type = 'view' AND name GLOB '{_VIEW}*'"


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


async def rename(session: Session) -> None:
    """Name the view after the keys that are live now, in the caller's transaction."""
    views = [row[0] for row in await session.fetch_all(VIEWS)]
    for statement in naming(views, [row[0] for row in await session.fetch_all(LIVE)]):
        await session.run(statement)
