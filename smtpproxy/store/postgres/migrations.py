"""Migrating a database, under a lock.

A migration only adds things that relays of the previous version can do without; a later one removes
what nobody needs any more. `oldest` is the version of the oldest program that still works with it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from smtpproxy.store.closed import closed_text
from smtpproxy.store.key_files import load_or_create_keys
from smtpproxy.store.records import StoreInaccessible, StoreMisconfigured
from smtpproxy.store.sql.migrations import numbered

if TYPE_CHECKING:
    from asyncpg import Connection

    from smtpproxy.store.postgres.connection import Database

_OLDEST = 1
"""The version of the oldest program that works with the newest migration."""

LOCK = 0x736D_7470  # an advisory lock, for migrating or moving the store
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
_PUT_KEY = "INSERT INTO suppression_key (version, fingerprint) VALUES ($1, $2)"
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


def migrations() -> tuple[str, ...]:
    """Return the SQL of every migration, in order."""
    return numbered("smtpproxy.store.postgres")


async def migrate(
    database: "Database",
    state_dir: Path | None,
    *,
    readers: Sequence[str] = (),
    writers: Sequence[str] = (),
) -> tuple[int, int]:
    """Migrate the database and grant rights; return the versions before and after.

    A database without a key gets that of `state_dir`, which is created if missing; without a
    folder it stays without one. Raises StoreMisconfigured, StoreUnavailable.
    """
    async with database.in_transaction() as connection:
        # Others wait for the migration, however long it takes.
        await connection.execute("SET LOCAL lock_timeout = 0")
        await connection.execute("SET LOCAL statement_timeout = 0")
        await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK)
        await connection.execute(_TABLE)
        before, oldest = await connection.fetchrow(_VERSION) or (0, 0)
        scripts = migrations()
        _check(before, oldest, len(scripts))
        if before:
            await _refuse_preview(connection)
        for script in scripts[before:]:
            await connection.execute(script)
        if before < len(scripts):
            await connection.execute(_PUT_VERSION, len(scripts), _OLDEST)
        for role, rights in await connection.fetch(_GRANTED) if before else ():
            # Roles with rights to the earlier tables get the same rights to the new ones.
            await _grant(connection, (role,), (_ALIKE.replace("{rights}", rights),))
        if state_dir is not None:
            await _register(connection, state_dir)
        await _grant(connection, readers, (_USES, _READS))
        await _grant(connection, writers, (_USES, _WRITES))
        return before, max(before, len(scripts))


async def _register(connection: "Connection", state_dir: Path) -> None:
    """Store the key, if the database has none yet."""
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
    """Raise StoreMisconfigured unless this program works with the database; `moved` allows one that
    was copied to another database, which replaces it."""
    if await connection.fetchval("SELECT to_regclass('schema_version')") is None:
        raise StoreInaccessible(
            "store.url: the database has no tables of smtpproxy yet; smtpproxy migrate creates them"
        )
    version, oldest = await connection.fetchrow(_VERSION)
    known = len(migrations())
    _check(version, oldest, known)
    await _refuse_preview(connection)
    if version < known:
        raise StoreInaccessible(
            f"store.url: the database has version {version}, this program needs {known}; "
            "smtpproxy migrate brings it up to date"
        )
    place = await connection.fetchval("SELECT moved_to FROM store_state")
    if place is not None and not moved:
        raise StoreMisconfigured(closed_text(url, place))


def _check(version: int, oldest: int, known: int) -> None:
    """Refuse a database that is too new. Raises StoreMisconfigured."""
    if oldest > known:
        raise StoreMisconfigured(
            f"store.url: the database has version {version}, which needs programs that know"
            f" {oldest}; this one knows {known}: run a newer release"
        )


async def _refuse_preview(connection: "Connection") -> None:
    """Raise StoreMisconfigured for the tables of a preview, from before the first release: no
    migration fits them, and they lack this index."""
    if await connection.fetchval("SELECT to_regclass('report_erased')") is None:
        raise StoreMisconfigured(
            "store.url: the tables were made by a preview of smtpproxy, or altered. Export contacts"
            " and suppressions with the program that made them, create a new database, and import"
            " them there"
        )
