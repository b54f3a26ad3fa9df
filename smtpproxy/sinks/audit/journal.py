"""The audit journal: every decision, recorded before anything follows from it.

One append-only file per worker with a JSON object per line, each chained to the line
before; a new file is started by each process, and when one exceeds a size. When `commit` returns,
the write is with the operating system and survives the process (kill -9); with `sync = "disk"` it
is on the disk and survives a crash of the machine, and all waiting writes share one fdatasync.
docs/adr/0003-audit-journal.md says why it is a file, 0007-audit-chain.md why it is chained this
way.
"""

import asyncio
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog

from smtpproxy.events import Decided, Relayed
from smtpproxy.settings import AuditSettings
from smtpproxy.sinks.audit.anchor_scheduler import AnchorScheduler
from smtpproxy.sinks.audit.anchors import Anchor
from smtpproxy.sinks.audit.lines import (
    CLOCK_TOLERANCE,
    AnchorEntry,
    ClockEntry,
    Entry,
    LineMaker,
    plain,
)
from smtpproxy.sinks.audit.segment import AuditUnavailable, SegmentWriter
from smtpproxy.waiting import Pending

__all__ = ["AuditUnavailable", "Journal"]

_OUTCOMES_WITHIN = 0.2
_MOST_WAITING = 10_000
_SOON = timedelta(seconds=1)
_BACK = CLOCK_TOLERANCE / 2
_MIN = datetime.min.replace(tzinfo=UTC)
_MAX = datetime.max.replace(tzinfo=UTC)
_DONE = Pending.settled(None)


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
        durable = settings.sync == "disk"
        self._durable = durable
        self._now = now
        self._lines = LineMaker()
        self._segment = SegmentWriter(
            folder, worker, largest=settings.segment_size, durable=durable, now=now, new_id=new_id
        )
        self._name = ""
        self._answers: list[bytes] = []  # written with the next lines, or soon
        self._waiting: list[Entry] = []
        self._flush_timer: asyncio.TimerHandle | None = None
        self._unsynced: list[Pending[None]] = []
        self._syncing: asyncio.Task[None] | None = None
        self._lost: AuditUnavailable | None = None  # lines not on the disk yet may never get there
        self._earliest, self._newest = _MAX, _MIN  # a time between them needs no action
        self._anchor_scheduler = AnchorScheduler(
            folder,
            now,
            lambda: self._segment.head.n,
            self._anchored,
            self.rotate,
            self._time_moved,
        )

    def commit(self, decided: Decided) -> Pending[None]:
        """Record a decision: settled at once, or when on the disk if that is required.

        It fails with AuditUnavailable if that is impossible.
        """
        if not self._earliest <= decided.at <= self._newest:
            self._time_moved(decided.at)
        entry = self._lines.decision(decided)
        self._waiting.append(entry)
        try:
            self._write()
        except Exception as error:
            if self._waiting and self._waiting[-1] is entry:
                self._waiting.pop()  # nothing follows from it
            if not isinstance(error, AuditUnavailable):
                raise
            return Pending.failed(error)
        return self._synced() if self._durable else _DONE

    def outcome(self, relayed: Relayed) -> None:
        """Record the upstream's answer; it is written with the next lines, or soon."""
        if "@" in relayed.reply or "@" in "".join(relayed.each):
            self._waiting.append(self._lines.personal_answer(relayed, self._now()))
        else:
            self._answers.append(self._lines.answer(relayed, self._now()))
        if self._flush_timer is None:
            loop = asyncio.get_running_loop()
            self._flush_timer = loop.call_later(_OUTCOMES_WITHIN, self._flush)

    def rotate(self) -> None:
        """Begin a new file, so that the old one can be worked on."""
        try:
            self._write()
            self._segment.leave()
            self._write()
        except (AuditUnavailable, OSError) as error:
            self._lost = AuditUnavailable(str(error)) if self._syncing else None
            structlog.get_logger().warning("audit file not closed", error=str(error))

    def close(self) -> None:
        self._flush()
        self._anchor_scheduler.close()
        self._segment.close()

    def _write(self) -> None:
        segment = self._segment
        try:
            segment.append(self._answers, self._waiting)
        except AuditUnavailable as error:
            self._lost = error if self._syncing else None
            raise
        if segment.name != self._name:
            self._name = segment.name
            self._set_bounds()
            self._anchor_scheduler.file_started()

    def _flush(self) -> None:
        self._flush_timer = None
        if self._answers or self._waiting:
            try:
                self._write()
            except AuditUnavailable:
                if len(self._answers) + len(self._waiting) > _MOST_WAITING:
                    self._answers.clear()  # outcomes are then unknown, as after a crash
                    self._waiting.clear()

    def _time_moved(self, at: datetime) -> None:
        """Note that time has passed, or record that it goes back, if only for a late decision."""
        now, latest = self._now(), self._segment.latest
        before = latest or now  # the first line of all comes now
        if at < before - _BACK:
            self._waiting.append(plain(ClockEntry(at, before)))
        if now < before - _BACK:
            self._anchor_scheduler.time_went_back(before)
        elif latest is None or at <= latest:
            return
        self._segment.latest = max(at, now)
        self._set_bounds()

    def _set_bounds(self) -> None:
        latest = self._segment.latest
        if latest is not None:
            self._earliest, self._newest = latest - _BACK, latest + _SOON

    def _anchored(self, anchor: Anchor) -> None:
        self._waiting.append(plain(AnchorEntry(anchor.head)))

    def _synced(self) -> Pending[None]:
        done: Pending[None] = Pending()
        self._unsynced.append(done)
        if self._syncing is None:
            self._syncing = asyncio.get_running_loop().create_task(self._sync())
        return done

    async def _sync(self) -> None:
        """Write to the disk until nobody waits; all who wait together share one call."""
        loop = asyncio.get_running_loop()
        while self._unsynced:
            waiting, self._unsynced = self._unsynced, []
            failure: AuditUnavailable | None = None
            try:
                await loop.run_in_executor(None, _sync_file, self._dup())
            except Exception as error:  # whatever it is, nobody may wait forever
                failure = AuditUnavailable(str(error))
            failure = failure or self._lost
            if failure is not None:  # the disk reports a loss once, and not of which line
                waiting, self._unsynced, self._lost = waiting + self._unsynced, [], None
            for pending in waiting:
                if failure is not None:
                    pending.fail(failure)
                else:
                    pending.settle(None)
        self._syncing = None

    def _dup(self) -> int:
        """Return a descriptor of its own for the open file: a new file may be started meanwhile."""
        if self._segment.file is None:
            raise AuditUnavailable("the audit file was closed after a failed write")
        return os.dup(self._segment.file)


def _sync_file(file: int) -> None:
    try:
        os.fdatasync(file)
    finally:
        os.close(file)
