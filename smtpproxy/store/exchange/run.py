"""Running an import from the open file to the store, in batches of one commit each."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Generic, Literal, TypeVar

from msgspec import Struct

from smtpproxy.store.exchange.files import RejectedFile, Source
from smtpproxy.store.exchange.lines import Contents, Passed, Read, Rejected
from smtpproxy.store.operations import Checkpoint
from smtpproxy.store.records import BatchResult

T = TypeVar("T")

BATCH_ROWS = 10_000
BATCH_OCTETS = 8 * 1024 * 1024  # of lines; the records take a multiple
_PAUSE = 0.005  # seconds between batches, so that others can write
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
    """Return the format by the file's name (without .rejected), or else by its start."""
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix != ".rejected"]
    known = _SUFFIXES.get(suffixes[-1]) if suffixes else None
    text = start.replace(b"\0", b"").lstrip(b" \t\r\n\xef\xbb\xbf\xff\xfe")  # UTF-16 too
    return known or ("ndjson" if text.startswith(b"{") else "csv")


class Progress(Struct, kw_only=True):
    """What an import has done so far; at the end, its result."""

    lines: int = 0
    added: int = 0
    changed: int = 0
    unchanged: int = 0
    older: int = 0
    erased: int = 0  # people erased before, and left out
    rejected: int = 0
    refusals: int = 0  # in rejected lines, but stored
    passed: int = 0  # rows with nothing to import
    octets: int = 0  # read

    def count(self, result: BatchResult) -> None:
        self.added += result.added
        self.changed += result.changed
        self.unchanged += result.unchanged
        self.older += result.older
        self.erased += result.erased


Put = Callable[[Sequence[T], Checkpoint], Awaitable[BatchResult]]
"""Stores a batch and the checkpoint that the import reaches with it in one commit."""

Look = Callable[[Sequence[T], BatchResult], Awaitable[None]]
"""Receives each batch once it is stored."""


@dataclass(eq=False)
class Import(Generic[T]):
    """Puts the contents of a file into the store.

    `progress` is up to date whenever `tick` is called, and after an interruption: all that it
    counts is committed, and another run can do the rest.
    """

    file: BinaryIO
    contents: Contents[T]
    rejected: RejectedFile
    tick: Callable[[Progress], None]
    progress: Progress = field(default_factory=Progress)  # of an earlier run too
    place: Checkpoint = field(default_factory=Checkpoint)  # that was reached
    _last: int = 0  # line that was read
    _look: Look[T] | None = None

    async def into(self, put: Put[T], look: Look[T] | None = None) -> None:
        """Raises what `look` raises, and what `put` raises, except ValueError."""
        self._look = look
        batch: list[Read[T]] = []
        octets = 0
        behind = self.place.line
        self.rejected.header = self.contents.header
        for item in self.contents.items:
            if item.number <= behind:
                continue
            # Only when the next line has been read: its number shows how far the batch reaches.
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
        self.rejected.flush()
        self.place = self._reached(self._last)
        self._report()

    async def _store(self, put: Put[T], batch: Sequence[Read[T]], line: int | None) -> None:
        """Store a batch that reaches to `line`; None: further parts of the batch follow."""
        self.rejected.flush()
        place = self.place if line is None else self._reached(line)
        try:
            items = [item.value for item in batch]
            result = await put(items, place)
            self.progress.count(result)
            self.place = place
            await asyncio.sleep(_PAUSE)
        except ValueError as error:
            # Find the entries that the store itself refuses.
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
            self.file.tell(),
            self.file.digest() if isinstance(self.file, Source) else "",
            progress.lines,
            progress.rejected,
            progress.passed,
            self.rejected.size,
            progress.refusals,
        )

    def _reject(self, rejected: Rejected) -> None:
        self.rejected.write(rejected)
        self.progress.rejected += 1

    def _report(self) -> None:
        self.progress.octets = self.file.tell()
        self.tick(self.progress)
