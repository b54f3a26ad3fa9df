"""Connects to the right server among the hosts of a URL, and recognises an old primary that another
server has taken over from.

asyncpg asks one host after the other and gives up after one timeout for all of them, so it would
never get past a dead machine, which does not say that it is dead.

A server that is promoted starts a new timeline, one higher. The old primary, if it comes back
without being fenced, continues its old timeline and accepts writes, but lacks the last objections.
"""

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import structlog

from smtpproxy.disk import flush, sync_path
from smtpproxy.first_address import first_made
from smtpproxy.store.records import StoreUnavailable

if TYPE_CHECKING:
    from asyncpg import Connection

log = structlog.get_logger(__name__)


def each_host(url: str) -> list[str]:
    """Return a valid URL once for each host that it names, with that host alone."""
    parts = urlsplit(url)
    login, at, hosts = parts.netloc.rpartition("@")
    if hosts:
        return [parts._replace(netloc=login + at + host).geturl() for host in hosts.split(",")]
    asked = dict(parse_qsl(parts.query))
    named, ports = (asked.pop(name, "").split(",") for name in ("host", "port"))
    if len(named) == 1:
        return [url]
    places = zip(named, ports if len(ports) > 1 else ports * len(named), strict=True)
    return [
        parts._replace(
            query=urlencode({**asked, "host": host, **({"port": port} if port else {})})
        ).geturl()
        for host, port in places
    ]


class Hosts:
    """Connects to the first host that answers and is the server asked for.

    The next one is asked when a host fails, or says nothing for `pause` seconds. `admit` raises
    StoreUnavailable for a server that must not be used.
    """

    def __init__(
        self, url: str, pause: float, admit: Callable[["Connection"], Awaitable[None]]
    ) -> None:
        self._urls = each_host(url)
        self._pause = pause
        self._admit = admit

    async def connect(self, _: str, **how: Any) -> "Connection":
        """Connect as `asyncpg.connect` does, with its arguments. Raises as it does."""
        wanted = how.pop("target_session_attrs")
        kinds = ("standby", "any") if wanted == "prefer-standby" else (wanted,)
        urls = [*self._urls] * len(kinds)
        attempts = [
            partial(self._connect, url, {**how, "target_session_attrs": kind})
            for kind in kinds
            for url in self._urls
        ]
        connection, place, results = await first_made(
            attempts, self._pause, lambda made: made.terminate()
        )
        errors = [each for each in results if each is not None]
        if connection is None or place is None:
            raise _most_telling(errors)
        for error in errors:
            if isinstance(error, StoreUnavailable) and structlog.is_configured():  # not a command
                log.warning("server not used", error=str(error))
        self._urls.sort(key=lambda each: each != urls[place])  # ask this one first next time
        return connection

    async def _connect(self, url: str, how: Mapping[str, Any]) -> "Connection":
        from asyncpg import connect

        connection = await connect(url, **how)
        try:
            await self._admit(connection)
        except BaseException:
            connection.terminate()
            raise
        return connection


def _most_telling(errors: Sequence[Exception]) -> Exception:
    from asyncpg import TargetServerAttributeNotMatched

    return min(
        errors,
        key=lambda error: (
            isinstance(error, TargetServerAttributeNotMatched),
            isinstance(error, OSError),
        ),
    )


_TIMELINE = "timeline"
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
                name, number = (self.folder / _TIMELINE).read_text().split()
                seen = (name, int(number))
        return seen[1] if seen[0] == system else 0

    def _remember(self) -> None:
        """Store the timeline; without the right to write there, leave that to other processes."""
        if self.folder is None:
            return
        new = self.folder / f"{_TIMELINE}.{os.getpid()}"
        with suppress(OSError):
            with new.open("w") as file:
                file.write(f"{self._seen[0]} {self._seen[1]}\n")
                flush(file)  # an empty file would let an old primary back in after a power cut
            new.replace(self.folder / _TIMELINE)
            sync_path(self.folder)
