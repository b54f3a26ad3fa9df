"""The maildir of reports. Other programs may deliver into it, too.

`new` holds reports that came, `cur` those that were read. A report is durable once it is in
`new`, and moves to `cur` once it has been acted on.
"""

import asyncio
import os
import re
import time
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import structlog
from msgspec import Struct

from smtpproxy.disk import exists, give_to_owner_of, is_dir, sync_path
from smtpproxy.store.feedback import FeedbackLog, ReadReport

log = structlog.get_logger(__name__)

_OURS = re.compile("[0-9A-Z]{26}")
"""The names that `deliver` gives: ULIDs. Their files are always complete."""
_QUIET = 0.5  # seconds

_READ = ":2,S"
"""The suffix of a message's name that marks it as seen, in every maildir."""


class Arrived(Struct, frozen=True):
    """A message in the maildir. `size` is its full size; `content` may be cut short."""

    id: str
    at: datetime
    size: int
    content: bytes


class Maildir:
    """Methods raise OSError."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._logged: set[Path] = set()  # files that cannot be read
        self._tmp, self._new, self._cur = (folder / name for name in ("tmp", "new", "cur"))

    def make(self) -> None:
        for folder in (self._folder, self._tmp, self._new, self._cur):
            if not is_dir(folder):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                give_to_owner_of(folder.parent, folder)

    def deliver(self, id: str, content: bytes) -> None:
        """Add a message to `new`; it is durable when this returns."""
        self._write(id, content, self._new / id)

    def keep(self, id: str, content: bytes) -> None:
        """Add a copy of a message that was read elsewhere to `cur`, unless there is one."""
        if not exists(self._cur / (id + _READ)):
            self._write(id, content, self._cur / (id + _READ), sync=False)

    def arrived(
        self, limit: int, most: int, but: Container[str] = frozenset()
    ) -> Sequence[Arrived]:
        """Return some messages from `new`, at most `most` octets of each, except ids in `but`.

        A very recent file of another program is left for later: it may be incomplete, unless it was
        moved there as a maildir requires.
        """
        with os.scandir(self._new) as entries:
            found = (entry.name for entry in entries if _is_message(entry))
            wanted = (name for name in found if name.partition(":")[0] not in but)
            names = sorted(islice(wanted, 100 * limit))
        paths = (self._new / name for name in names if not _may_grow(self._new / name))
        read = (self._read(path, path.name.partition(":")[0], most) for path in paths)
        return list(islice((each for each in read if each is not None), limit))

    def waiting(self, most: int) -> int:
        """Return the number of messages that have not been read yet, `most` at most."""
        with os.scandir(self._new) as entries:
            return sum(1 for _ in islice(filter(_is_message, entries), most))

    def settle(self, id: str) -> None:
        """Move a message to `cur`, once it has been acted on and that is on record."""
        target = self._cur / (id + _READ)
        try:
            (self._new / id).replace(target)
        except FileNotFoundError:
            for path in self._with_flags(self._new, (id,)):
                with suppress(FileNotFoundError):
                    path.replace(target)

    def give_back(self, id: str) -> None:
        """Move a message back to `new`, so that it is read again."""
        usual = self._cur / (id + _READ)
        for path in (usual,) if exists(usual) else self._with_flags(self._cur, (id,)):
            path.replace(self._new / id)

    def settled(self) -> Iterator[str]:
        """Yield the ids of the messages that were read."""
        with os.scandir(self._cur) as entries:
            for entry in entries:
                if _is_message(entry):
                    yield entry.name.partition(":")[0]

    def read(self, id: str, most: int) -> Arrived | None:
        """Return a message that was read before, or None if it is gone.

        It may just be moving from `new` to `cur`.
        """
        for folder in (self._new, self._cur, self._new, self._cur):
            for name in (id, id + _READ):
                found = self._read(folder / name, id, most)
                if found is not None:
                    return found
        for path in (*self._with_flags(self._new, (id,)), *self._with_flags(self._cur, (id,))):
            return self._read(path, id, most)
        return None

    def remove(self, ids: Iterable[str]) -> None:
        """Remove messages that were read; some may be gone."""
        unusual = set()
        for id in ids:
            try:
                (self._cur / (id + _READ)).unlink()
            except FileNotFoundError:
                unusual.add(id)
        if unusual:
            for path in self._with_flags(self._cur, unusual):
                path.unlink(missing_ok=True)

    def _with_flags(self, folder: Path, ids: Container[str]) -> list[Path]:
        """Return messages under the names that other programs give them, which is rare."""
        try:
            with os.scandir(folder) as entries:
                return [folder / e.name for e in entries if e.name.partition(":")[0] in ids]
        except FileNotFoundError:
            return []

    def _read(self, path: Path, id: str, most: int) -> Arrived | None:
        try:
            with path.open("rb") as file:
                about = os.fstat(file.fileno())
                content = file.read(most)
        except FileNotFoundError:
            return None
        except PermissionError as error:
            if path not in self._logged:
                self._logged.add(path)
                log.error("report cannot be read", path=str(path), error=error.strerror)
            return None
        at = min(datetime.fromtimestamp(about.st_mtime, UTC), datetime.now(UTC))
        return Arrived(id, at, about.st_size, content)

    def _write(self, id: str, content: bytes, target: Path, *, sync: bool = True) -> None:
        aside = self._tmp / id
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            give_to_owner_of(self._folder, aside)
            aside.replace(target)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        if sync:
            sync_path(target.parent)


def _may_grow(path: Path) -> bool:
    if _OURS.fullmatch(path.name) is not None:
        return False
    try:
        return 0 <= time.time() - path.stat().st_mtime < _QUIET
    except OSError:
        return False


def _is_message(entry: "os.DirEntry[str]") -> bool:
    return not entry.name.startswith(".") and entry.is_file(follow_symlinks=False)


_MOST = 100 * 1024 * 1024  # octets of a report


async def reports_about(log: FeedbackLog, maildir: Maildir, address: str) -> Sequence[ReadReport]:
    """Return the reports that concern a canonical address, and kept ones that name it, by time.

    Raises StoreUnavailable, OSError.
    """
    found = {one.id: one for one in await log.about(address)}
    named, kept = address.encode().lower(), await log.kept()

    def naming() -> list[ReadReport]:
        reports = ((one, maildir.read(one.id, _MOST)) for one in kept)
        return [one for one, read in reports if read and named in read.content.lower()]

    found |= {one.id: one for one in await asyncio.to_thread(naming)}
    return sorted(found.values(), key=lambda one: (one.at, one.id))
