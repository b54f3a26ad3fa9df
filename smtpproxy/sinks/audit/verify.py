"""Proves that the journal is as it was written: all, the files of a period, or one record."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from datetime import datetime
from enum import StrEnum
from itertools import chain
from pathlib import Path

from msgspec import Struct

from smtpproxy.disk import exists
from smtpproxy.sinks.audit.anchor_check import AnchorCheck
from smtpproxy.sinks.audit.anchors import Anchor, read_anchor
from smtpproxy.sinks.audit.chain import (
    LONGEST_TRANSACTION,
    START,
    TIME,
    Head,
    Kind,
    NotALine,
    Report,
    Sealed,
    take_apart,
)
from smtpproxy.sinks.audit.chain_verifier import ChainVerifier
from smtpproxy.sinks.audit.files import (
    ANCHORS,
    MAINTENANCE_LOCK,
    Octets,
    Segment,
    is_written,
    locked,
    of_period,
    opened,
    segments,
)
from smtpproxy.sinks.audit.reader import Place, Record
from smtpproxy.terminal import counted


class State(StrEnum):
    """Best first. `LOCAL`: anyone who can write to this machine could have rewritten it."""

    KEPT = "kept"
    LOCAL = "local"
    UNPROVEN = "unproven"
    BROKEN = "broken"


class Seal(Struct, frozen=True):
    """`anchor` sealed the record at `at`; `what` says what is wrong if it is broken."""

    state: State
    anchor: int | None = None
    at: datetime | None = None
    what: str | None = None


UNPROVEN = Seal(State.UNPROVEN)
_RANK = list(State)


def seal(folder: Path, records: Sequence[Record], kept: Sequence[Head] = ()) -> Seal:
    """Return the seal of all these records, each with its outcome: the weakest of theirs.

    `kept` are anchors kept elsewhere. Raises OSError.
    """
    found = [_of_record(folder, record, kept) for record in records]
    return max(found, key=_weakness, default=UNPROVEN)


def is_anchored(newest: Anchor | None, place: Place) -> bool:
    """Whether an anchor claims to have seen a row; the chain up to it is not checked."""
    head = None if newest is None else newest.row.heads.get(str(place.slot))
    return head is not None and place.n <= head.n


def _of_record(folder: Path, record: Record, kept: Sequence[Head]) -> Seal:
    places = [record.place, None if record.outcome is None else record.outcome.place]
    seals = [
        _of_row(folder, place, record.decided.at, kept) for place in places if place is not None
    ]
    return max(seals, key=_weakness, default=UNPROVEN)


def _weakness(seal: Seal) -> tuple[int, int]:
    return _RANK.index(seal.state), seal.anchor or 0


def _of_row(folder: Path, place: Place, made: datetime, kept: Sequence[Head]) -> Seal:
    if not exists(folder / ANCHORS):
        return UNPROVEN
    with opened(folder / ANCHORS) as data:
        start = _first_that_saw(data, place)
        try:
            _compare_date(data, start, made)
            if start is None:
                return UNPROVEN
            anchor = read_anchor(_line(data, start))
            head = anchor.row.heads[str(place.slot)]
            _follow(folder, place, Head(head.n, head.hash))
            witness = min((one for one in kept if one.n >= anchor.n), default=None, key=_number)
            state = State.LOCAL if witness is None else State.KEPT
            _follow_anchors(data, start, anchor.head if witness is None else witness)
        except (NotALine, KeyError) as error:
            return Seal(State.BROKEN, what=str(error))
    if kept and witness is None:
        return UNPROVEN  # it is younger than all kept anchors
    return Seal(state, anchor.n, anchor.row.at)


def _compare_date(data: Octets, start: int | None, made: datetime) -> None:
    """Compare the date of a record with the last anchor that did not see it.

    Raises NotALine if it is older by more than a decision may wait for the upstream.
    """
    end = data.line_start(len(data)) if start is None else start
    if end == 0:
        return
    last = read_anchor(_line(data, data.line_start(end - 1)))
    set_back = start is not None and read_anchor(_line(data, start)).row.set_back_from is not None
    if last.row.at - made > LONGEST_TRANSACTION and not set_back:
        seen = f"anchor {last.n} of {last.row.at:{TIME}} did not see it"
        raise NotALine(f"it is dated {made:{TIME}}, but {seen}")


def _number(head: Head) -> int:
    return head.n


def _line(data: Octets, start: int) -> bytes:
    return data[start : data.find(b"\n", start) + 1]


def _first_that_saw(data: Octets, place: Place) -> int | None:
    """Return the offset of the first anchor with the row or a later one; they are in order."""
    low, high = 0, data.line_start(len(data))  # starts of lines; no anchor before `low` has it
    found = None
    while low < high:
        middle = data.line_start((low + high) // 2)
        start = max(middle, low)
        try:
            head = read_anchor(_line(data, start)).row.heads.get(str(place.slot))
        except NotALine:
            head = None  # treated as one without the slot: a later one has it
        if head is not None and head.n >= place.n:
            found = high = start
        else:
            low = data.find(b"\n", start) + 1
    return found


def _follow(folder: Path, place: Place, to: Head) -> None:
    """Follow the chain from a row to one that an anchor saw. Raises NotALine if it is broken."""
    previous: Sealed | None = None
    with ExitStack() as stack:
        for sealed in _rows(folder, place, stack):
            if previous is not None and sealed.n >= place.n:
                if sealed.n != previous.n + 1 or sealed.hash_after(previous.hash) != sealed.hash:
                    raise NotALine(f"row {sealed.n} does not match its hash")
                if sealed.n == place.n and sealed.hash.decode() != place.hash:
                    raise NotALine(f"there are two rows {sealed.n}")
                if sealed.n == to.n:
                    if sealed.hash.decode() != to.hash:
                        raise NotALine(f"the anchor saw another row {sealed.n}")
                    return
            previous = sealed
    raise NotALine(f"row {to.n}, which the anchor saw, is missing")


def _rows(folder: Path, place: Place, stack: ExitStack) -> Iterator[Sealed]:
    """Yield the rows of the slot's files, from the one before the place on."""
    files = [s.path for s in segments(folder).get(place.slot, ()) if s.name >= place.file]
    for path in files:
        data = stack.enter_context(opened(path))
        start = 0
        if path.name == place.file:
            found = data.find(b'","n":%d,' % place.n)
            start = data.line_start(max(data.line_start(max(found, 0)) - 1, 0))
        while (end := data.find(b"\n", start)) >= 0:
            yield take_apart(data[start : end + 1])
            start = end + 1


def _follow_anchors(data: Octets, start: int, to: Head) -> None:
    """Follow the anchors from one to one that was kept. Raises NotALine if the chain is broken."""
    before = data.line_start(max(start - 1, 0))
    previous = START if start == 0 else take_apart(_line(data, before)).head
    while start < len(data):
        sealed = take_apart(_line(data, start))
        first = start == 0 and sealed.n > 1  # retention deleted those before it
        if not first and sealed.hash_after(previous.hash.encode()) != sealed.hash:
            raise NotALine(f"anchor {sealed.n} was altered")
        if sealed.n >= to.n:
            if sealed.head != to:
                raise NotALine(f"anchor {to.n} differs from the one that was kept")
            return
        previous = sealed.head
        start = data.find(b"\n", start) + 1
    raise NotALine(f"anchor {to.n}, which was kept, is missing")


def verify(
    folder: Path,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    kept: Sequence[Head] = (),
    progressed: Callable[[int], None] = lambda octets: None,
    now: datetime | None = None,
) -> Report:
    """Follow the chains and compare them with the anchors.

    `since` and `until` choose files that may hold lines of that period. `kept` are anchors
    kept elsewhere: what they seal is proven. `progressed` is called with octets read; `now`
    finds what is dated in the future. A running relay's files are verified as far as they are
    written.
    """
    report = Report()
    named: list[tuple[Head, str, int]] = []
    with ExitStack() as stack:
        if exists(folder / MAINTENANCE_LOCK):
            stack.enter_context(locked(folder / MAINTENANCE_LOCK, shared=True))
        anchors = AnchorCheck(folder, report)
        anchors.catch_up()
        anchors.choose_witness(kept)
        anchors.finish_reading()
        report.witness = anchors.witness
        found = segments(folder)
        for slot in sorted(anchors.slots | found.keys()):
            files = found.get(slot, [])
            chosen = _chosen(files, since, until)
            first, last = chosen[:1] == files[:1], chosen[-1:] == files[-1:]
            verifier = ChainVerifier(slot, report, anchors, named, progressed, now)
            for segment in chosen:
                verifier.file(segment, whole=first)
            verifier.end(complete=last, written=is_written(folder, slot))
        anchors.check_claims()
        anchors.catch_up()
        anchors.check_beginning()
        if anchors.torn:
            what = f"it ends in {counted(anchors.torn, 'octet')} of an incomplete line"
            report.add(Kind.TORN, ANCHORS, None, what)
        for head, file, line in named:
            if wrong := anchors.knows(head):  # it was not written in the meantime either
                report.add(Kind.ANCHOR, file, line, wrong, head.n)
        _compare_kept(kept, anchors, report)
    return report


def _compare_kept(kept: Sequence[Head], anchors: AnchorCheck, report: Report) -> None:
    wrong = False
    for head in kept:
        what = anchors.knows(head)
        if what is None:
            report.compared += 1
        else:
            wrong = True
            report.add(Kind.ANCHOR, ANCHORS, None, what, head.n)
    if kept and not wrong and report.witness is not None and not report.witness.n:
        what = "all anchors kept elsewhere are said to be deleted: they prove nothing here"
        report.add(Kind.ANCHOR, ANCHORS, None, what)


def size(folder: Path, since: datetime | None = None, until: datetime | None = None) -> int:
    """Return how many octets `verify` will read, for a progress bar."""
    return sum(
        segment.path.stat().st_size
        for files in segments(folder).values()
        for segment in _chosen(files, since, until)
    )


def _chosen(
    files: Sequence[Segment], since: datetime | None, until: datetime | None
) -> Sequence[Segment]:
    """Return the files that may hold lines of a period, with those between them."""
    found = list(chain.from_iterable(of_period(files, since, until)))
    return files[files.index(found[0]) : files.index(found[-1]) + 1] if found else files[:0]
