"""The queue of uploaded imports: a folder for each, which survives a restart.

`imports/ID/` in `state_dir` has the request (`job.json`), the file until the job ends, the
rejected lines, and the result. An upload is moved into place as a whole folder; one relay at a time
works on the jobs.
"""

import fcntl
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from smtpproxy.disk import exists, flush, give_to_owner_of, lock, sync_path
from smtpproxy.store.operations import Kind

T = TypeVar("T")

KEPT = timedelta(days=7)
"""How long the rejected lines and the result are kept after the end."""

UPLOAD = "upload"
MAPPING = "mapping.toml"
_REJECTED = f"{UPLOAD}.rejected"
_ABANDONED = 3600.0  # seconds without a write after which an upload is abandoned
_ID = re.compile(r"[0-9A-Z]{26}", re.ASCII)
_ERROR = 2_000  # characters
_COMMENT = re.compile(rb"# line \d+: ")
_MOST = 8 * 1024 * 1024  # octets of a rejected line

Outcome = Literal["complete", "failed", "cancelled"]
JobState = Literal["waiting", "running", "complete", "failed", "cancelled"]


class ImportJob(Struct, frozen=True):
    """A request: `options` are those of the command that imports this kind."""

    id: str
    kind: Kind
    by: str
    created_at: datetime
    dry_run: bool
    size: int
    options: tuple[str, ...] = ()
    brands: tuple[str, ...] = ()  # of the token; empty: all


class JobEnd(Struct, frozen=True):
    """The end of a job; a complete one has the command's `result`."""

    outcome: Outcome
    at: datetime
    error: str = ""
    result: dict[str, Any] | None = None


class ImportJobs:
    """The folder of the jobs. Methods raise OSError; a job that does not exist is None."""

    def __init__(self, state_dir: Path) -> None:
        self._root = state_dir / "imports"

    # for the upload

    def receive(self, id: str) -> Path:
        """Create a folder for an upload that the worker does not see yet."""
        _private_folder(self._root)
        folder = self._root / f".{id}"
        _private_folder(folder)
        return folder

    def accept(self, job: ImportJob) -> None:
        """Queue a received file."""
        received, folder = self._root / f".{job.id}", self._root / job.id
        _write(received / "job.json", msgspec.json.encode(job))
        received.rename(folder)
        sync_path(self._root)

    def discard(self, id: str) -> None:
        """Delete an upload that is not accepted."""
        shutil.rmtree(self._root / f".{id}", ignore_errors=True)

    def cancel(self, id: str) -> None:
        _write(self._root / id / "cancel", b"")

    def ask_undo(self, id: str, by: str) -> None:
        """Queue the undoing of any import, however it was made."""
        _private_folder(self._root)
        _write(self._root / f"{id}.undo", by.encode())

    # for everyone

    def job(self, id: str) -> ImportJob | None:
        return _read(self._root / id / "job.json", ImportJob) if _ID.fullmatch(id) else None

    def end(self, id: str) -> JobEnd | None:
        return _read(self._root / id / "end.json", JobEnd)

    def state(self, id: str) -> JobState:
        end = self.end(id)
        if end is not None:
            return end.outcome
        return "running" if exists(self._root / id / "begun") else "waiting"

    def jobs(self) -> list[ImportJob]:
        """Return all jobs, the oldest first."""
        found = (self.job(name) for name in self._names())
        return [job for job in found if job is not None]

    def waiting(self) -> list[ImportJob]:
        """Return the jobs that have not ended, the oldest first."""
        return [job for job in self.jobs() if self.end(job.id) is None]

    def undoing(self, id: str) -> bool:
        return exists(self._root / f"{id}.undo")

    def undos(self) -> list[tuple[str, str]]:
        """Return the imports to undo, and on whose behalf."""
        found = []
        for path in self._entries():
            if path.suffix == ".undo":
                with suppress(FileNotFoundError):  # another relay has just undone it
                    found.append((path.stem, path.read_text()))
        return sorted(found)

    def rejected(self, id: str) -> Path:
        """Return the file of the rejected lines, which need not exist."""
        return self._root / id / _REJECTED

    def forget(self, address: str) -> None:
        """Remove the lines that name a canonical address from those that jobs rejected."""
        name = address.encode().lower()
        self.forget_those(lambda lines: name in lines.lower())

    def forget_those(self, names: Callable[[bytes], bool]) -> None:
        """Remove the lines that name somebody from those that jobs rejected.

        A job that has not ended still writes to its file, which goes after KEPT.
        """
        for id in self._names():
            if self.end(id) is not None:
                with suppress(FileNotFoundError):  # it rejected none, or expires just now
                    _rewrite_without(self.rejected(id), names)

    # for the worker

    def lock(self) -> int | None:
        """Return a descriptor that holds the lock, or None; a child may inherit it."""
        _private_folder(self._root)
        path = self._root / "lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            lock(descriptor, path, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor

    def has_work(self) -> bool:
        return any(True for _ in self._entries())

    def begin(self, id: str) -> Path:
        """Mark a job as running; return its folder."""
        (self._root / id / "begun").touch(0o600)
        return self._root / id

    def is_cancelled(self, id: str) -> bool:
        return exists(self._root / id / "cancel")

    def finish(self, id: str, end: JobEnd) -> None:
        """Record the end of a job, and delete the file, which is personal data."""
        folder = self._root / id
        _write(folder / "end.json", msgspec.json.encode(end))
        for name in (UPLOAD, MAPPING, "begun", "cancel", "result", "errors"):
            (folder / name).unlink(missing_ok=True)

    def undone(self, id: str) -> None:
        (self._root / f"{id}.undo").unlink(missing_ok=True)

    def expire(self, now: datetime) -> None:
        """Remove jobs that ended long ago, and abandoned uploads."""
        for folder in list(self._entries()):
            if folder.name.startswith("."):
                with suppress(FileNotFoundError):  # it is accepted or discarded just now
                    if _idle(folder) > _ABANDONED:
                        shutil.rmtree(folder, ignore_errors=True)
            elif _ID.fullmatch(folder.name):
                end = self.end(folder.name)
                if end is not None and end.at < now - KEPT:
                    shutil.rmtree(folder, ignore_errors=True)

    def correct_ends(self, now: datetime) -> None:
        """Count KEPT from now for jobs that ended by a clock that was ahead."""
        for id in self._names():
            end = self.end(id)
            if end is not None and end.at > now:
                with suppress(FileNotFoundError):  # it expires just now
                    _write(self._root / id / "end.json", msgspec.json.encode(replace(end, at=now)))

    def _names(self) -> list[str]:
        return sorted(path.name for path in self._entries() if _ID.fullmatch(path.name))

    def _entries(self) -> Iterator[Path]:
        try:
            with os.scandir(self._root) as entries:
                names = [entry.name for entry in entries if entry.name != "lock"]
        except FileNotFoundError:
            return
        yield from (self._root / name for name in names)


def shown_errors(errors: str, folder: Path) -> str:
    """Return a command's standard error as shown to API clients: shortened, without our path."""
    return errors.replace(f"{folder}/", "").strip()[-_ERROR:]


def _idle(folder: Path) -> float:
    """Return the seconds since the last write to an upload."""
    times = [folder.stat().st_mtime, *(path.stat().st_mtime for path in folder.iterdir())]
    return time.time() - max(times)


def _private_folder(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        return
    give_to_owner_of(path.parent, path)


def _rewrite_without(path: Path, names: Callable[[bytes], bool]) -> None:
    """Leave out what follows a comment (`# line 7: …`) up to the next one, if it names somebody,
    or is too long to search."""
    beside = path.with_name(f"{path.name}.new")
    dropped = False
    with path.open("rb") as file, open(beside, "wb", opener=private) as kept:
        entry = b""
        for line in chain(iter(partial(file.readline, _MOST), b""), (b"",)):
            if _COMMENT.match(line) or not line:
                if len(entry) >= _MOST or names(entry):
                    dropped = True
                else:
                    kept.write(entry)
                entry = b""
            entry += line[: _MOST - len(entry)]
        flush(kept)
    if not dropped:
        beside.unlink()
        return
    give_to_owner_of(path.parent, beside)
    beside.rename(path)
    sync_path(path.parent)


def _read(path: Path, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None


def _write(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    beside = path.with_name(f"{path.name}.new")
    with open(beside, "wb", opener=private) as file:
        file.write(content)
        flush(file)
    give_to_owner_of(path.parent, beside)
    beside.rename(path)
    sync_path(path.parent)


def private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
