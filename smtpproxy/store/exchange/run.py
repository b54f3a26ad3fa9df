"""An import, from the opened file to the store: batch by batch, one commit each."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Generic, Literal, TypeVar

from smtpproxy.store.exchange.lines import Contents, Passed, Read, Rejected
from smtpproxy.store.exchange.rejected import RejectedFile
from smtpproxy.store.protocols import BatchResult

T = TypeVar("T")

BATCH_ROWS = 10_000
BATCH_OCTETS = 8 * 1024 * 1024  # of lines; what is made of them takes a multiple
_TICK = 500  # lines between two reports of progress

Format = Literal["csv", "ndjson"]
_SUFFIXES: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".json": "ndjson",
    ".jsonl": "ndjson",
    ".ndjson": "ndjson",
}


def format_of(path: Path, start: bytes) -> Format:
    """Tell the format by the file's name (without .rejected), or else by how it starts."""
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix != ".rejected"]
    known = _SUFFIXES.get(suffixes[-1]) if suffixes else None
    return known or ("ndjson" if start.lstrip().startswith((b"{", b"\xef\xbb\xbf{")) else "csv")


@dataclass(slots=True)
class Progress:
    """What an import has done so far, and at its end its result."""

    lines: int = 0
    added: int = 0
    changed: int = 0
    unchanged: int = 0
    older: int = 0
    rejected: int = 0
    passed: int = 0  # rows that are of no suppression, or of nobody to be mailed
    octets: int = 0  # read

    def count(self, result: BatchResult) -> None:
        self.added += result.added
        self.changed += result.changed
        self.unchanged += result.unchanged
        self.older += result.older


Put = Callable[[Sequence[T]], Awaitable[BatchResult]]


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
    ) -> None:
        self._file = file
        self._contents = contents
        self._rejected = rejected
        self._tick = tick
        self.progress = Progress()

    async def into(self, put: Put[T]) -> None:
        """Raises what `put` raises when the store cannot take a batch."""
        batch: list[Read[T]] = []
        octets = 0
        self._rejected.header = self._contents.header
        for item in self._contents.items:
            self.progress.lines += 1
            if self.progress.lines % _TICK == 0:
                self._report()
            if isinstance(item, Rejected):
                self._reject(item)
                continue
            if isinstance(item, Passed):
                self.progress.passed += 1
                continue
            batch.append(item)
            octets += len(item.content)
            if len(batch) == BATCH_ROWS or octets >= BATCH_OCTETS:
                await self._store(put, batch)
                batch, octets = [], 0
        if batch:
            await self._store(put, batch)
        self._report()

    async def _store(self, put: Put[T], batch: list[Read[T]]) -> None:
        try:
            self.progress.count(await put([item.value for item in batch]))
        except ValueError:
            await self._store_one_by_one(put, batch)
        self._rejected.flush()
        self._report()

    async def _store_one_by_one(self, put: Put[T], batch: list[Read[T]]) -> None:
        """Find the entries that the store itself does not take."""
        for item in batch:
            try:
                self.progress.count(await put([item.value]))
            except ValueError as error:
                self._reject(Rejected(item.number, str(error), (item.content,)))

    def _reject(self, rejected: Rejected) -> None:
        self._rejected.write(rejected)
        self.progress.rejected += 1

    def _report(self) -> None:
        self.progress.octets = self._file.tell()
        self._tick(self.progress)
