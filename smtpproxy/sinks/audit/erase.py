"""Erasure: what the journal says of one person is replaced by digests; the chain still holds.

Which parts go is recorded first (anchors.py), so that `audit verify` knows each of them, and
an erasure that a crash interrupts can be finished without knowing whom it was about.

Files are not changed in place: a copy without the person takes the file's name. Only closed
files are replaced; a running relay is asked to close its present ones first.
"""

import os
import re
import time
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from enum import IntFlag
from functools import partial
from itertools import chain
from pathlib import Path

import msgspec

from smtpproxy import clock
from smtpproxy.disk import is_dir, sync_path
from smtpproxy.mail.address import readings
from smtpproxy.sinks.audit import anchors
from smtpproxy.sinks.audit import files as journal_files
from smtpproxy.sinks.audit.anchors import ErasedRow, ErasingRow, Parts
from smtpproxy.sinks.audit.chain import NotALine, take_apart
from smtpproxy.sinks.audit.files import Segment, blocks, is_written, locked, segments
from smtpproxy.sinks.audit.lines import DecisionEntry, Personal, PersonalAnswerEntry, read_line

_FLAGS = 2
_PLACES = 20  # bits: no message has more recipients


class Erasure(IntFlag):
    """What is recorded of a part. `DONE`: it is known to be gone. `SEALED`: that is proven."""

    NONE = 0
    DONE = 1
    SEALED = 2


class ErasedParts:
    """The erased parts of a slot: filled, sorted, then queried line by line."""

    def __init__(self) -> None:
        self._keys = array("Q")
        self._ends: list[tuple[int, int]] = []  # each anchor's number, and where its keys end
        self._next = 0

    def add(self, anchor: int, parts: Parts, *, done: bool) -> None:
        flags = Erasure.DONE if done else Erasure.NONE
        for n, *places in parts:
            for place in places:
                if 0 <= n < 1 << 42 and 0 <= place < 1 << _PLACES:
                    self._keys.append((n << _PLACES | place) << _FLAGS | flags)
        self._ends.append((anchor, len(self._keys)))

    def sort(self, sealed: int) -> None:
        """Put them in order. Anchors up to `sealed` are proven."""
        start = 0
        for anchor, end in self._ends:
            if anchor <= sealed:
                for index in range(start, end):
                    self._keys[index] |= Erasure.SEALED
            start = end
        self._keys = array("Q", sorted(self._keys))

    @property
    def due(self) -> int | None:
        """The number of the next line with a recorded part."""
        if self._next < len(self._keys):
            return self._keys[self._next] >> _PLACES + _FLAGS
        return None

    def of(self, n: int) -> dict[int, Erasure]:
        """Return what is recorded of a line, by the part's index. Lines come in order."""
        self._next = bisect_left(self._keys, n << _PLACES + _FLAGS, self._next)
        found: dict[int, Erasure] = {}
        while self.due == n:
            key = self._keys[self._next]
            place = key >> _FLAGS & (1 << _PLACES) - 1
            found[place] = found.get(place, Erasure.NONE) | Erasure(key & 3)
            self._next += 1
        return found


CONTACT_ERASE = "contact erase"
"""The recorded reason of an erasure."""

_ASIDE = ".erasing"
_PERSONAL_ANSWER = b'"kind":"personal_answer"'


class StillWritten(Exception):
    """The relay did not close a file in time. All else is erased."""


def pseudonymise(
    folder: Path,
    canonical: str,
    *,
    now: Callable[[], datetime] = clock.now,
    timeout: float = 10.0,
) -> int:
    """Erase a person from every line about them; return the number of those lines.

    `canonical` is the address (mail.address); `timeout` (seconds) is how long a running
    relay may take to close its files. A repetition erases new lines, and what a crash left.
    Raises StillWritten, OSError.
    """
    if not is_dir(folder):
        return 0
    with locked(folder / journal_files.MAINTENANCE_LOCK):
        finish(folder, now)
        person = _Person(canonical)
        written = _wait_until_closed(folder, _being_written(folder, person), timeout)
        count = 0
        for slot, files in segments(folder).items():
            closed = files[:-1] if is_written(folder, slot) else files
            person.find_messages(closed)
            # Answers first: a decision left by a crash still leads to its answer.
            for segment in reversed(closed):
                count += _erase(folder, segment, person, now)
    if written:
        names = ", ".join(segment.name for segment in written)
        raise StillWritten(
            f"the relay is still writing {names}: nothing was erased there; try again"
        )
    return count


def finish(folder: Path, now: Callable[[], datetime]) -> None:
    """Finish the recorded erasures that a crash interrupted. Raises OSError.

    The caller holds the maintenance lock.
    """
    for left in folder.glob(f".*{_ASIDE}"):
        left.unlink()
    for number, row in anchors.unfinished(folder).items():
        segment = next((s for s in segments(folder).get(row.slot, ()) if s.name == row.file), None)
        if segment is not None:
            without = partial(_without, {n: set(places) for n, *places in row.parts})
            _replace(folder, _copied(folder, segment, without), segment)
        anchors.note(folder, now, partial(ErasedRow, of=number))


def repeat(folder: Path) -> None:
    """Erase from files that were copied before an erasure what the anchors record as erased.

    Raises OSError.
    """
    with locked(folder / journal_files.MAINTENANCE_LOCK):
        finish(folder, clock.now)
        recorded: dict[str, dict[int, set[int]]] = {}
        for row in anchors.erasings(folder):
            for n, *places in row.parts:
                recorded.setdefault(row.file, {}).setdefault(n, set()).update(places)
        for segment in chain.from_iterable(segments(folder).values()):
            if parts := recorded.get(segment.name):
                _replace(folder, _copied(folder, segment, partial(_without, parts)), segment)


def _without(parts: dict[int, set[int]], raw: bytes) -> bytes:
    try:
        sealed = take_apart(raw)
    except NotALine:
        return raw  # `audit verify` reports it
    chosen = parts.get(sealed.n)
    return sealed.without(chosen) if chosen else raw


class _Person:
    """Finds a person's lines: first by octets, as most lines are about others."""

    def __init__(self, canonical: str) -> None:
        self._canonical = canonical
        self._needle = msgspec.json.encode(canonical)
        self._odd: dict[bytes, str] = {}  # addresses an MTA may take for it, as written
        self._messages: set[str] = set()  # ids of a slot's messages to this person
        self._sole: set[str] = set()  # and to nobody else not erased

    def find_messages(self, files: Sequence[Segment]) -> None:
        """Search a slot for messages to this person."""
        self._messages, self._sole = set(), set()
        for segment in files:
            if self.may_be_in(segment):
                with segment.path.open("rb") as lines:
                    for raw in lines:
                        if self._names(raw):
                            self.parts(raw)

    def may_be_in(self, segment: Segment) -> bool:
        found = False
        for lines in blocks(segment.path):
            odd = {name: text for name, text in odd_names(lines) if self._is_theirs(text)}
            self._odd |= odd
            found |= (
                bool(odd)
                or self._needle in lines
                or (bool(self._messages) and _PERSONAL_ANSWER in lines)
            )
        return found

    def _names(self, raw: bytes) -> bool:
        """Whether a line may be about the person."""
        if self._needle in raw:
            return True
        return bool(self._odd) and any(name in self._odd for name, _ in odd_names(raw))

    def named_in(self, part: bytes) -> bool:
        """Whether a part contains the address, in upper or lower case."""
        text = part.decode("utf-8", "replace").casefold()
        return any(name in text for name in (self._canonical, *self._odd.values()))

    def without(self, raw: bytes, erased: list[tuple[int, ...]]) -> bytes:
        """Return a line without the person; add its number and the parts that go to `erased`."""
        if not raw.endswith(b"\n"):  # a torn end is not a record, but may contain a name
            return b"" if self.named_in(raw) else raw
        if _PERSONAL_ANSWER not in raw and not self._names(raw):
            return raw
        chosen = self.parts(raw)
        if not chosen:
            return raw
        sealed = take_apart(raw)
        erased.append((sealed.n, *sorted(chosen)))
        return sealed.without(chosen)

    def parts(self, raw: bytes) -> set[int]:
        """Return which parts of a line are to be erased."""
        try:
            sealed, line = take_apart(raw), read_line(raw)
        except NotALine:
            return set()  # `audit verify` reports it
        chosen: set[int] = set()
        if isinstance(line.entry, PersonalAnswerEntry):
            id = line.entry.of
            named = id in self._messages and self.named_in(sealed.parts[0])
            chosen = {0} if id in self._sole or named else set()
        elif isinstance(line.entry, DecisionEntry):
            chosen = self._of_decision(line.entry.id, line.personal, sealed.parts)
        return {index for index in chosen if isinstance(line.personal[index], Personal)}

    def _is_theirs(self, address: str) -> bool:
        """Whether it is the person's address, or one that an MTA may take for it."""
        return address == self._canonical or self._canonical in readings(address)

    def _of_decision(
        self, id: str, personal: Sequence[Personal | str], raw: Sequence[bytes]
    ) -> set[int]:
        theirs = {
            index
            for index, part in enumerate(personal)
            if isinstance(part, Personal) and self._is_theirs(part.canonical or "")
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
    """Return the files that a relay is writing and that may name the person."""
    found = []
    for slot, files in segments(folder).items():
        if is_written(folder, slot) and person.may_be_in(files[-1]):
            found.append(files[-1])
    return found


def _wait_until_closed(folder: Path, files: list[Segment], timeout: float) -> list[Segment]:
    """Have the relays close these files; return those not closed in time."""
    if not files:
        return []
    journal_files.request_rotation(folder)
    deadline = time.monotonic() + timeout
    while files and time.monotonic() < deadline:
        newest = segments(folder)
        files = [f for f in files if newest[f.slot][-1] == f and is_written(folder, f.slot)]
        if files:
            time.sleep(0.05)
    return files


def _erase(folder: Path, segment: Segment, person: _Person, now: Callable[[], datetime]) -> int:
    """Erase a person from one closed file; return the number of lines."""
    if not person.may_be_in(segment):
        return 0
    erased: list[tuple[int, ...]] = []
    size = segment.path.stat().st_size
    aside = _copied(folder, segment, lambda raw: person.without(raw, erased))
    if not erased and aside.stat().st_size == size:
        aside.unlink()
        return 0
    if not erased:  # only a torn end, which is not a record
        _replace(folder, aside, segment)
        return 0
    row = partial(ErasingRow, why=CONTACT_ERASE, file=segment.name, slot=segment.slot)
    erasing = anchors.note(folder, now, partial(row, parts=tuple(erased)))
    _replace(folder, aside, segment)
    anchors.note(folder, now, partial(ErasedRow, of=erasing.n))
    return len(erased)


def _copied(folder: Path, segment: Segment, change: Callable[[bytes], bytes]) -> Path:
    """Write a copy of a file with changed lines next to it, and onto the disk."""
    aside = folder / f".{segment.name}{_ASIDE}"
    with segment.path.open("rb") as old, aside.open("xb") as new:
        journal_files.make_alike(old.fileno(), new.fileno())
        for raw in old:
            new.write(change(raw))
        new.flush()
        status = os.fstat(old.fileno())
        os.utime(new.fileno(), ns=(status.st_atime_ns, status.st_mtime_ns))
        os.fsync(new.fileno())
    return aside


def _replace(folder: Path, aside: Path, segment: Segment) -> None:
    aside.replace(segment.path)
    sync_path(folder)


_CANONICAL = re.compile(rb'"canonical":("(?:[^"\\]|\\.)*")')

_text = msgspec.json.Decoder(str).decode


def odd_names(octets: bytes) -> Iterator[tuple[bytes, str]]:
    """Yield each canonical address in the octets that an MTA may take for another one, as written
    there and decoded."""
    for match in _CANONICAL.finditer(octets):
        written = match[1]
        if b"%" in written or b"!" in written or b'\\"' in written or b".uucp" in written:
            with suppress(msgspec.DecodeError, UnicodeDecodeError):
                yield written, _text(written)


def addressed(folder: Path) -> Iterator[str]:
    """Yield each recipient's canonical address, as often as it occurs; not those of the erased.
    Torn ends are searched too. Raises OSError."""
    for files in segments(folder).values():
        for segment in files:
            for lines in blocks(segment.path):
                for match in _CANONICAL.finditer(lines):
                    try:
                        yield _text(match[1])
                    except (msgspec.DecodeError, UnicodeDecodeError):
                        continue  # torn, or edited: `audit verify` reports it
