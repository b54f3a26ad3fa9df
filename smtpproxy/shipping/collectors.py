"""Collectors of lines, over HTTP or syslog. They cannot erase anything, so they do not get the
personal parts: the chain can still be verified with the digests in their place."""

import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime

import httpx

from smtpproxy.settings.places import LOOPBACK_HOSTS
from smtpproxy.shipping.targets import TargetUnavailable, TargetWrong

TOKEN = "SMTPPROXY_SHIP_TOKEN"
"""The environment variable with the bearer token of an HTTP collector."""

_TIMEOUT = 30.0
_PRIORITY = "<134>"  # facility local0, severity info (RFC 5424, section 6.2.1)


class HttpTarget:
    """A `LineTarget`: NDJSON in a POST, accepted if answered with 2xx."""

    def __init__(self, url: str) -> None:
        """Raises TargetWrong."""
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise TargetWrong(f"{url}: {error}") from error
        if parsed.scheme != "https" and parsed.host not in LOOPBACK_HOSTS:
            raise TargetWrong(f"{url}: not encrypted; use https://")
        if parsed.userinfo:
            raise TargetWrong(
                f"{parsed.host}: a URL must not have a password, as messages and the list of"
                f" processes show it; put a token in {TOKEN}"
            )
        self._url = url
        self._shown = str(parsed.copy_with(query=None, fragment=None))  # a query may be a secret
        headers = {"Content-Type": "application/x-ndjson"}
        if token := os.environ.get(TOKEN, ""):
            headers["Authorization"] = f"Bearer {token}"
        self._client = httpx.Client(timeout=_TIMEOUT, headers=headers)

    def send(self, lines: Sequence[bytes]) -> None:
        try:
            answer = self._client.post(self._url, content=b"".join(lines))
        except httpx.HTTPError as error:
            raise TargetUnavailable(f"{self._shown}: {error or type(error).__name__}") from error
        if not answer.is_success:
            raise TargetUnavailable(f"{self._shown}: answered {answer.status_code}")

    def close(self) -> None:
        self._client.close()


class SyslogTarget:
    """A `LineTarget`: RFC 5424 messages over TCP, each a line (RFC 6587, section 3.4.2)."""

    def __init__(self, host: str, port: int, name: str) -> None:
        self._address = (host, port)
        self._name = name
        self._connection: socket.socket | None = None

    def send(self, lines: Sequence[bytes]) -> None:
        """Send; as there are no answers, what the kernel accepts on a live connection counts."""
        head = f"{_PRIORITY}1 {datetime.now(UTC).isoformat()} {self._name} smtpproxy - audit - "
        try:
            if self._connection is None:
                self._connection = socket.create_connection(self._address, _TIMEOUT)
            self._connection.sendall(b"".join(head.encode() + line for line in lines))
            _check(self._connection)
        except OSError as error:
            self.close()
            place = ":".join(map(str, self._address))
            raise TargetUnavailable(f"syslog at {place}: {error.strerror or error}") from error

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _check(connection: socket.socket) -> None:
    """Raises OSError if the collector has closed the connection."""
    connection.setblocking(False)
    with suppress(BlockingIOError):
        if not connection.recv(1, socket.MSG_PEEK):
            raise ConnectionResetError("it closed the connection")
    connection.settimeout(_TIMEOUT)
