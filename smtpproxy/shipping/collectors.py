"""Collectors of lines, over HTTP or syslog. They cannot erase anything, so they do not get the
personal parts: the chain can still be verified with the digests in their place."""

import logging
import os
import socket
from collections.abc import Sequence
from datetime import UTC, datetime
from logging.handlers import SysLogHandler

import httpx

from smtpproxy.settings.places import LOOPBACK_HOSTS
from smtpproxy.shipping.targets import TargetUnavailable, TargetWrong

TOKEN = "SMTPPROXY_SHIP_TOKEN"
"""The environment variable with the bearer token of an HTTP collector."""

_TIMEOUT = 30.0


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


class _Handler(SysLogHandler):
    append_nul = False

    def handleError(self, record: logging.LogRecord) -> None:
        raise


class SyslogTarget:
    """A `LineTarget`: RFC 5424 messages over TCP, each a line (RFC 6587, section 3.4.2)."""

    def __init__(self, host: str, port: int, name: str) -> None:
        self._address = (host, port)
        self._name = name
        self._handler: _Handler | None = None

    def send(self, lines: Sequence[bytes]) -> None:
        """Send; as there are no answers, what the kernel accepts on a live connection counts."""
        try:
            if self._handler is None:
                self._handler = _Handler(
                    self._address, SysLogHandler.LOG_LOCAL0, socket.SOCK_STREAM
                )
            for line in lines:
                text = f"1 {datetime.now(UTC).isoformat()} {self._name} smtpproxy - audit - "
                self._handler.handle(
                    logging.makeLogRecord({"msg": text + line.decode(), "levelname": "INFO"})
                )
            self._check()
        except OSError as error:
            self.close()
            place = ":".join(map(str, self._address))
            raise TargetUnavailable(f"syslog at {place}: {error.strerror or error}") from error

    def _check(self) -> None:
        """Raises OSError if the collector has closed the connection."""
        connection: socket.socket | None = getattr(self._handler, "socket", None)
        try:
            if connection and not connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
                raise ConnectionResetError("it closed the connection")
        except BlockingIOError:
            pass

    def close(self) -> None:
        handler, self._handler = self._handler, None
        if handler is not None:
            handler.close()
