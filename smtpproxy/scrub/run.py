"""Runs a scrub: read the list, judge some thousand lines at a time, write them in order."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct
from msgspec.structs import replace

from smtpproxy.disk import exists, is_file
from smtpproxy.drafts import Drafts
from smtpproxy.policy.model import Action
from smtpproxy.scrub.formats import AddressList, Entry
from smtpproxy.scrub.marked import MarkedAddresses
from smtpproxy.scrub.verdicts import Counts, ScrubRequest, judge_addresses
from smtpproxy.store.exchange.files import OF_A_SCRUB, RejectedFile, is_of_a_scrub
from smtpproxy.store.exchange.lines import ImportFault, Rejected
from smtpproxy.store.records import FactReader

_REPORTED = 5


@dataclass(eq=False)
class Unreadable:
    """Collects unreadable lines in a FILE.rejected; without a path, reports the first few.

    `header` is that of the list. `report` gets the number and fault of a line, which hold nothing
    of the line itself. Only a file that a scrub wrote is overwritten: that of an import may hold
    lines that somebody is correcting. `usual`: nobody chose the name, so a file of an earlier scrub
    goes if nothing is unreadable.
    """

    drafts: Drafts
    path: Path | None
    report: Callable[[str], None]
    usual: bool = False

    def __post_init__(self) -> None:
        self.header: bytes | None = None
        self._file: RejectedFile | None = None
        self._count = 0

    def put(self, rejected: Rejected) -> None:
        self._count += 1
        if self.path is not None:
            if self._file is None:
                self._file = self._opened(self.path)
                self._file.header = self.header
            self._file.write(replace(rejected, reason=f"{rejected.reason} {OF_A_SCRUB}"))
        elif self._count <= _REPORTED:
            self.report(f"line {rejected.number}: {rejected.reason}")
        elif self._count == _REPORTED + 1:
            self.report("more lines cannot be read; --rejected FILE saves them with their reasons")

    def _opened(self, path: Path) -> RejectedFile:
        if exists(path) and not is_file(path):
            return RejectedFile(path)
        if exists(path) and path.stat().st_size and not is_of_a_scrub(path):
            raise ImportFault(
                f"{path} exists, and no scrub wrote it; move it away, or name another one with"
                " --rejected"
            )
        return RejectedFile(self.drafts.reserve(path))

    def close(self) -> None:
        """Finish the file; without unreadable lines, remove that of an earlier run."""
        if self._file is not None:
            self._file.close()
        elif self.usual and self.path is not None:
            with suppress(PermissionError):  # another user's stays
                if is_of_a_scrub(self.path):
                    self.path.unlink()


BATCH_LINES = 4_000
BATCH_OCTETS = 8 * 1024 * 1024


class Output(Struct, frozen=True):
    """A file for all lines, or for those of people who may be mailed (`allowed`) or may not."""

    file: BinaryIO
    allowed: bool | None = None


@dataclass(eq=False)
class Scrub:
    """Judges a list; `counts` is up to date whenever `tick` is called."""

    addresses: AddressList
    request: ScrubRequest
    outputs: Sequence[Output]
    reject: Callable[[Rejected], None]
    tick: Callable[[Counts], None]

    def __post_init__(self) -> None:
        self._seen = MarkedAddresses("B")
        self.counts = Counts()

    async def through(self, store: FactReader) -> None:
        """Judge the whole list. Raises StoreUnavailable, or OSError for an output."""
        if self.addresses.header is not None:
            for output in self.outputs:
                output.file.write(self.addresses.header + b"\n")
        batch: list[Entry] = []
        octets = 0
        for item in self.addresses.items:
            if isinstance(item, Rejected):
                self.counts.unreadable += 1
                self.reject(item)
                continue
            batch.append(item.value)
            octets += len(item.content)
            if len(batch) == BATCH_LINES or octets >= BATCH_OCTETS:
                await self._judge(store, batch)
                batch, octets = [], 0
        if batch:
            await self._judge(store, batch)
        for output in self.outputs:
            output.file.flush()
        self.tick(self.counts)

    async def _judge(self, store: FactReader, batch: Sequence[Entry]) -> None:
        addresses = [entry.address for entry in batch]
        verdicts = await judge_addresses(store, self.request, addresses)
        lines: list[tuple[bool, bytes]] = []
        for entry, judged in zip(batch, verdicts, strict=True):
            if self._seen.put(entry.address, 1):
                judged = replace(judged, duplicate=True)
            self.counts.add(judged)
            line = entry.start + self.addresses.ending(judged)
            lines.append((judged.verdict.action is Action.ALLOW, line))
        for output in self.outputs:
            wanted = [line for allowed, line in lines if output.allowed in (None, allowed)]
            output.file.write(b"".join(wanted))
        self.tick(self.counts)
