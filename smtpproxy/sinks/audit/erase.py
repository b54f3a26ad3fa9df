"""Erasure: what the journal says of one person is replaced by digests; the chain still holds.

Files are not changed in place: a copy without the person takes the file's name. Only files
that nobody writes any more are; a running relay is asked to leave its present ones first.
"""

import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from smtpproxy.sinks.audit import anchors
from smtpproxy.sinks.audit import files as journal_files
from smtpproxy.sinks.audit.chain import NotALine, take_apart
from smtpproxy.sinks.audit.files import Segment, is_written, locked, mapped, segments
from smtpproxy.sinks.audit.lines import (
    DecisionEntry,
    Personal,
    PersonalAnswerEntry,
    read_line,
)

_ASIDE = ".erasing"
_PERSONAL_ANSWER = b'"kind":"personal_answer"'


class StillWritten(Exception):
    """The relay did not leave a file in time. What could be erased is; the rest is not."""


def pseudonymise(
    folder: Path, canonical: str, *, at: datetime | None = None, patience: float = 10.0
) -> int:
    """Erase a person from every line that is about them; return the number of those lines.

    `canonical` is the address (mail.address), `at` is now; `patience` (seconds) is how long
    a running relay may take to leave its files. Doing it again erases what is new, and
    what a crash left. Raises StillWritten, OSError.
    """
    if not folder.is_dir():
        return 0
    with locked(folder / journal_files.MAINTENANCE_LOCK):
        for left in folder.glob(f".*{_ASIDE}"):
            left.unlink()
        person = _Person(canonical)
        written = _wait_until_left(folder, _being_written(folder, person), patience)
        count = 0
        for slot, files in segments(folder).items():
            closed = files[:-1] if is_written(folder, slot) else files
            person.find_messages(closed)
            # Answers first: a decision that a crash left leads to its answer again.
            for segment in reversed(closed):
                count += _erase(folder, segment, person, at or datetime.now(UTC))
    if written:
        names = ", ".join(segment.name for segment in written)
        raise StillWritten(
            f"the relay is still writing {names}: nothing is erased there; do it again"
        )
    return count


class _Person:
    """How somebody's lines are found: by the octets first, since most lines are others'."""

    def __init__(self, canonical: str) -> None:
        self._canonical = canonical
        self._needle = msgspec.json.encode(canonical)
        self._messages: set[str] = set()  # ids of a slot's messages to this person
        self._sole: set[str] = set()  # and to nobody else who is not erased

    def find_messages(self, files: Sequence[Segment]) -> None:
        """Look a slot through for messages to this person."""
        self._messages, self._sole = set(), set()
        for segment in files:
            if self.may_be_in(segment):
                with segment.path.open("rb") as lines:
                    for raw in lines:
                        if self._needle in raw:
                            self.parts(raw)

    def may_be_in(self, segment: Segment) -> bool:
        with mapped(segment.path) as data:
            return data.find(self._needle) >= 0 or (
                bool(self._messages) and data.find(_PERSONAL_ANSWER) >= 0
            )

    def named_in(self, part: bytes) -> bool:
        """Whether the address stands in it, in whatever case."""
        return self._canonical in part.decode("utf-8", "replace").casefold()

    def without(self, raw: bytes) -> tuple[bytes, int]:
        """Return a line as it is to be, and how many of its parts were erased."""
        if not raw.endswith(b"\n"):  # a torn end is no record, but may name somebody
            return (b"" if self.named_in(raw) else raw), 0
        if self._needle not in raw and _PERSONAL_ANSWER not in raw:
            return raw, 0
        chosen = self.parts(raw)
        return (take_apart(raw).without(chosen) if chosen else raw), len(chosen)

    def parts(self, raw: bytes) -> set[int]:
        """Return which parts of a line are to be erased."""
        try:
            sealed, line = take_apart(raw), read_line(raw)
        except NotALine:
            return set()  # `audit verify` tells of it
        chosen: set[int] = set()
        if isinstance(line.entry, PersonalAnswerEntry):
            id = line.entry.of
            named = id in self._messages and self.named_in(sealed.parts[0])
            chosen = {0} if id in self._sole or named else set()
        elif isinstance(line.entry, DecisionEntry):
            chosen = self._of_decision(line.entry.id, line.personal, sealed.parts)
        return {index for index in chosen if isinstance(line.personal[index], Personal)}

    def _of_decision(
        self, id: str, personal: Sequence[Personal | str], raw: Sequence[bytes]
    ) -> set[int]:
        theirs = {
            index
            for index, part in enumerate(personal)
            if isinstance(part, Personal) and part.canonical == self._canonical
        }
        if not theirs:
            return theirs
        self._messages.add(id)
        others = set(range(1 if len(raw) > 1 else 0, len(raw))) - theirs
        if all(isinstance(personal[index], str) for index in others):
            self._sole.add(id)
            theirs.add(0)  # the message's part concerns nobody else
        elif self.named_in(raw[0]):
            theirs.add(0)
        return theirs


def _being_written(folder: Path, person: _Person) -> list[Segment]:
    """The files that a relay is writing and that name the person."""
    found = []
    for slot, files in segments(folder).items():
        if is_written(folder, slot) and person.may_be_in(files[-1]):
            found.append(files[-1])
    return found


def _wait_until_left(folder: Path, files: list[Segment], patience: float) -> list[Segment]:
    """Have these files left by whoever writes them; return those that are not in time."""
    if not files:
        return []
    request = os.open(folder / journal_files.ROTATION_REQUEST, os.O_CREAT | os.O_WRONLY, 0o600)
    journal_files.give_to_owner_of(folder, request)
    os.utime(request)
    os.close(request)
    deadline = time.monotonic() + patience
    while files and time.monotonic() < deadline:
        newest = segments(folder)
        files = [f for f in files if newest[f.slot][-1] == f and is_written(folder, f.slot)]
        if files:
            time.sleep(0.05)
    return files


def _erase(folder: Path, segment: Segment, person: _Person, at: datetime) -> int:
    """Erase a person from one file that nobody writes; return the number of lines."""
    if not person.may_be_in(segment):
        return 0
    aside = folder / f".{segment.name}{_ASIDE}"
    lines = parts = 0
    with segment.path.open("rb") as old, aside.open("xb") as new:
        journal_files.make_alike(old.fileno(), new.fileno())
        for raw in old:
            line, erased = person.without(raw)
            new.write(line)
            lines += erased > 0
            parts += erased
        new.flush()
        status = os.fstat(old.fileno())
        os.utime(new.fileno(), ns=(status.st_atime_ns, status.st_mtime_ns))
        os.fsync(new.fileno())
    if lines == 0:
        aside.unlink()
        return 0
    anchors.note_erased(folder, at, {segment.name: parts})
    aside.replace(segment.path)
    journal_files.sync_folder(folder)
    return lines
