"""Is the journal as it was written? The whole of it, or the files of a period."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

from smtpproxy.sinks.audit.anchor_check import AnchorCheck
from smtpproxy.sinks.audit.chain import Head
from smtpproxy.sinks.audit.chain_verifier import ChainVerifier
from smtpproxy.sinks.audit.files import (
    ANCHORS,
    MAINTENANCE_LOCK,
    Segment,
    is_written,
    locked,
    segments,
)
from smtpproxy.sinks.audit.findings import Finding, Kind, Report


def verify(
    folder: Path,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    kept: Sequence[Head] = (),
    looked: Callable[[int], None] = lambda octets: None,
    now: datetime | None = None,
) -> Report:
    """Follow the chains and hold them against the anchors.

    `since` and `until` choose files that may hold lines of that period. `kept` are anchors
    that were kept elsewhere: what they seal is proven. `looked` is told how many octets have
    been read; `now` is for what is dated in the future. A running relay's files are verified as
    far as they are written.
    """
    report = Report()
    named: list[tuple[Head, Finding]] = []
    with ExitStack() as stack:
        if (folder / MAINTENANCE_LOCK).exists():
            stack.enter_context(locked(folder / MAINTENANCE_LOCK, shared=True))
        anchors = AnchorCheck(folder, report)
        anchors.catch_up()
        anchors.choose_witness(kept)
        anchors.finish_reading()
        report.witness = anchors.witness
        found = segments(folder)
        for slot in sorted(anchors.slots | found.keys()):
            files = found.get(slot, [])
            chosen, first, last = of_period(files, since, until)
            verifier = ChainVerifier(slot, report, anchors, named, looked, now)
            for segment in chosen:
                verifier.file(segment, whole=first)
            verifier.end(complete=last, written=is_written(folder, slot))
        anchors.check_claims()
        anchors.catch_up()
        anchors.check_beginning()
        if anchors.torn:
            what = f"it ends in {anchors.torn} octets that are no line"
            report.add(Finding(Kind.TORN, ANCHORS, None, what))
        for head, finding in named:
            if anchors.knows(head) is not None:  # nor was it written in the meantime
                report.add(finding)
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
            report.add(Finding(Kind.ANCHOR, ANCHORS, None, what, head.n))
    if kept and not wrong and report.witness is not None and not report.witness.n:
        what = "all anchors that were kept elsewhere are said to be gone: they prove nothing here"
        report.add(Finding(Kind.ANCHOR, ANCHORS, None, what))


def size(folder: Path, since: datetime | None = None, until: datetime | None = None) -> int:
    """Return how many octets `verify` would read, for a progress bar."""
    return sum(
        segment.path.stat().st_size
        for files in segments(folder).values()
        for segment in of_period(files, since, until)[0]
    )


def of_period(
    files: Sequence[Segment], since: datetime | None, until: datetime | None
) -> tuple[Sequence[Segment], bool, bool]:
    """Return the files that may hold lines of a period, and whether they are the first, the last.

    A file begins at the time in its name and ends where the next one begins.
    """
    begun = [segment.begun for segment in files]
    first = 0 if since is None else max(bisect_left(begun, since) - 1, 0)
    last = len(files) if until is None else bisect_left(begun, until)
    return files[first:last], first == 0, last == len(files)
