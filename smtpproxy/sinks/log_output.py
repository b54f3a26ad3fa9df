"""Where the log goes: standard error, whoever reads it, or nobody.

Mail never waits for the reader of the log, and is never refused or lost because of it: what cannot
be written at once is left out, and counted.
"""

import fcntl
import os
import socket
import stat
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import TextIO

Send = Callable[[bytes], int]
"""Writes without waiting; returns how many octets it took. Raises OSError."""


class LogOutput:
    """A file for lines of text, each by one `write`."""

    def __init__(self) -> None:
        self._send = _sender(sys.stderr)
        self._rest = b""  # of a line that was taken in part
        self._lost = 0

    @property
    def gap(self) -> Mapping[str, int]:
        """How many lines were lost since the last one, for the next one to say."""
        return {"lines_lost": self._lost} if self._lost else {}

    def write(self, line: str) -> None:
        data = self._rest + line.encode("utf-8", "backslashreplace")
        try:
            sent = self._send(data)
        except OSError:  # its reader is slow or gone, or the disk is full
            sent = 0
        if sent < len(self._rest) or not sent:
            self._rest = self._rest[sent:]
            self._lost += 1
        else:
            self._rest = data[sent:]
            self._lost = 0

    def flush(self) -> None:
        """Nothing waits here but the rest of a line, which goes with the next one."""


def _sender(stream: TextIO) -> Send:
    try:
        number = stream.fileno()
        mode = os.fstat(number).st_mode
    except OSError:  # it is no file
        return partial(_print, stream)
    if stat.S_ISSOCK(mode):
        connection = socket.socket(fileno=os.dup(number))
        return lambda data: connection.send(data, socket.MSG_DONTWAIT)
    if stat.S_ISFIFO(mode):
        _stop_waiting(number)
    return partial(os.write, number)


def _stop_waiting(number: int) -> None:
    """Let writes to this pipe fail instead of wait: ours alone, if others have it too."""
    if fcntl.fcntl(number, fcntl.F_GETFL) & os.O_NONBLOCK:
        return
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        ours = os.open(f"/proc/self/fd/{number}", flags)
    except OSError:  # nobody reads it, or it belongs to another user
        return
    os.dup2(ours, number)
    os.close(ours)


def _print(stream: TextIO, data: bytes) -> int:
    stream.write(data.decode())
    stream.flush()
    return len(data)
