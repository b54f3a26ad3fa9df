"""An import, from the opened file to the store: batch by batch, one commit each."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Generic, Literal, TypeVar

from smtpproxy.store.exchange.files import RejectedFile, Source
from smtpproxy.store.exchange.lines import Contents, Passed, Read, Rejected
from smtpproxy.store.operations import Checkpoint
from smtpproxy.store.protocols import BatchResult

T = TypeVar("T")

BATCH_ROWS = 10_000
BATCH_OCTETS = 8 * 1024 * 1024  # of lines; what is made of them takes a multiple
_PAUSE = 0.005  # seconds between batches: others get their writes in
_TICK = 500  # lines between two reports of progress

Format = Literal["csv", "ndjson"]
_SUFFIXES: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".xlsx": "csv",
    ".json": "ndjson",
    ".jsonl": "ndjson",
    ".ndjson": "ndjson",
}


def format_of(path: Path, start: bytes) -> Format:
    """Tell the format by the file's name (without .rejected), or else by how it starts."""
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix != ".rejected"]
    known = _SUFFIXES.get(suffixes[-1]) if suffixes else None
    text = start.replace(b"\0", b"").lstrip(b" \t\r\n\xef\xbb\xbf\xff\xfe")  # UTF-16 too
    return known or ("ndjson" if text.startswith(b"{") else "csv")


@dataclass(slots=True, kw_only=True)
class Progress:
    """What an import has done so far, and at its end its result."""

    lines: int = 0
    added: int = 0
    changed: int = 0
    unchanged: int = 0
    older: int = 0
    erased: int = 0  # left out
    rejected: int = 0
    refusals: int = 0  # of rejected lines, taken in all the same
    passed: int = 0  # rows that are of no suppression, or of nobody to be mailed
    octets: int = 0  # read

    def count(self, result: BatchResult) -> None:
        self.added += result.added
        self.changed += result.changed
        self.unchanged += result.unchanged
        self.older += result.older
        self.erased += result.erased


Put = Callable[[Sequence[T], Checkpoint], Awaitable[BatchResult]]
"""Takes a batch in, in one commit with the place that the import has reached by it."""

Look = Callable[[Sequence[T], BatchResult], Awaitable[None]]
"""Looks at a batch that was taken in."""


class Import(Generic[T]):
    """Takes the contents of a file into the store.

    `progress` is up to date whenever `tick` is called, and after an interruption: all
    that it counts is committed, and another run does the rest.
    """

    def __init__(
        self,
        file: BinaryIO,
        contents: Contents[T],
        rejected: RejectedFile,
        tick: Callable[[Progress], None],
        *,
        done: Progress | None = None,
        place: Checkpoint | None = None,
    ) -> None:
        """`done` and `place`: what an earlier run did, and how far it came."""
        self._file = file
        self._contents = contents
        self._rejected = rejected
        self._tick = tick
        self._last = 0  # line that was looked at
        self._look: Look[T] | None = None
        self.place = place or Checkpoint()
        self.progress = done or Progress()

    async def into(self, put: Put[T], look: Look[T] | None = None) -> None:
        """Raises what `put` raises when the store cannot take a batch, and what `look` raises."""
        self._look = look
        batch: list[Read[T]] = []
        octets = 0
        behind = self.place.line
        self._rejected.header = self._contents.header
        for item in self._contents.items:
            if item.number <= behind:
                continue
            # Not before the next line is there: it tells how far the batch reaches.
            full = len(batch) >= BATCH_ROWS or octets >= BATCH_OCTETS
            if full and item.number > self._last:
                await self._store(put, batch, item.number - 1)
                batch, octets = [], 0
            self._last = item.number
            self.progress.lines += 1
            if self.progress.lines % _TICK == 0:
                self._report()
            if isinstance(item, Rejected):
                self._reject(item)
                if item.refusal is not None:
                    batch.append(Read(item.number, item.refusal, b""))
                    self.progress.refusals += 1
            elif isinstance(item, Passed):
                self.progress.passed += 1
            else:
                batch.append(item)
                octets += len(item.content)
        if batch:
            await self._store(put, batch, self._last)
        self._rejected.flush()
        self.place = self._reached(self._last)
        self._report()

    async def _store(self, put: Put[T], batch: Sequence[Read[T]], line: int | None) -> None:
        """Store a batch that reaches to `line`; None: others that belong to it are to come."""
        self._rejected.flush()
        place = self.place if line is None else self._reached(line)
        try:
            items = [item.value for item in batch]
            result = await put(items, place)
            self.progress.count(result)
            self.place = place
            await asyncio.sleep(_PAUSE)
        except ValueError as error:
            # Find the entries that the store itself does not take.
            if len(batch) == 1:
                self._reject(Rejected(batch[0].number, str(error), (batch[0].content,)))
                return
            half = len(batch) // 2
            await self._store(put, batch[:half], None)
            await self._store(put, batch[half:], line)
        else:
            if self._look is not None:
                await self._look(items, result)
        self._report()

    def _reached(self, line: int) -> Checkpoint:
        progress = self.progress
        return Checkpoint(
            line,
            self._file.tell(),
            self._file.digest() if isinstance(self._file, Source) else "",
            progress.lines,
            progress.rejected,
            progress.passed,
            self._rejected.size,
            progress.refusals,
        )

    def _reject(self, rejected: Rejected) -> None:
        self._rejected.write(rejected)
        self.progress.rejected += 1

    def _report(self) -> None:
        self.progress.octets = self._file.tell()
        self._tick(self.progress)
