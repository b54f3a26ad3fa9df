"""How many connections a listener accepts, and at what rates its clients may send.

Connections are counted in total and per address (IPv6: per /64); rates per address and per
credential, in one table for all workers.
"""

import fcntl
import os
import struct
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Literal

from smtpproxy.auth import network_of
from smtpproxy.disk import lock
from smtpproxy.events import Limit
from smtpproxy.settings import Credential, ListenerSettings, Rate

Refusal = Literal["limit", "address_limit", "files", "rate", "draining"]
"""Why a connection is not accepted."""


class ConnectionLimits:
    """Counts the open connections of one listener in one worker."""

    def __init__(self, settings: ListenerSettings, workers: int) -> None:
        self.total = _share(settings.max_connections, workers)
        self._each = _share(settings.max_connections_per_address, workers)
        self._by_address: Counter[str] = Counter()
        self.open = 0

    def refusal(self, peer: str) -> Literal["limit", "address_limit"] | None:
        """Why another connection from `peer` cannot be accepted, or None."""
        if self.open >= self.total:
            return "limit"
        if self._by_address[network_of(peer)] >= self._each:
            return "address_limit"
        return None

    def opened(self, peer: str) -> None:
        self.open += 1
        self._by_address[network_of(peer)] += 1

    def closed(self, peer: str) -> None:
        self.open -= 1
        network = network_of(peer)
        self._by_address[network] -= 1
        if not self._by_address[network]:
            del self._by_address[network]


def _share(limit: int, workers: int) -> int:
    """One worker's share, rounded up: workers share a port but not their counts."""
    return -(-limit // workers)


_BUCKETS, _EACH = 8_192, 8
_BUCKET = struct.Struct("=" + "Qd" * _EACH)  # name, moment
_ENTRY = struct.Struct("=Qd")
_SECRET = 16
_SIZE = _SECRET + _BUCKETS * _BUCKET.size
"""Room for 65,536 clients in a megabyte."""


class RateTable:
    """Keeps rates. `now` must be the same clock in all workers and across restarts.

    The file is not mapped: a mapping ends the worker with SIGBUS where the file is cut short.
    """

    def __init__(self, path: Path, now: Callable[[], float]) -> None:
        """Create the file, or use the one that another worker created. Raises OSError."""
        self._now = now
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        lock(self._file, path, fcntl.LOCK_EX)
        try:
            size = os.fstat(self._file).st_size
            if size > _SIZE:  # of another version
                os.ftruncate(self._file, 0)
            if size != _SIZE:
                self._make()
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        os.close(self._file)

    def _make(self) -> None:
        if len(os.pread(self._file, _SECRET, 0)) < _SECRET:
            # Without a secret, a client could choose whose bucket it shares.
            os.pwrite(self._file, os.urandom(_SECRET), 0)
        os.posix_fallocate(self._file, 0, _SIZE)  # or counting would fail once the disk is full

    def take(self, key: str, rate: Rate, count: int = 1) -> int:
        """Return how many of `count` the rate still permits, and use them up."""
        return self._change(key, rate, count)

    def give_back(self, key: str, rate: Rate, count: int) -> None:
        """Undo a `take` that was not used."""
        self._change(key, rate, -count)

    def _change(self, key: str, rate: Rate, count: int) -> int:
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            now = self._now()
            name, start, bucket = self._read(key.encode("utf-8", "surrogateescape"))
            entries = _BUCKET.unpack(bucket)
            place, moment = _find(entries, name)
            if not now < moment <= now + rate.period * 1.001:  # unused, or from before a reboot
                moment = now
            each = rate.period / rate.count
            if count > 0:
                count = max(0, min(count, int((now + rate.period - moment) / each + 1e-6)))
            if count:
                entry = _ENTRY.pack(name, moment + count * each)
                with suppress(OSError):
                    os.pwrite(self._file, entry, start + place * _ENTRY.size)
            return count
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def _read(self, key: bytes) -> tuple[int, int, bytes]:
        """Return the name of a key, and where its bucket is, and the bucket. Whoever finds the file
        cut short restores it; if its secret is gone, all workers find the new one there."""
        secret = bucket = b""
        for _ in range(2):
            with suppress(OSError):
                secret = os.pread(self._file, _SECRET, 0)
            (name,) = struct.unpack("=Q", blake2b(key, digest_size=8, key=secret).digest())
            start = _SECRET + name % _BUCKETS * _BUCKET.size
            with suppress(OSError):
                bucket = os.pread(self._file, _BUCKET.size, start)
                if len(bucket) == _BUCKET.size:
                    break
                self._make()
        return name, start, bucket.ljust(_BUCKET.size, b"\0")


def _find(entries: tuple[float, ...], name: int) -> tuple[int, float]:
    """Return the index and moment of an entry, or the index that it may take."""
    if name in (names := entries[::2]):
        place = names.index(name)
        return place, entries[2 * place + 1]
    moments = entries[1::2]
    return moments.index(min(moments)), 0.0


_OF_CREDENTIALS: Mapping[str, Limit] = {
    "message_rate": "credential_message_rate",
    "recipient_rate": "credential_recipient_rate",
}


class ClientRates:
    """The rates of one listener. An IPv6 client counts by its /64, all of which it may use."""

    def __init__(self, listener: ListenerSettings, table: RateTable) -> None:
        self._name = listener.name
        self._connections = listener.connection_rate
        self._messages = listener.message_rate
        self._recipients = listener.recipient_rate
        self._table = table

    def connection(self, peer: str) -> bool:
        """Count a connection; return whether the rate permits it."""
        rate = self._connections
        return rate is None or bool(self._table.take(self._key("connections", peer), rate))

    def message(self, peer: str, credential: Credential | None) -> Limit | None:
        """Count a message; return the limit that forbids it, or None."""
        own = None if credential is None else credential.message_rate
        return self._take("message_rate", own, self._messages, peer, credential, 1)[1]

    def recipients(
        self, peer: str, credential: Credential | None, count: int
    ) -> tuple[int, Limit | None]:
        """Count permitted recipients; return how many they are, and the limit on the others."""
        own = None if credential is None else credential.recipient_rate
        return self._take("recipient_rate", own, self._recipients, peer, credential, count)

    def _take(
        self,
        limit: Literal["message_rate", "recipient_rate"],
        own: Rate | None,
        common: Rate | None,
        peer: str,
        credential: Credential | None,
        count: int,
    ) -> tuple[int, Limit | None]:
        """What the credential's `own` rate permits but the listener's does not is given back."""
        own_limit = _OF_CREDENTIALS[limit]
        stands: Limit | None = None
        own_key = "" if credential is None else f"{own_limit} {credential.name}"
        taken = count
        if own is not None:
            taken = self._table.take(own_key, own, count)
            stands = own_limit if taken < count else None
        if common is None:
            return taken, stands
        permitted = self._table.take(self._key(limit, peer), common, taken)
        if permitted < taken:
            stands = limit
            if own is not None:
                self._table.give_back(own_key, own, taken - permitted)
        return permitted, stands

    def _key(self, what: str, peer: str) -> str:
        return f"{self._name} {what} {network_of(peer)}"
