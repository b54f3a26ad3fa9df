"""Tells systemd how the service is doing (sd_notify(3)): datagrams on a Unix socket."""

import os
import socket
from collections.abc import Mapping


class Notifier:
    """Speaks for this process; does nothing when systemd did not ask for it.

    `environ` is the process's environment. Nothing is ever raised: a service must not
    fail because nobody listens to how it is.
    """

    def __init__(self, environ: Mapping[str, str], pid: int | None = None) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):  # abstract: no file, a NUL byte in its place
            self._address = "\0" + self._address[1:]
        self.watchdog_interval = _watchdog_interval(environ, os.getpid() if pid is None else pid)

    def ready(self) -> None:
        self._send("READY=1")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """Set the line that `systemctl status` shows."""
        self._send("STATUS=" + text.replace("\n", " "))

    def watchdog(self) -> None:
        self._send("WATCHDOG=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.setblocking(False)
                sock.sendto(message.encode(), self._address)
        except OSError:
            pass


def _watchdog_interval(environ: Mapping[str, str], pid: int) -> float | None:
    """Return the seconds between signs of life; None: not asked.

    A quarter of what systemd waits, so that a few may fail to come.
    """
    microseconds = environ.get("WATCHDOG_USEC", "")
    if not microseconds.isdecimal() or int(microseconds) == 0:
        return None
    if environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    return int(microseconds) / 4_000_000
