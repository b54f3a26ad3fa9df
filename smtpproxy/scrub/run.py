"""A list on its way: read, judged some thousand lines at a time, written in its order."""

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from msgspec.structs import replace

from smtpproxy.policy.model import (
    Action,
)
from smtpproxy.scrub.formats import AddressList, Entry
from smtpproxy.scrub.verdicts import Counts, ScrubRequest, judge_addresses
from smtpproxy.store.exchange.lines import Rejected
from smtpproxy.store.protocols import FactReader

_LEAST = 1 << 12
_SIZE_BITS = 0xFFFF_FFFF_FFFF_FFFF


class Seen:
    """A set of 64-bit hashes with open addressing in one flat array.

    A set of Python objects would take five times as much. Of a million addresses, two
    different ones share a hash once in some 40 million lists; then one is wrongly marked a
    duplicate, and its verdict is its own all the same.
    """

    def __init__(self) -> None:
        self._table = array("Q", [0]) * _LEAST
        self._mask = _LEAST - 1
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, address: str) -> bool:
        """Return whether it was there before."""
        # Python's own hash of text is SipHash under a random key: nobody can aim at it.
        mark = (hash(address) & _SIZE_BITS) or 1  # 0 is an empty place
        if self._put(self._table, self._mask, mark):
            return True
        self._count += 1
        if 2 * self._count > self._mask:
            self._grow()
        return False

    @staticmethod
    def _put(table: "array[int]", mask: int, mark: int) -> bool:
        place = mark & mask
        while found := table[place]:
            if found == mark:
                return True
            place = (place + 1) & mask
        table[place] = mark
        return False

    def _grow(self) -> None:
        size = 2 * (self._mask + 1)
        table = array("Q", [0]) * size
        for mark in self._table:
            if mark:
                self._put(table, size - 1, mark)
        self._table, self._mask = table, size - 1


BATCH_LINES = 4_000
BATCH_OCTETS = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Outputs:
    """Where lines go: all of them, those who may be mailed, all others."""

    every: Sequence[BinaryIO] = ()
    allowed: Sequence[BinaryIO] = ()
    refused: Sequence[BinaryIO] = ()  # and deferred

    @property
    def _files(self) -> Sequence[BinaryIO]:
        return (*self.every, *self.allowed, *self.refused)

    def write_header(self, header: bytes | None) -> None:
        if header is not None:
            for file in self._files:
                file.write(header + b"\n")

    def flush(self) -> None:
        for file in self._files:
            file.flush()


class Scrub:
    """Judges a list; `counts` is up to date whenever `tick` is called."""

    def __init__(
        self,
        addresses: AddressList,
        request: ScrubRequest,
        outputs: Outputs,
        reject: Callable[[Rejected], None],
        tick: Callable[[Counts], None],
    ) -> None:
        self._list = addresses
        self._request = request
        self._outputs = outputs
        self._reject = reject
        self._tick = tick
        self._seen = Seen()
        self.counts = Counts()

    async def through(self, store: FactReader) -> None:
        """Raises StoreUnavailable, or OSError when an output cannot be written."""
        self._outputs.write_header(self._list.header)
        batch: list[Entry] = []
        octets = 0
        for item in self._list.items:
            if isinstance(item, Rejected):
                self.counts.unreadable += 1
                self._reject(item)
                continue
            batch.append(item.value)
            octets += len(item.content)
            if len(batch) == BATCH_LINES or octets >= BATCH_OCTETS:
                await self._judge(store, batch)
                batch, octets = [], 0
        if batch:
            await self._judge(store, batch)
        self._outputs.flush()
        self._tick(self.counts)

    async def _judge(self, store: FactReader, batch: Sequence[Entry]) -> None:
        addresses = [entry.address for entry in batch]
        verdicts = await judge_addresses(store, self._request, addresses)
        every: list[bytes] = []
        allowed: list[bytes] = []
        refused: list[bytes] = []
        for entry, judged in zip(batch, verdicts, strict=True):
            if self._seen.add(entry.address):
                judged = replace(judged, duplicate=True)
            self.counts.add(judged)
            line = entry.start + self._list.ending(judged)
            every.append(line)
            (allowed if judged.verdict.action is Action.ALLOW else refused).append(line)
        outputs = self._outputs
        for files, lines in (
            (outputs.every, every),
            (outputs.allowed, allowed),
            (outputs.refused, refused),
        ):
            for file in files:
                file.write(b"".join(lines))
        self._tick(self.counts)
