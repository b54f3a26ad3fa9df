"""A list on its way: read, judged some thousand lines at a time, written in its order."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from msgspec.structs import replace

from smtpproxy.policy.model import Action
from smtpproxy.scrub.counts import Counts
from smtpproxy.scrub.formats import AddressList, Entry
from smtpproxy.scrub.seen import Seen
from smtpproxy.scrub.verdicts import Occasion, judge_addresses
from smtpproxy.store.exchange.lines import Rejected
from smtpproxy.store.protocols import FactReader

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
        occasion: Occasion,
        outputs: Outputs,
        reject: Callable[[Rejected], None],
        tick: Callable[[Counts], None],
    ) -> None:
        self._list = addresses
        self._occasion = occasion
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
        verdicts = await judge_addresses(store, self._occasion, addresses)
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
