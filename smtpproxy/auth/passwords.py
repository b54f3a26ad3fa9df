"""Checking passwords without stopping the event loop."""

import asyncio
import contextlib
import hmac
import os
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from argon2.exceptions import Argon2Error, InvalidHashError

from smtpproxy.auth.users import User, hasher
from smtpproxy.wire.saslprep import NotPreparable, saslprep

_THREADS = 2
_WAITING = 64
"""Checks that may wait for a thread; whoever comes later is to come again."""
_REMEMBERED = 1_000
_REMEMBERED_FOR = 300.0  # seconds


class TooBusy(Exception):
    """Too many passwords wait to be checked already."""


class PasswordChecker:
    """argon2 is slow on purpose, so it runs in threads, and what was right is remembered.

    Remembered is an HMAC of user, password and hash under a key of this process: apps that
    log in on each connection do not pay each time, and a changed hash counts at once.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._key = os.urandom(32)
        self._right: OrderedDict[bytes, float] = OrderedDict()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="password")
        self._waiting = 0
        self._nobodys = hasher.hash(os.urandom(16).hex())

    async def check(self, user: User | None, password: str) -> bool:
        """Whether it is the user's password; None takes as long and is False.

        Raises TooBusy.
        """
        hashed = self._nobodys if user is None else user.hash
        name = "" if user is None else user.name
        proof = hmac.digest(self._key, f"{name}\0{hashed}\0{password}".encode(), "sha256")
        until = self._right.get(proof)
        if until is not None and until > self._now():
            return True
        if self._waiting >= _WAITING:
            raise TooBusy
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            right = await loop.run_in_executor(self._threads, _matches, hashed, password)
        finally:
            self._waiting -= 1
        if user is None or not right:
            return False
        self._right[proof] = self._now() + _REMEMBERED_FOR
        self._right.move_to_end(proof)
        if len(self._right) > _REMEMBERED:
            self._right.popitem(last=False)
        return True

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def verify(user: User | None, password: str) -> bool:
    """Check a password at once; takes some 20 ms."""
    with contextlib.suppress(NotPreparable):
        return user is not None and _matches(user.hash, saslprep(password))
    return False


def _matches(hashed: str, password: str) -> bool:
    with contextlib.suppress(Argon2Error, InvalidHashError):
        return hasher.verify(hashed, password)
    return False
