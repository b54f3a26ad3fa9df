"""Authenticates clients: judges SASL exchanges against the users and their recent failures."""

import ipaddress
import os
import secrets
import time
from base64 import b64encode
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Literal

from msgspec import Struct

from smtpproxy.auth.users import PasswordChecker, TooBusy, Users, UsersError, read
from smtpproxy.events import AuthOutcome
from smtpproxy.settings import AuthSettings
from smtpproxy.tls import file_stamp
from smtpproxy.wire.sasl import (
    Challenge,
    CheckPassword,
    Login,
    Mechanism,
    Plain,
    Proven,
    Refused,
    ScramSha256,
    Step,
)

_REMEMBERED = 20_000
"""How many addresses and users have their failures kept; the oldest are forgotten first."""

Barred = Literal["address", "user"]


class Attempts:
    """Counts failures within a window.

    Addresses from which a user has logged in within the last day are not barred by failures from
    elsewhere; otherwise anybody could lock the user out.
    """

    def __init__(
        self, *, per_address: int, per_user: int, window: float, now: Callable[[], float]
    ) -> None:
        self._per_address = per_address
        self._per_user = per_user
        self._window = window
        self._now = now
        self._addresses: OrderedDict[str, list[float]] = OrderedDict()
        self._users: OrderedDict[str, list[float]] = OrderedDict()
        self._succeeded: OrderedDict[tuple[str, str], float] = OrderedDict()

    def barred(self, address: str, user: str | None = None) -> Barred | None:
        """Why the next attempt is not even checked, or None."""
        network = network_of(address)
        if self._recent(self._addresses, network) >= self._per_address:
            return "address"
        if user is None or self._recent(self._users, user) < self._per_user:
            return None
        at = self._succeeded.get((user, network))
        return None if at is not None and self._now() - at < 86_400 else "user"

    def failed(self, address: str, user: str | None) -> None:
        self._note(self._addresses, network_of(address), self._per_address)
        if user is not None:
            self._note(self._users, user, self._per_user)

    def succeeded(self, address: str, user: str) -> None:
        key = user, network_of(address)
        self._succeeded[key] = self._now()
        self._succeeded.move_to_end(key)
        if len(self._succeeded) > _REMEMBERED:
            self._succeeded.popitem(last=False)

    def _recent(self, failures: OrderedDict[str, list[float]], key: str) -> int:
        since = self._now() - self._window
        return sum(at > since for at in failures.get(key, ()))

    def _note(self, failures: OrderedDict[str, list[float]], key: str, limit: int) -> None:
        times = failures.setdefault(key, [])
        times.append(self._now())
        del times[:-limit]
        failures.move_to_end(key)
        if len(failures) > _REMEMBERED:
            failures.popitem(last=False)


def network_of(address: str) -> str:
    """Return the network by which a client is counted: an IPv6 client has a whole /64."""
    if ":" not in address:
        return address
    try:
        return str(ipaddress.ip_network(f"{address.partition('%')[0]}/64", strict=False))
    except ValueError:
        return address


MECHANISMS = ("SCRAM-SHA-256", "PLAIN", "LOGIN")
"""In the order in which EHLO offers them: first the one that never reveals the password."""

_LOOK_EVERY = 1.0


class Outcome(Struct, frozen=True):
    """How an exchange ended. `user` is set only if it is proven."""

    result: AuthOutcome
    user: str = ""


class Authenticator:
    """Knows the users, in one worker. If the file becomes unreadable, the old users stay.

    `changed` is called with None after a change, or with the error. Raises UsersError if the file
    cannot be read at the start.
    """

    def __init__(
        self,
        settings: AuthSettings,
        workers: int,
        changed: Callable[[str | None], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self._path = settings.users
        self._changed = changed
        self._now = now
        self._users = Users({}, os.urandom(32)) if self._path is None else read(self._path)
        self._stamp = file_stamp(self._path)
        self._looked = now()
        self._passwords = PasswordChecker(now)
        self._attempts = Attempts(
            per_address=-(-settings.max_failures_per_address // workers),
            per_user=-(-settings.max_failures_per_user // workers),
            window=settings.failure_window,
            now=now,
        )

    def begin(self, mechanism: str) -> Mechanism:
        """Return the state machine of a mechanism that EHLO offered."""
        return _MACHINES[mechanism](self.users())

    def barred(self, address: str) -> bool:
        """Whether this address has failed too often recently."""
        return self._attempts.barred(address) is not None

    async def judge(self, step: Step, address: str) -> Outcome | Challenge:
        """Return what follows from a step of an exchange: another challenge, or its outcome."""
        match step:
            case Challenge():
                return step
            case CheckPassword(user, password):
                if self._attempts.barred(address, user):
                    return Outcome("limited")
                known = self.users().by_name.get(user)
                try:
                    right = await self._passwords.check(known, password)
                except TooBusy:
                    return Outcome("busy")
                return self._ended(right, user, address)
            case Proven(user):
                if self._attempts.barred(address, user):
                    return Outcome("limited")
                return self._ended(user in self.users().by_name, user, address)
            case Refused(malformed=True):
                return Outcome("malformed")
            case Refused(user=user):
                return self._ended(False, user, address)

    def users(self) -> Users:
        """Return the users, read again if their file has changed (checked once a second)."""
        now = self._now()
        if self._path is not None and now - self._looked >= _LOOK_EVERY:
            self._looked = now
            stamp = file_stamp(self._path)
            if stamp != self._stamp:
                self._stamp = stamp
                try:
                    self._users = read(self._path)
                except UsersError as error:
                    self._changed(str(error))
                else:
                    self._changed(None)
        return self._users

    def close(self) -> None:
        self._passwords.close()

    def _ended(self, right: bool, user: str | None, address: str) -> Outcome:
        if not right or user is None:
            self._attempts.failed(address, user)
            return Outcome("failed")
        self._attempts.succeeded(address, user)
        return Outcome("ok", user)


def _scram(users: Users) -> Mechanism:
    nonce = b64encode(secrets.token_bytes(18)).decode()
    return ScramSha256(users.scram_keys, nonce)


_MACHINES: Mapping[str, Callable[[Users], Mechanism]] = {
    "PLAIN": lambda users: Plain(),
    "LOGIN": lambda users: Login(),
    "SCRAM-SHA-256": _scram,
}
