"""Which of two primaries counts: the one that took over from the other.

A server that is made a primary begins another timeline, one higher. The one that it took over
from goes on with the old one when it comes back and nobody saw to it that it does not, and lets
anybody write. What it says is older than the last objection.
"""

import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from smtpproxy.store.protocols import StoreUnavailable

if TYPE_CHECKING:
    from asyncpg import Connection

FILE_NAME = "timeline"
"""In state_dir: the database's identifier and the highest timeline that was seen of it."""

_LINE = """
SELECT system_identifier::text, CASE WHEN NOT pg_is_in_recovery() THEN
    ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::integer
END, coalesce(host(inet_server_addr()) || ':' || inet_server_port(), 'the database')
FROM pg_control_system()
"""


class Lineage:
    """The highest timeline that was seen, by this process and by others with the same folder."""

    def __init__(self, is_newer: Callable[[], Awaitable[None]]) -> None:
        self.folder: Path | None = None
        self._is_newer = is_newer  # called when connections from before are those of an old primary
        self._seen = ("", 0)

    async def admit(self, connection: "Connection") -> None:
        """Let a new connection be used. Raises StoreUnavailable: it is one to an old primary."""
        from asyncpg import FeatureNotSupportedError, InsufficientPrivilegeError

        try:
            system, timeline, where = await connection.fetchrow(_LINE)
        except (FeatureNotSupportedError, InsufficientPrivilegeError):
            return  # a service that has its own ways, and keeps old primaries away
        if timeline is None:  # a standby
            return
        newest = self._newest(system)
        if timeline < newest:
            raise StoreUnavailable(
                f"{where} is an old primary, on timeline {timeline} where another took over on"
                f" {newest}: end it, or make it a standby"
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
        """Without the right to write there, as a report's user may be, others remember it."""
        if self.folder is None:
            return
        new = self.folder / f"{FILE_NAME}.{os.getpid()}"
        with suppress(OSError):
            new.write_text(f"{self._seen[0]} {self._seen[1]}\n")
            new.replace(self.folder / FILE_NAME)
