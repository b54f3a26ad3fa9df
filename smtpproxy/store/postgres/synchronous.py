"""Whether a commit is told only when a standby has it, so that no failover loses it."""

from dataclasses import replace
from typing import TYPE_CHECKING

from smtpproxy.store.protocols import StoreInaccessible

if TYPE_CHECKING:
    from smtpproxy.settings import StoreSettings

WAITS = """(
    current_setting('synchronous_commit') NOT IN ('off', 'local')
    AND current_setting('synchronous_standby_names') <> ''
)"""
"""What a session is told of itself; anybody may ask, and it changes while the session goes on."""

NO_WAIT = (
    "store.require_synchronous: commits of the database do not wait for a standby; set"
    " synchronous_standby_names, and synchronous_commit to on"
)


def check_waits(waits: object) -> None:
    """Raise StoreInaccessible unless commits wait."""
    if not waits:
        raise StoreInaccessible(NO_WAIT)


async def commits_wait(settings: "StoreSettings") -> bool:
    """Ask a database of PostgreSQL. Raises StoreUnavailable."""
    from smtpproxy.store.postgres import target
    from smtpproxy.store.postgres.connection import Lease

    lease = Lease(replace(target(settings), synchronous=False))
    try:
        async with lease.database.connection() as connection:
            return bool(await connection.fetchval(f"SELECT {WAITS}"))
    finally:
        lease.close()
