"""Bringing a database up to date: numbered migrations, under a lock of their own.

A migration only adds what relays of the version before can do without; a later one takes away what
nobody needs any more. `oldest` is the version of the oldest program that still works with it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from smtpproxy.store.closed import closed_text
from smtpproxy.store.key_files import load_keys, load_or_create_keys
from smtpproxy.store.keys import KeyRing
from smtpproxy.store.protocols import StoreInaccessible, StoreMisconfigured
from smtpproxy.store.sql.live_keys import LIVE, Live, live_ring
from smtpproxy.store.sql.migrations import numbered

if TYPE_CHECKING:
    from asyncpg import Connection

    from smtpproxy.store.postgres.connection import Database

_OLDEST = 1
"""The version of the oldest program that works with the newest migration."""

LOCK = 0x736D_7470  # of the database, for whoever migrates or moves it
_TABLE = """
CREATE TABLE IF NOT EXISTS schema_version (
    one boolean PRIMARY KEY DEFAULT TRUE CHECK (one),
    version integer NOT NULL,  -- migrations that it has had
    oldest integer NOT NULL    -- a program has to know as many, at least
)
"""
_VERSION = "SELECT version, oldest FROM schema_version"
_PUT_VERSION = """
INSERT INTO schema_version (version, oldest) VALUES ($1, $2)
ON CONFLICT (one) DO UPDATE SET version = excluded.version, oldest = excluded.oldest
"""
_PUT_KEY = """
INSERT INTO suppression_key (version, fingerprint)
SELECT $1, $2 WHERE NOT EXISTS (SELECT 1 FROM suppression_key)
"""
_READS = "GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {role}"
_USES = "GRANT USAGE ON SCHEMA {schema} TO {role}"
_GRANTED = """
SELECT grantee::text, string_agg(privilege_type::text, ', ')
FROM information_schema.role_table_grants
WHERE table_schema = current_schema() AND table_name = 'contact'
AND grantee NOT IN (current_user, 'PUBLIC') GROUP BY grantee
"""
_ALIKE = "GRANT {rights} ON ALL TABLES IN SCHEMA {schema} TO {role}"
_WRITES = "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role}"


def migrations() -> list[str]:
    """Return the SQL of every migration, the first one first."""
    return numbered("smtpproxy.store.postgres")


async def migrate(
    database: "Database",
    state_dir: Path | None,
    *,
    readers: Sequence[str] = (),
    writers: Sequence[str] = (),
) -> tuple[int, int]:
    """Bring the database up to date and let roles read, or write; return the versions before and
    after.

    The key of a database that knows none yet is that of `state_dir`, made where it is missing;
    without a folder it knows none afterwards either.
    Raises StoreMisconfigured, StoreUnavailable.
    """
    async with database.begun() as connection:
        # Others wait for the one who migrates, however long that takes.
        await connection.execute("SET LOCAL lock_timeout = 0")
        await connection.execute("SET LOCAL statement_timeout = 0")
        await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK)
        await connection.execute(_TABLE)
        before, oldest = await connection.fetchrow(_VERSION) or (0, 0)
        scripts = migrations()
        _check(before, oldest, len(scripts))
        for script in scripts[before:]:
            await connection.execute(script)
        if before < len(scripts):
            await connection.execute(_PUT_VERSION, len(scripts), _OLDEST)
        for role, rights in await connection.fetch(_GRANTED) if before else ():
            # Who could use the tables that were there may use the new ones.
            await _grant(connection, (role,), (_ALIKE.replace("{rights}", rights),))
        if state_dir is not None:
            await _register(connection, state_dir)
        await _grant(connection, readers, (_USES, _READS))
        await _grant(connection, writers, (_USES, _WRITES))
        return before, max(before, len(scripts))


async def _register(connection: "Connection", state_dir: Path) -> None:
    """Remember the key where the database knows none yet."""
    if not await connection.fetchval("SELECT EXISTS (SELECT 1 FROM suppression_key)"):
        newest = load_or_create_keys(state_dir).newest
        await connection.execute(_PUT_KEY, newest.version, newest.fingerprint)


async def _grant(connection: "Connection", roles: Sequence[str], grants: Sequence[str]) -> None:
    for role in roles:
        for grant in grants:
            text = await connection.fetchval(
                "SELECT format($1, current_schema(), $2::text)",
                grant.format(schema="%1$I", role="%2$I"),
                role,
            )
            await connection.execute(text)


async def check_version(connection: "Connection", url: str, *, moved: bool = False) -> None:
    """Raise StoreMisconfigured unless this program works with the database as it is; `moved`:
    also with one that was copied to another, which counts now."""
    if await connection.fetchval("SELECT to_regclass('schema_version')") is None:
        raise StoreInaccessible(
            "store.url: the database has no tables of smtpproxy yet; smtpproxy migrate makes them"
        )
    version, oldest = await connection.fetchrow(_VERSION)
    known = len(migrations())
    _check(version, oldest, known)
    if version < known:
        raise StoreInaccessible(
            f"store.url: version {version} of the database, this program needs {known}; "
            "smtpproxy migrate brings it up to date"
        )
    place = await connection.fetchval("SELECT moved_to FROM store_state")
    if place is not None and not moved:
        raise StoreMisconfigured(closed_text(url, place))


def _check(version: int, oldest: int, known: int) -> None:
    """Refuse a database that is too new. Raises StoreMisconfigured."""
    if oldest > known:
        raise StoreMisconfigured(
            f"store.url: version {version} of the database works with programs that know {oldest}, "
            f"this one knows {known}; run a newer release"
        )


async def live_keys(connection: "Connection", state_dir: Path) -> KeyRing:
    """Read the keys that are live from their file. Raises StoreMisconfigured: one is missing."""
    while True:
        wanted = await _live(connection)
        keys = load_keys(state_dir)
        # A key goes into the file before it is live and out of it after, so what was live
        # before and after must be there.
        if wanted == await _live(connection):
            return live_ring(keys, wanted, "store.url")


async def _live(connection: "Connection") -> Live:
    rows = await connection.fetch(LIVE)
    return [(version, fingerprint) for version, fingerprint in rows]
