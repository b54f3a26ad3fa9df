"""Checks for commands: whether `store.replica_url` is a standby of `store.url`, how far behind, and
whether commits wait for one."""

import asyncio
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from smtpproxy.settings import StoreSettings
from smtpproxy.store.postgres import standby, target
from smtpproxy.store.postgres.connection import Lease
from smtpproxy.store.postgres.errors import NO_STANDBY
from smtpproxy.store.postgres.session import WAITS
from smtpproxy.store.records import StoreInaccessible, StoreMisconfigured, StoreUnavailable

if TYPE_CHECKING:
    from asyncpg import Connection

_WHICH = "SELECT system_identifier, current_database()::text FROM pg_control_system()"
_VERSION = "SELECT version, commit_id::text FROM store_state"
_CONNECTED = "EXISTS (SELECT 1 FROM pg_stat_replication)"  # any role sees how many there are
_PAUSE = 0.02  # seconds
_MOST = 5.0  # seconds that a command waits for a standby


class ReplicaLook(NamedTuple):
    """The seconds until the standby had what the primary has, or None and the fault."""

    seconds: float | None
    fault: str = ""


async def look_at_replica(settings: StoreSettings) -> ReplicaLook | None:
    """Compare the standby with the primary; None if there is none, or the primary does not answer.

    Raises StoreMisconfigured if it is the standby of another database.
    """
    second = standby(settings)
    if second is None:
        return None
    first_lease = Lease(target(settings))
    second_lease = Lease(replace(second, server="prefer-standby", timeout=settings.timeout))
    with closing(first_lease), closing(second_lease):
        try:
            async with first_lease.database.connection() as primary:
                which = tuple(await primary.fetchrow(_WHICH))
                version = tuple(await primary.fetchrow(_VERSION))
        except StoreUnavailable:
            return None  # other checks report that
        try:
            async with asyncio.timeout(_MOST * 2), second_lease.database.connection() as replica:
                if (other := tuple(await replica.fetchrow(_WHICH))) != which:
                    raise StoreMisconfigured(_text(other, which))
                if not await replica.fetchval("SELECT pg_is_in_recovery()"):
                    return ReplicaLook(None, NO_STANDBY)
                return await _wait(replica, version, min(settings.max_replica_lag, _MOST))
        except StoreInaccessible as error:  # it refuses the login, or has no such tables yet
            return ReplicaLook(None, str(error))
        except StoreMisconfigured:
            raise
        except (StoreUnavailable, TimeoutError) as error:
            return ReplicaLook(None, str(error) or "store.replica_url: does not answer")


class Awaited(NamedTuple):
    """Whether commits wait for a standby, and whether any is there."""

    waits: bool
    connected: bool


async def standby_awaited(settings: StoreSettings) -> Awaited:
    """Return what commits wait for. Raises StoreUnavailable."""
    with closing(Lease(replace(target(settings), synchronous=False))) as lease:
        async with lease.database.connection() as connection:
            return Awaited(*await connection.fetchrow(f"SELECT {WAITS}, {_CONNECTED}"))


async def _wait(replica: "Connection", version: tuple[int, str], most: float) -> ReplicaLook:
    """Wait until the standby has this version or a later one."""
    clock = asyncio.get_running_loop().time
    begin = clock()
    while True:
        found = tuple(await replica.fetchrow(_VERSION))
        if found == version or found[0] > version[0]:
            return ReplicaLook(clock() - begin)
        if clock() - begin > most:
            text = f"store.replica_url: more than {most:g} s behind the primary"
            return ReplicaLook(None, text)
        await asyncio.sleep(_PAUSE)


def _text(other: tuple[int, str], which: tuple[int, str]) -> str:
    if other[0] != which[0]:
        return (
            f"store.replica_url: a server of another database (system identifier {other[0]},"
            f" store.url has {which[0]}): name a standby of store.url"
        )
    return f"store.replica_url: database {other[1]}, store.url has {which[1]}: name the same"
