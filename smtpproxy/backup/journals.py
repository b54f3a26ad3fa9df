"""Checking where the journals end, and who was erased since: anchors show what a copy lacks."""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from shlex import quote

from msgspec import Struct

from smtpproxy.disk import exists, give_to_owner_of, is_dir, sync_path
from smtpproxy.settings import Settings
from smtpproxy.sinks.audit import anchors
from smtpproxy.sinks.audit.anchors import AnchorRow
from smtpproxy.sinks.audit.chain import Head
from smtpproxy.sinks.audit.erase import StillWritten, pseudonymise, repeat
from smtpproxy.sinks.audit.files import last_line, segments
from smtpproxy.sinks.audit.lines import After
from smtpproxy.store.change_journal import FOLDER, Journal, JournalGap, Line, Position

_COPIED = "changes.copied"
"""Marks a journal of changes as a copy, which may end before the original did."""


class Journals(Struct, frozen=True):
    """`changes` is the folder to replay from, `others` are further ones with anchors and decisions.

    A copy may end before its original. `left` files of decisions were not copied.
    """

    changes: Path
    others: tuple[Path, ...] = ()
    is_copy: bool = False
    left: int = 0

    @property
    def folders(self) -> tuple[Path, ...]:
        return tuple(dict.fromkeys((self.changes, *self.others)))


def own_journals(settings: Settings) -> Journals:
    """Return the journals in state_dir, for when no others are given."""
    own = settings.server.state_dir / FOLDER
    return Journals(own, is_copy=exists(own / _COPIED))


def mark_as_copy(own: Path) -> None:
    """Mark, durably, that the journal there is about to become a copy. Raises OSError."""
    mark = own / _COPIED
    mark.touch(0o600)
    give_to_owner_of(own, mark)
    sync_path(own)


def trust(own: Path) -> None:
    """Remove the mark: from now on it is the relay's own journal. Raises OSError."""
    (own / _COPIED).unlink(missing_ok=True)


def written_since(own: Path, restored: datetime, begin: Position) -> frozenset[Head]:
    """Return the ends after `begin` that the machine's own journal has had since a restore.

    No copy of the lost journal can have these changes, so anchors of them do not show that it lacks
    any.
    """
    journal = Journal(own)
    lines = list(journal.readable(begin.n))
    ends = {line.n - 1: line.after for line in lines}
    with suppress(JournalGap):
        end, _ = journal.end()
        ends[end.n] = end.hash
    since = [line.n for line in lines if line.change.at >= restored]
    return frozenset(Head(n, ends[n]) for n in since if n in ends)


def missing_changes(
    journals: Journals,
    begin: Position,
    lines: Sequence[Line],
    kept: Iterable[Head],
    *,
    whole: bool,
    ours: Set[Head],
) -> Iterator[str]:
    """Yield the changes that the journal lacks, by its anchors and those `kept` elsewhere.

    `lines` follow `begin`; unless `whole` they are only those that could be read. Anchors of `ours`
    do not count.
    """
    journal = Journal(journals.changes)
    try:
        end, _ = journal.end()
    except JournalGap:
        return  # already reported
    found = {line.n - 1: line.after for line in lines} | {end.n: end.hash}
    known = [*kept, *(head for folder in journals.folders for head in _anchored(folder))]
    known = [head for head in known if head.n > begin.n and head not in ours]
    last = max((head.n for head in known), default=0)
    if last > end.n:
        many, them = f"change {last} is", "it"
        if last > end.n + 1:
            many, them = f"changes {end.n + 1} to {last} are", "them"
        yield (
            f"{many} missing: an anchor has {them}, but {journals.changes} ends before {them};"
            " it is an older copy"
        )
    for head in known:
        if whole and head.n in found and found[head.n] != head.hash:
            yield (
                f"change {head.n} differs from that in an anchor: {journals.changes} is the"
                " journal of another relay, or was rewritten"
            )
            return


def unconfirmed(journals: Journals, own: Path, end: int, at: datetime) -> str:
    """Say that a copy ends with a change, and how to confirm that the original did too."""
    given = "" if journals.changes == own else f" --journals {quote(str(journals.changes))}"
    return (
        f"any changes after change {end} of {at:%Y-%m-%dT%H:%M:%SZ}, with which this copy of the"
        " journals ends. If there were none (the relay had stopped before it was copied, or it was"
        f" moved, not copied), run: smtpproxy restore{given} --journals-whole --by NAME"
        " --reason TEXT"
    )


def missing_decisions(folder: Path, at_backup: Mapping[str, After]) -> Iterator[str]:
    """Yield the decisions since the backup that the folder lacks, by its newest anchor."""
    last = anchors.newest(folder)
    if last is None:
        return
    files = {str(slot): found for slot, found in segments(folder).items()}
    for slot, head in last.row.heads.items():
        before = at_backup[slot].n if slot in at_backup else 0
        found = last_line(files.get(slot, []))
        n = 0 if found is None else found.head.n
        if head.n > max(before, n):
            yield (
                f"{folder}: decisions of worker {slot} end with row {n}, but anchor {last.n} has"
                f" row {head.n}: mail after row {n} is not counted"
            )


def _anchored(folder: Path) -> Iterator[Head]:
    """Yield the ends of the journal of changes in the anchors of a folder."""
    for anchor in filter(None, anchors.each(folder, b'"changes"')):
        if isinstance(anchor.row, AnchorRow) and anchor.row.changes is not None:
            yield anchor.row.changes


_ERASING_TAKES = timedelta(minutes=1)
_AHEAD = timedelta(days=1)


def erase_from_copy(audit: Path, people: Mapping[str, datetime], now: datetime) -> Iterator[str]:
    """Erase people from decisions that were copied before the time of their erasure.

    Later copies show whether they were erased or kept, as proof. Yields what was left, and why.
    Raises OSError.
    """
    copied = anchors.last_taken(audit, now + _AHEAD)
    if is_dir(audit):
        repeat(audit)
    for address, since in people.items():
        if copied is None or copied - since <= _ERASING_TAKES:
            try:
                pseudonymise(audit, address)
            except StillWritten as fault:
                yield str(fault)
