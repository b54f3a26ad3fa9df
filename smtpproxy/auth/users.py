"""The file of users, and the check of their passwords.

`name argon2-hash SCRAM-SHA-256$iterations:salt$stored-key:server-key`, separated by spaces; lines
that begin with # are comments. The line `%key …` has the file's secret, by which users who do not
exist look like others (`Users.scram_keys`)."""

import asyncio
import contextlib
import hmac
import os
import secrets
import stat
import tempfile
from base64 import b64decode, b64encode
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from argon2 import PasswordHasher, extract_parameters
from argon2.exceptions import Argon2Error, InvalidHashError
from msgspec import Struct

from smtpproxy.disk import exists, flush, give_to_owner_of, read_fault, sync_path
from smtpproxy.wire.sasl import NotPreparable, ScramKeys, is_user_name, saslprep

ITERATIONS = 4096
"""For SCRAM keys: the minimum of RFC 7677. Each login costs the client that many."""

hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
"""About 20 ms and 19 MiB per check: argon2id as OWASP recommends for servers."""

_HEAD = "# The users of smtpproxy; `smtpproxy user` writes this file.\n"


class UsersError(Exception):
    """The file of users cannot be used; the text says why, and never shows a hash."""


class User(Struct, frozen=True):
    name: str
    hash: str
    scram: ScramKeys

    def __repr__(self) -> str:
        return f"User({self.name!r})"  # no secret in a log

    @classmethod
    def of(cls, name: str, password: str) -> "User":
        """Make a user's record from a password; takes some 50 ms. Raises ValueError."""
        prepared = saslprep(password)
        if not prepared:
            raise ValueError("is empty")
        keys = ScramKeys.of(prepared, secrets.token_bytes(16), ITERATIONS)
        return cls(name, hasher.hash(prepared), keys)


class Users(Struct, frozen=True):
    """All users by name, and the file's secret."""

    by_name: Mapping[str, User] = {}
    key: bytes = b""

    def __repr__(self) -> str:
        return f"Users({[*self.by_name]})"

    def scram_keys(self, name: str) -> ScramKeys:
        """Return a user's keys, or unmatchable ones for a user who does not exist."""
        user = self.by_name.get(name)
        if user is not None:
            return user.scram
        made = hmac.digest(self.key, name.encode(), "sha512")
        return ScramKeys(ITERATIONS, made[:16], made[16:48], made[32:])


def read(path: Path) -> Users:
    """Read the file. Raises UsersError."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read()
    except FileNotFoundError:
        raise UsersError(f"{path} does not exist yet: smtpproxy user add NAME creates it") from None
    except OSError as error:
        raise UsersError(read_fault(path, error)) from None
    if stat.S_IMODE(mode) & 0o077:
        raise UsersError(f"{path} is open to others (mode {mode & 0o777:o}): chmod 600 {path}")
    try:
        lines = content.decode().splitlines()
    except UnicodeDecodeError:
        raise UsersError(f"{path} is not UTF-8") from None
    users: dict[str, User] = {}
    key = b""
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            if line.startswith("%key "):
                key = bytes.fromhex(line[5:])
                continue
            user = _user(line)
        except (ValueError, InvalidHashError):
            raise UsersError(f"{path}: line {number} cannot be read") from None
        if user.name in users:
            raise UsersError(f"{path}: line {number}: the user appears twice")
        users[user.name] = user
    if len(key) < 32:
        raise UsersError(f"{path} has no line %key: write it with smtpproxy user add")
    return Users(users, key)


def write(path: Path, users: Users, owned_as: Path | None = None) -> None:
    """Replace the file, mode 0600; a concurrent reader gets either the old or the new one.

    As root it keeps its owner; a new file gets that of the folder `owned_as`. Raises OSError.
    """
    text = _HEAD + f"%key {users.key.hex()}\n" + "".join(map(_line, users.by_name.values()))
    owner = next((each for each in (path, owned_as) if each and exists(each)), None)
    number, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(number, "w", encoding="utf-8") as file:  # noqa: PTH123
            file.write(text)
            flush(file)
        if owner is not None:
            give_to_owner_of(owner, Path(draft))
        Path(draft).replace(path)
    except BaseException:  # Ctrl-C too
        Path(draft).unlink(missing_ok=True)
        raise
    sync_path(path.parent)


def empty() -> Users:
    return Users({}, secrets.token_bytes(32))


def _user(line: str) -> User:
    name, hashed, scram = line.split()
    method, numbers, keys = scram.split("$")
    iterations, salt = numbers.split(":")
    stored, server = keys.split(":")
    extract_parameters(hashed)
    made = ScramKeys(int(iterations), _decoded(salt), _decoded(stored), _decoded(server))
    right = (
        method == "SCRAM-SHA-256"
        and is_user_name(name)
        and len(made.stored_key) == len(made.server_key) == 32
        and made.salt
        and made.iterations > 0
    )
    if not right:
        raise ValueError("not a user")
    return User(name, hashed, made)


def _line(user: User) -> str:
    keys = user.scram
    salt, stored, server = map(_encoded, (keys.salt, keys.stored_key, keys.server_key))
    return f"{user.name} {user.hash} SCRAM-SHA-256${keys.iterations}:{salt}${stored}:{server}\n"


def _decoded(text: str) -> bytes:
    return b64decode(text, validate=True)


def _encoded(data: bytes) -> str:
    return b64encode(data).decode()


_THREADS = 2
_WAITING = 64
"""How many checks may wait for a thread; clients beyond that are told to retry."""
_REMEMBERED = 1_000
_REMEMBERED_FOR = 300.0  # seconds


class TooBusy(Exception):
    """Too many passwords are already waiting to be checked."""


class PasswordChecker:
    """Checks passwords in threads, because argon2 is slow on purpose, and caches successes.

    The cache holds an HMAC of user, password and hash under a key of this process: apps that log in
    on each connection do not pay each time, and a changed hash counts immediately.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._key = os.urandom(32)
        self._right: OrderedDict[bytes, float] = OrderedDict()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="password")
        self._waiting = 0
        self._nobodys = hasher.hash(os.urandom(16).hex())

    async def check(self, user: User | None, password: str) -> bool:
        """Whether it is the user's password; for None it takes as long and is False.

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
    """Check a password in this thread; takes some 20 ms."""
    with contextlib.suppress(NotPreparable):
        return user is not None and _matches(user.hash, saslprep(password))
    return False


def _matches(hashed: str, password: str) -> bool:
    with contextlib.suppress(Argon2Error, InvalidHashError):
        return hasher.verify(hashed, password)
    return False
