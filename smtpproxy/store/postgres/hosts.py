"""Connects to the right server among the hosts of a URL.

asyncpg asks one host after the other and gives up after one timeout for all of them, so it would
never get past a dead machine, which does not say that it is dead.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import structlog

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
