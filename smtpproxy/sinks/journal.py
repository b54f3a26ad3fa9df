"""The audit journal: every decision, on record before anything follows from it.

One file a worker, append-only, a JSON object a line; a new file is begun at each start
and above a size, so that a file once left is never written again. A write is in the
operating system's hands when `commit` returns, which outlives the process (kill -9);
with `sync = "disk"` it is on the disk, which outlives the machine, and all that wait
share one fdatasync. docs/adr/0003-audit-journal.md says why it is a file.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import msgspec

from smtpproxy.events import Decided, Relayed
from smtpproxy.settings import AuditSettings


class AuditUnavailable(Exception):
    """The journal cannot be written: nothing may pass."""


class DecisionLine(msgspec.Struct, frozen=True, tag="decision", tag_field="kind"):
    """One decision."""

    decided: Decided


class OutcomeLine(msgspec.Struct, frozen=True, tag="outcome", tag_field="kind"):
    """What the upstream answered to the message of that id."""

    id: str
    at: datetime
    code: int
    reply: str


Line = DecisionLine | OutcomeLine


class Journal:
    """Writes one worker's part of the journal."""

    def __init__(
        self,
        folder: Path,
        worker: int,
        settings: AuditSettings,
        *,
        now: Callable[[], datetime],
        new_id: Callable[[], str],
    ) -> None:
        self._folder = folder
        self._worker = worker
        self._settings = settings
        self._now = now
        self._new_id = new_id
        self._encode = msgspec.json.Encoder().encode
        self._file: int | None = None
        self._size = 0
        self._outcomes = bytearray()
        self._flush_timer: asyncio.TimerHandle | None = None
        self._unsynced: list[asyncio.Future[None]] = []
        self._syncing: asyncio.Task[None] | None = None

    async def commit(self, decided: Decided) -> None:
        """Put a decision on record. Raises AuditUnavailable when that cannot be done."""
        self._write(self._encode(DecisionLine(decided)) + b"\n")
        if self._settings.sync == "disk":
            await self._synced()

    def outcome(self, relayed: Relayed) -> None:
        """Note what the upstream answered; it is written with the next lines, or soon."""
        line = OutcomeLine(relayed.id, self._now(), relayed.code, relayed.reply)
        self._outcomes += self._encode(line) + b"\n"
        if self._flush_timer is None:
            loop = asyncio.get_running_loop()
            self._flush_timer = loop.call_later(0.2, self._flush_outcomes)

    def close(self) -> None:
        self._flush_outcomes()
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _write(self, line: bytes) -> None:
        data = bytes(self._outcomes) + line
        try:
            file = self._opened()
            written = os.write(file, data)
            if written != len(data):
                raise OSError(f"wrote {written} of {len(data)} bytes")
        except OSError as error:
            self._undo()
            raise AuditUnavailable(str(error)) from error
        self._outcomes.clear()
        self._size += len(data)

    def _opened(self) -> int:
        if self._file is not None and self._size >= self._settings.segment_size:
            if self._settings.sync == "disk":
                os.fdatasync(self._file)
            os.close(self._file)
            self._file = None
        if self._file is None:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = self._folder / f"{self._new_id()}-{self._worker}.ndjson"
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._file = os.open(path, flags, 0o600)
            self._size = 0
            if self._settings.sync == "disk":
                _sync_folder(self._folder)
        return self._file

    def _undo(self) -> None:
        """Take back a torn write; where even that fails, leave the file for a new one."""
        if self._file is None:
            return
        try:
            os.ftruncate(self._file, self._size)
        except OSError:
            with contextlib.suppress(OSError):
                os.close(self._file)
            self._file = None

    def _flush_outcomes(self) -> None:
        self._flush_timer = None
        if self._outcomes:
            try:
                self._write(b"")
            except AuditUnavailable:
                if len(self._outcomes) > 1 << 20:
                    self._outcomes.clear()  # they read "unknown" then, as after a crash

    async def _synced(self) -> None:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self._unsynced.append(done)
        if self._syncing is None:
            self._syncing = loop.create_task(self._sync())
        await done

    async def _sync(self) -> None:
        """Write to the disk until nobody waits; all that wait at a time share one call."""
        loop = asyncio.get_running_loop()
        while self._unsynced:
            waiting, self._unsynced = self._unsynced, []
            failure: AuditUnavailable | None = None
            try:
                await loop.run_in_executor(None, _sync_file, self._dup())
            except (OSError, AuditUnavailable) as error:
                failure = AuditUnavailable(str(error))
            for future in waiting:
                if failure is not None:
                    future.set_exception(failure)
                else:
                    future.set_result(None)
        self._syncing = None

    def _dup(self) -> int:
        """The open file under a number of its own: a new segment may be begun meanwhile."""
        if self._file is None:
            raise AuditUnavailable("the journal was given up after a failed write")
        return os.dup(self._file)


def _sync_file(file: int) -> None:
    try:
        os.fdatasync(file)
    finally:
        os.close(file)


def _sync_folder(folder: Path) -> None:
    """Make a new file's name outlive the machine too."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
