"""Recognising an old primary, from which another server took over.

A server that is promoted starts a new timeline, one higher. The old primary, if it comes back
without being fenced, continues its old timeline and accepts writes, but lacks the last objections.
"""

import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from smtpproxy.store.records import StoreUnavailable

if TYPE_CHECKING:
    from asyncpg import Connection

FILE_NAME = "timeline"
"""In state_dir: the database's identifier, and the highest timeline seen of it."""

_LINE = """
SELECT system_identifier::text, CASE WHEN NOT pg_is_in_recovery() THEN
    ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::integer
END, coalesce(host(inet_server_addr()) || ':' || inet_server_port(), 'the database')
FROM pg_control_system()
"""


class Lineage:
    """The highest timeline seen by this process and others with the same folder."""

    def __init__(self, is_newer: Callable[[], Awaitable[None]]) -> None:
        self.folder: Path | None = None
        self._is_newer = is_newer  # called when earlier connections are to an old primary
        self._seen = ("", 0)

    async def admit(self, connection: "Connection") -> None:
        """Check a new connection. Raises StoreUnavailable if it is to an old primary."""
        from asyncpg import FeatureNotSupportedError, InsufficientPrivilegeError

        try:
            system, timeline, where = await connection.fetchrow(_LINE)
        except (FeatureNotSupportedError, InsufficientPrivilegeError):
            return  # a managed service, which fences old primaries itself
        if timeline is None:  # a standby
            return
        newest = self._newest(system)
        if timeline < newest:
            raise StoreUnavailable(
                f"{where} is an old primary, on timeline {timeline}, while another took over on"
                f" {newest}: stop it, or make it a standby"
            )
        if self._seen[1] and (system, timeline) != self._seen:
            await self._is_newer()
        self._seen = (system, timeline)
        if timeline > newest:
            self._remember()

    def _newest(self, system: str) -> int:
        seen = self._seen
        if self.folder is not None:
            with suppress(OSError, ValueError):
                name, number = (self.folder / FILE_NAME).read_text().split()
                seen = (name, int(number))
        return seen[1] if seen[0] == system else 0

    def _remember(self) -> None:
        """Store the timeline; without the right to write there, leave that to other processes."""
        if self.folder is None:
            return
        new = self.folder / f"{FILE_NAME}.{os.getpid()}"
        with suppress(OSError):
            new.write_text(f"{self._seen[0]} {self._seen[1]}\n")
            new.replace(self.folder / FILE_NAME)
