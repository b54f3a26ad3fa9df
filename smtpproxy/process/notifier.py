"""systemd's notification protocol (sd_notify(3))."""

import os
import socket
import time
from collections.abc import Mapping


class Notifier:
    """Notifies systemd for this process; does nothing if systemd did not ask for it.

    `environ` is the process's environment. Nothing is ever raised: a service must not fail because
    nobody receives its notifications.
    """

    def __init__(self, environ: Mapping[str, str], pid: int | None = None) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):  # an abstract socket: a NUL byte instead of a file
            self._address = "\0" + self._address[1:]
        self.is_unit = bool(self._address) and "INVOCATION_ID" in environ
        """Whether the process is the main process of a systemd unit."""
        self.watchdog_interval = _watchdog_interval(environ, os.getpid() if pid is None else pid)

    def ready(self) -> None:
        self._send("READY=1")

    def reloading(self) -> None:
        """Report a reload, also to a unit with Type=notify-reload; `ready` ends it."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

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
    """Return the seconds between signs of life; None if systemd wants none.

    It is a quarter of the time that systemd waits, so that a few may fail.
    """
    microseconds = environ.get("WATCHDOG_USEC", "")
    if not microseconds.isdecimal() or int(microseconds) == 0:
        return None
    if environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    return int(microseconds) / 4_000_000
