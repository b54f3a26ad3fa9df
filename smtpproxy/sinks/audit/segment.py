"""The file that a worker writes: opened, appended to, closed."""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from smtpproxy.disk import sync_path
from smtpproxy.sinks.audit import anchors
from smtpproxy.sinks.audit.anchors import Anchor
from smtpproxy.sinks.audit.chain import Chain, Head, head_of
from smtpproxy.sinks.audit.files import SlotLock, last_line, last_of, new_name, segments
from smtpproxy.sinks.audit.lines import (
    CLOCK_TOLERANCE,
    FORMAT,
    After,
    AnswersEntry,
    BeginEntry,
    Entry,
    answers_member,
    plain,
    time_of,
)

_NO_ENTRY = plain(AnswersEntry())


class AuditUnavailable(Exception):
    """The journal cannot be written, so nothing may pass."""


@dataclass(eq=False)
class SegmentWriter:
    """Appends chained lines to one worker's files, one file after the other.

    A new file is started when one exceeds `largest` octets. `durable`: a closed file and the
    name of a new one go to the disk at once. `name` is that of the current or last file;
    `latest` is the newest recorded time, as far as known.
    """

    folder: Path
    worker: int
    largest: int
    durable: bool
    now: Callable[[], datetime]
    new_id: Callable[[], str]

    def __post_init__(self) -> None:
        self.name = ""
        self.file: int | None = None
        self._path = b""
        self._inode = 0
        self.latest: datetime | None = None
        self._lock: SlotLock | None = None
        self._chain = Chain()
        self._size = 0
        self._started: datetime | None = None  # the newest recorded time after a first line
        self._after: After | None = None  # the last line of all
        self._torn: dict[str, int] = {}  # for the next first line to report

    @property
    def head(self) -> Head:
        return self._chain.head

    def append(self, answers: list[bytes], entries: list[Entry]) -> None:
        """Write the entries in one piece, the answers with the first; empty the lists.

        Raises AuditUnavailable: then the last entry is not recorded. Those recorded before a
        write was cut short are removed from the lists.
        """
        try:
            file = self._opened()
        except OSError as error:
            raise AuditUnavailable(str(error)) from error
        chain, opening = self._chain, not self._size
        mark = chain.n, chain.opening
        lines = [chain.seal(*self._begin())] if opening else []
        rest = entries
        if answers:
            (first, parts), *rest = entries or (_NO_ENTRY,)
            lines.append(chain.seal(first, parts, answers_member(answers)))
        for entry, parts in rest:
            lines.append(chain.seal(entry, parts))
        data = b"".join(lines)
        failure = None
        try:
            written = os.write(file, data)
        except OSError as error:
            written, failure = 0, error
        if written == len(data):
            self._size += written
            if opening:
                self._note_started()
            answers.clear()
            entries.clear()
            return
        chain.n, chain.opening = mark
        kept = self._keep_whole(lines, written) - opening
        if opening and kept >= 0:
            self._note_started()
        if kept > 0:
            answers.clear()
            del entries[:kept]
        raise AuditUnavailable(
            str(failure) if failure else f"wrote {written} of {len(data)} bytes"
        ) from failure

    def _note_started(self) -> None:
        self.latest = self._started

    def leave(self) -> None:
        """Close the current file for good. If that raises OSError, it is still open."""
        if self.file is None:
            return
        if self.durable:
            os.fdatasync(self.file)
        self._close_file()

    def close(self) -> None:
        """Close the current file and release the slot."""
        if self.file is not None:
            self._close_file()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _opened(self) -> int:
        file = self.file
        if file is not None and self._size < self.largest and self._in_place():
            return file
        if self._size >= self.largest:
            self.leave()
        self._close_file()  # nobody would find what is written there
        file = self.file = self._new_file()
        return file

    def _in_place(self) -> bool:
        """Whether the file still has its name: it was neither removed nor moved."""
        try:
            return os.stat(self._path).st_ino == self._inode  # noqa: PTH116 - twice as fast
        except FileNotFoundError:
            return False

    def _new_file(self) -> int:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._lock is None:
            self._lock = self._take_slot()
        self.name = new_name(self.new_id(), self._lock.slot, self.name)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._path = os.fsencode(self.folder / self.name)
        file = os.open(self._path, flags, 0o600)
        self._inode = os.fstat(file).st_ino
        self._size = 0
        if self.durable:
            sync_path(self.folder)
        return file

    def _begin(self) -> Entry:
        """Make the first line just before it is written: verify compares its time with anchors."""
        anchor = self._newest_anchor()
        newest = None if anchor is None else anchor.head
        at, before = self.now(), self.latest
        self._started = at
        if before is not None and before - at <= CLOCK_TOLERANCE / 2:
            self._started, before = max(at, before), None
        return plain(BeginEntry(self.name, at, self._after, self._torn, newest, FORMAT, before))

    def _take_slot(self) -> SlotLock:
        """Take a slot and find the end of its chain: in its newest file, or from an anchor."""
        lock = SlotLock(self.folder, self.worker)
        try:
            files = segments(self.folder).get(lock.slot, [])
            last = last_line(files)
            if last is None:  # a power cut may leave nothing but the beginning of a line
                ends = ((segment.name, last_of(segment.path, head_of)[1]) for segment in files)
                self._torn = {name: octets for name, octets in ends if octets}
            times = (last_of(segment.path, time_of)[0] for segment in reversed(files))
            time = next((each for each in times if each is not None), None)
            anchor = self._newest_anchor()
        except OSError:
            lock.release()
            raise
        if last is not None:
            self._after = After(last.segment.name, last.head.n, last.head.hash)
            self._torn = last.torn
        elif anchor is not None:
            self._after = anchor.row.heads.get(str(lock.slot))
        if self._after is not None:
            self._chain = Chain(Head(self._after.n, self._after.hash))
        self.name = files[-1].name if files else ""
        for known in (time, None if anchor is None else anchor.row.at):
            if known is not None and (self.latest is None or known > self.latest):
                self.latest = known
        return lock

    def _newest_anchor(self) -> Anchor | None:
        """Return the newest anchor; trouble does not stop mail, and the scheduler reports it."""
        with suppress(OSError):
            return anchors.newest(self.folder)
        return None

    def _keep_whole(self, lines: list[bytes], written: int) -> int:
        """Keep the whole lines of a short write and cut off the torn rest; return how many.

        An anchor may have seen the whole lines already. If the rest cannot be cut off, the
        file is closed and the next one reports it.
        """
        kept = 0
        for line in lines:
            if len(line) > written:
                break
            written -= len(line)
            self._size += len(line)
            self._chain.go_back(head_of(line))
            kept += 1
        if self.file is not None:
            try:
                os.ftruncate(self.file, self._size)
            except OSError:
                if written:
                    self._torn[self.name] = written
                self._close_file()
        return kept

    def _close_file(self) -> None:
        if self.file is not None:
            if self._size:
                head = self._chain.head
                self._after = After(self.name, head.n, head.hash)
            file, self.file, self._size = self.file, None, 0
            os.close(file)
