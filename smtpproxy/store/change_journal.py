"""The journal of changes: what stops mail to people, on record outside the database as well.

A database that is restored from a backup knows nothing of what came after that; these files do.
`changes-YYYY-MM.ndjson`, beside the audit log, an object a line. Each line holds the SHA-256 of
the line before, so that a missing or altered one shows. No line names an address: as in the
database there are keys alone. docs/adr/0033-backup.md says why it is written as it is.
"""

import fcntl
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from smtpproxy.disk import sync_folder
from smtpproxy.policy.model import Frequency
from smtpproxy.store.key_files import give_to_owner_of

FOLDER = "audit"
"""Where the journal is, in `state_dir`."""
LOCK_NAME = "changes.lock"
_NAME = re.compile(r"changes-\d{4}-\d\d\.ndjson")
_NOTHING = "0" * 64
_LONGEST = 64 * 1024  # octets of a line
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

Mark = tuple[int, int]
"""The numbers of the newest change of suppressions and of the newest refusal on record."""
Refusal = Literal["withdrawn", "restricted", "wished", "profiling_objected"]
Action = (
    Literal["added", "moved", "lifted", "backup", "import_undone", "paused", "resumed"] | Refusal
)


class Position(Struct, frozen=True):
    """A line of the journal: its number, and the SHA-256 of it without its line end."""

    n: int = 0
    hash: str = _NOTHING


class Change(Struct, frozen=True, omit_defaults=True):
    """What happened to a suppression, or what a contact refuses; that a backup was begun, the
    import of an `id` undone, or a stream, or all of a brand, paused or resumed.

    `key` stands for the address, as in an export of suppressions. `since` is from when that
    holds. `withdrawn`: consent to `purpose`; `brand`: from that one alone. `restricted`: by
    `tag`. `wished`: mail of `purpose` of `brand` no more often than `frequency`. `paused`: what
    `scope` names, for the cause `origin`, until `since`.
    """

    at: datetime
    action: Action
    key: str = ""
    scope: str = ""
    origin: str = ""
    since: datetime | None = None
    purpose: str = ""
    brand: str | None = None
    tag: str = ""
    frequency: Frequency | None = None
    id: str = ""


class Line(Struct, frozen=True):
    """A change in its place. `mark`: all that the database has on record up to it is here."""

    n: int
    after: str
    mark: Mark
    change: Change


class JournalGap(Exception):
    """The journal does not lead on from where it should; the text says what is missing."""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Line).decode


class Journal:
    """The journal of a folder; whoever writes holds its lock."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other writers away; waits until it is free. Raises OSError."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(self._folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            give_to_owner_of(self._folder.parent, self._folder)
            give_to_owner_of(self._folder, self._folder / LOCK_NAME)
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        finally:
            os.close(file)

    def end(self) -> tuple[Position, Mark]:
        """Return the last line's position and mark; those of nothing where there is none.

        Raises OSError, JournalGap: no line of the newest file can be read.
        """
        for path in reversed(files(self._folder)):
            raw = _last_line(path)
            if raw is not None:
                return Position((line := _read(raw, path)).n, _hash(raw)), line.mark
        return Position(), (0, 0)

    def append(self, changes: Sequence[tuple[Change, Mark]], at: datetime) -> Position:
        """Add changes and put them on the disk. The holder of the lock calls it. Raises OSError."""
        position, _ = self.end()
        lines = []
        for change, mark in changes:
            raw = _encode(Line(position.n + 1, position.hash, mark, change))
            position = Position(position.n + 1, _hash(raw))
            lines.append(raw)
        path = self._folder / f"changes-{at:%Y-%m}.ndjson"
        newest = next(reversed(files(self._folder)), path)
        path = max(path, newest)  # where the clock was set back
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        file = os.open(path, flags, 0o600)
        try:
            size = _whole(path)
            os.ftruncate(file, size)  # what a crash cut short was told to nobody
            data = b"\n".join(lines) + b"\n"
            written = os.write(file, data)
            if written != len(data):
                os.ftruncate(file, size)
                raise OSError(None, f"only {written} of {len(data)} octets were written", str(path))
            os.fsync(file)
            if size == 0:
                give_to_owner_of(self._folder, path)
                sync_folder(self._folder)
        finally:
            os.close(file)
        return position

    def expire(self, before: datetime) -> int:
        """Remove the files of whole months before then; return how many. Raises OSError."""
        kept = f"changes-{before:%Y-%m}.ndjson"
        if not self._folder.is_dir():
            return 0
        with self.locked():
            gone = [path for path in files(self._folder)[:-1] if path.name < kept]
            for path in gone:
                path.unlink()
        return len(gone)

    def after(self, position: Position) -> Iterator[Line]:
        """Yield what follows a position, in order, and prove it on the way.

        Raises OSError, JournalGap.
        """
        expected, proven = position, position.n == 0
        found: Position | None = None
        for path in files(self._folder):
            for raw in _lines(path):
                line = _read(raw, path)
                found = Position(line.n, _hash(raw))
                if line.n < position.n:
                    continue
                if line.n == position.n and not proven:
                    if found.hash != position.hash:
                        raise JournalGap(
                            f"{path}: change {line.n} is another than when the backup was made:"
                            " this is the journal of another relay, or it was altered"
                        )
                    proven = True
                    continue
                if line.n != expected.n + 1:
                    raise JournalGap(f"{path}: {_missing(expected.n + 1, line.n - 1)}")
                if line.after != expected.hash:
                    raise JournalGap(
                        f"{path}: change {line.n} does not follow from the one before it:"
                        " one of the two was altered, or is of another relay"
                    )
                expected, proven = found, True
                yield line
        if found is None:
            raise JournalGap(f"{self._folder}: there is no journal of changes")
        if not proven:
            raise JournalGap(
                f"{self._folder}: the journal ends with change {found.n}, before the backup"
                f" (change {position.n}): it is an older copy"
            )

    def readable(self, n: int) -> Iterator[Line]:
        """Yield whatever can be read with a higher number, proven or not. Raises OSError."""
        for path in files(self._folder):
            with path.open("rb") as file:
                while raw := file.readline(_LONGEST):
                    with suppress(*_UNREADABLE):
                        line = _decode(raw)
                        if line.n > n:
                            yield line


def files(folder: Path) -> list[Path]:
    """Return the files of the journal in a folder, the oldest first."""
    return sorted(path for path in folder.glob("changes-*.ndjson") if _NAME.fullmatch(path.name))


def _missing(first: int, last: int) -> str:
    return (
        f"change {first} is missing" if last <= first else f"changes {first} to {last} are missing"
    )


def _hash(raw: bytes) -> str:
    return sha256(raw).hexdigest()


def _read(raw: bytes, path: Path) -> Line:
    try:
        return _decode(raw)
    except _UNREADABLE as error:
        raise JournalGap(f"{path}: a line cannot be read ({error})") from None


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while raw := file.readline(_LONGEST):
            if not raw.endswith(b"\n"):
                if len(raw) == _LONGEST:
                    raise JournalGap(f"{path}: a line is longer than {_LONGEST} octets")
                return  # it is being written, or was cut short: it was told to nobody
            yield raw[:-1]


def _whole(path: Path) -> int:
    """Return how many octets of a file are whole lines."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - _LONGEST))
        tail = file.read(_LONGEST)
    return size - len(tail) + tail.rfind(b"\n") + 1


def _last_line(path: Path) -> bytes | None:
    end = _whole(path)
    with path.open("rb") as file:
        file.seek(max(0, end - _LONGEST))
        tail = file.read(min(end, _LONGEST))
    return tail[:-1].rpartition(b"\n")[2] if tail else None
