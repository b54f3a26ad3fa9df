"""The journal of changes: a record, outside the database, of everything that stops mail to people.

A database restored from a backup lacks all later changes; these files have them. They are
`changes-YYYY-MM.ndjson`, beside the audit log, with an object a line. Each line holds the SHA-256
of the line before, so that a missing or altered one is detected. As in the database, there are
keys and no addresses. docs/adr/0033-backup.md has the reasons for the format.
"""

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

from smtpproxy.disk import give_to_owner_of, is_dir, locked, sync_path
from smtpproxy.policy.model import Frequency

FOLDER = "audit"
"""The journal's folder in `state_dir`."""
_NAME = re.compile(r"changes-\d{4}-\d\d\.ndjson")
_NOTHING = "0" * 64
_LONGEST = 64 * 1024  # octets of a line
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

Mark = tuple[int, int]
"""The numbers of the newest change of a suppression and of the newest refusal on record."""
Refusal = Literal["withdrawn", "restricted", "wished", "profiling_objected"]
Action = (
    Literal["added", "moved", "lifted", "backup", "import_undone", "paused", "resumed"] | Refusal
)


class Position(Struct, frozen=True):
    """A line of the journal: its number, and its SHA-256 without the line end."""

    n: int = 0
    hash: str = _NOTHING


class Change(Struct, frozen=True, omit_defaults=True):
    """A change of a suppression, a contact's refusal, the start of a backup, the undoing of import
    `id`, or the pausing or resuming of a stream or a brand.

    `key` replaces the address, as in an export of suppressions. `since` is when it takes effect.
    `withdrawn`: consent to `purpose`, from `brand` alone if that is given. `restricted`: by
    `tag`. `wished`: mail for `purpose` of `brand` no more often than `frequency`. `paused`: the
    stream or brand `scope`, for the cause `origin`, until `since`.
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
    """A change with its number. The journal is complete up to `mark` in the database."""

    n: int
    after: str
    mark: Mark
    change: Change


class JournalGap(Exception):
    """The journal does not continue from a position; the text says what is missing."""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Line).decode


class Journal:
    """The journal in a folder; writers hold its lock."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock out other writers, after waiting for them. Raises OSError."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        give_to_owner_of(self._folder.parent, self._folder)
        with locked(self._folder / "changes.lock", None, makes=True):
            yield

    def end(self) -> tuple[Position, Mark]:
        """Return the position and mark of the last line, or zeros if there is none.

        Raises OSError, and JournalGap if that line cannot be read.
        """
        for path in reversed(files(self._folder)):
            _, raw = _end_of(path)
            if raw:
                return Position((line := _read(raw, path)).n, _hash(raw)), line.mark
        return Position(), (0, 0)

    def append(self, changes: Sequence[tuple[Change, Mark]], at: datetime) -> Position:
        """Add changes durably; the caller holds the lock. Raises OSError."""
        position, _ = self.end()
        lines = []
        for change, mark in changes:
            raw = _encode(Line(position.n + 1, position.hash, mark, change))
            position = Position(position.n + 1, _hash(raw))
            lines.append(raw)
        path = self._folder / f"changes-{at:%Y-%m}.ndjson"
        newest = next(reversed(files(self._folder)), path)
        path = max(path, newest)  # the clock may have been set back
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        file = os.open(path, flags, 0o600)
        try:
            size, _ = _end_of(path)
            os.ftruncate(file, size)
            data = b"\n".join(lines) + b"\n"
            try:
                written = os.write(file, data)
                if written != len(data):
                    raise OSError(None, f"only {written} of {len(data)} octets were written")
                os.fsync(file)
                if size == 0:
                    give_to_owner_of(self._folder, path)
                    sync_path(self._folder)
            except OSError as error:
                with suppress(OSError):
                    os.ftruncate(file, size)  # the disk may have lost lines that would count
                raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        finally:
            os.close(file)
        return position

    def expire(self, before: datetime) -> int:
        """Remove the files of whole months before a time; return how many. Raises OSError."""
        kept = f"changes-{before:%Y-%m}.ndjson"
        if not is_dir(self._folder):
            return 0
        with self.locked():
            gone = [path for path in files(self._folder)[:-1] if path.name < kept]
            for path in gone:
                path.unlink()
        return len(gone)

    def after(self, position: Position) -> Iterator[Line]:
        """Yield the lines after a position, and verify the chain on the way.

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
                            f"{path}: change {line.n} differs from that in the backup:"
                            " this is the journal of another relay, or it was altered"
                        )
                    proven = True
                    continue
                if line.n != expected.n + 1:
                    raise JournalGap(f"{path}: {_missing(expected.n + 1, line.n - 1)}")
                if line.after != expected.hash:
                    raise JournalGap(
                        f"{path}: change {line.n} does not continue the one before it:"
                        " one of the two was altered, or belongs to another relay"
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
        """Yield all readable lines after number `n`, without verifying them. Raises OSError."""
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
                return  # being written, or cut short: never acknowledged
            yield raw[:-1]


def _end_of(path: Path) -> tuple[int, bytes]:
    """Return where the last whole line of a file ends, and that line; 0 if there is none.

    What follows was never acknowledged: a crash cut it short, or a power cut left zeros of it.
    """
    end = path.stat().st_size
    with path.open("rb") as file:
        while end > 0:
            start = max(0, end - _LONGEST)
            file.seek(start)
            lines = file.read(end - start).splitlines(keepends=True)
            if start and len(lines) > 1:
                del lines[0]  # it begins before `start`
            for raw in reversed(lines):
                if raw.endswith(b"\n") and b"\0" not in raw:
                    return end, raw[:-1]
                end -= len(raw)
            end = end if lines else start
    return 0, b""
