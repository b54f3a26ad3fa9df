"""Free loopback ports, and waiting for things to happen."""

import contextlib
import os
import random
import socket
import time
from collections.abc import Callable
from typing import TypeVar

LOOPBACK = "127.0.0.1"
# Below the kernel's range for outgoing connections (32768 and up), so that no client takes a
# port between its choice and its use.
RANGE = range(10_240, 32_000)

_reserved: list[socket.socket] = []

_RESTS = 2  # times the duration of a check
_LONGEST_REST = 0.2  # seconds

T = TypeVar("T")


def free_port() -> int:
    """Return a TCP port of 127.0.0.1, reserved until this process ends."""
    candidates = random.Random(os.urandom(8))
    for _ in range(500):
        port = candidates.choice(RANGE)
        if _reserve(port):
            return port
    raise RuntimeError("no free port found")


def _reserve(port: int) -> bool:
    # An abstract socket is a lock among test processes that ends with its owner.
    lock = socket.socket(socket.AF_UNIX)
    try:
        lock.bind(f"\0smtpproxy-test-port-{port}")
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((LOOPBACK, port))
    except OSError:
        lock.close()
        return False
    _reserved.append(lock)
    return True


def listens(port: int) -> bool:
    """Whether a server accepts connections there."""
    with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, port), timeout=1):
        return True
    return False


def wait_for(
    condition: Callable[[], T], what: str, *, timeout: float = 30.0, every: float = 0.02
) -> T:
    """Return the condition's first true value; raises AssertionError naming `what`.

    A costly condition is checked less often, so as not to slow down what it waits for.
    """
    end = time.monotonic() + timeout
    while True:
        began = time.monotonic()
        value = condition()
        if value:
            return value
        if (now := time.monotonic()) > end:
            raise AssertionError(f"waited {timeout:g} s for {what}")
        time.sleep(max(every, min(_RESTS * (now - began), _LONGEST_REST)))
