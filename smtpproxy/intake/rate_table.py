"""How much was used of which rate, for all workers together.

A file of fixed size that every worker has mapped: what one client sends is counted in one
place, whichever worker has its connections. Each entry is one number, the moment at which the
rate will be unused again (the generic cell rate algorithm), so nothing has to be swept: what
lies in the past is free. When a bucket is full of others, the one that is free soonest goes.
"""

import fcntl
import mmap
import os
import struct
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path

from smtpproxy.settings import Rate

_BUCKETS, _EACH = 8_192, 8
_BUCKET = struct.Struct("=" + "Qd" * _EACH)  # name, moment
_ENTRY = struct.Struct("=Qd")
_SECRET = 16
_SIZE = _SECRET + _BUCKETS * _BUCKET.size
"""Room for 65,536 clients in a megabyte."""


class RateTable:
    """Keeps rates. `now` has to be one clock for all workers and across restarts."""

    def __init__(self, path: Path, now: Callable[[], float]) -> None:
        """Make the file, or use what another worker made. Raises OSError."""
        self._now = now
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            if os.fstat(self._file).st_size != _SIZE:
                os.ftruncate(self._file, 0)
                os.pwrite(self._file, os.urandom(_SECRET), 0)
                os.ftruncate(self._file, _SIZE)
            self._map = mmap.mmap(self._file, _SIZE)
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)
        self._secret = self._map[:_SECRET]  # or somebody could choose who shares a bucket

    def close(self) -> None:
        self._map.close()
        os.close(self._file)

    def take(self, key: str, rate: Rate, count: int = 1) -> int:
        """Return how many of `count` the rate still permits, and count these as used."""
        return self._change(key, rate, count)

    def give_back(self, key: str, rate: Rate, count: int) -> None:
        """What was taken was not used."""
        self._change(key, rate, -count)

    def _change(self, key: str, rate: Rate, count: int) -> int:
        digest = blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8, key=self._secret)
        (name,) = struct.unpack("=Q", digest.digest())
        start = _SECRET + name % _BUCKETS * _BUCKET.size
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            now = self._now()
            entries = _BUCKET.unpack_from(self._map, start)
            place, moment = _find(entries, name)
            if not now < moment <= now + rate.period * 1.001:  # unused, or of a time before a boot
                moment = now
            each = rate.period / rate.count
            if count > 0:
                count = min(count, int((now + rate.period - moment) / each + 1e-6))
            if count:
                _ENTRY.pack_into(
                    self._map, start + place * _ENTRY.size, name, moment + count * each
                )
            return count
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)


def _find(entries: tuple[float, ...], name: int) -> tuple[int, float]:
    """Return the place of an entry and its moment, or the place that it may have."""
    if name in (names := entries[::2]):
        place = names.index(name)
        return place, entries[2 * place + 1]
    moments = entries[1::2]
    return moments.index(min(moments)), 0.0
