"""The live keys of this database, and the view that keeps lookups from using outdated ones.

Lookups read suppressions through a view that is named after the live keys. Adding or retiring a
key renames it in the same transaction. A lookup prepared for other keys then fails on its next
read, and is prepared again with the keys in the file: no row can be missed at any moment, and as
long as nothing changes this costs nothing.
"""

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from smtpproxy.store.key_files import load_keys
from smtpproxy.store.keys import KeyRing
from smtpproxy.store.sql.live_keys import LIVE, Live, live_ring
from smtpproxy.store.sql.session import Session

_VIEW = "suppression_under_"
VIEWS = f"SELECT name FROM sqlite_master WHERE type = 'view' AND name GLOB '{_VIEW}*'"


def view(versions: Sequence[int]) -> str:
    """Return the name of the view for these live keys."""
    return _VIEW + "_".join(map(str, sorted(versions)))


def is_gone(error: BaseException) -> bool:
    """Return whether a lookup failed because the live keys have changed since it was prepared."""
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
    """Return the statements that replace the views by one for these versions."""
    drops = [f"DROP VIEW {old}" for old in views]
    if not versions:
        return drops
    return [*drops, f"CREATE VIEW {view(versions)} AS SELECT * FROM suppression"]


def register(connection: sqlite3.Connection, keys: KeyRing) -> None:
    """Store the newest key, if the database has none yet."""
    connection.execute("BEGIN IMMEDIATE")
    with connection:
        if not knows_a_key(connection):
            newest = keys.newest
            connection.execute(
                "INSERT INTO suppression_key (version, fingerprint) VALUES (?, ?)",
                (newest.version, newest.fingerprint),
            )
            name(connection)


def load(connection: sqlite3.Connection, state_dir: Path, path: Path) -> KeyRing:
    """Read the live keys of the database from their file.

    Raises:
        StoreMisconfigured: the file lacks one; its suppressions would match nobody.
    """
    while True:
        wanted = live(connection)
        keys = load_keys(state_dir)
        # A key is added to the file before it becomes live, and removed after it was retired: if
        # the live ones are the same before and after reading, the file must have them.
        if wanted == live(connection):
            return live_ring(keys, wanted, path)


async def rename(session: Session) -> None:
    """Name the view after the live keys, in the caller's transaction."""
    views = [row[0] for row in await session.fetch_all(VIEWS)]
    for statement in naming(views, [row[0] for row in await session.fetch_all(LIVE)]):
        await session.run(statement)
