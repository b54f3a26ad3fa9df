"""Where the journals end: what anchors know of that a copy of them lacks."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from smtpproxy.disk import sync_folder
from smtpproxy.settings import Settings
from smtpproxy.sinks.audit import anchors
from smtpproxy.sinks.audit.anchors import AnchorRow
from smtpproxy.sinks.audit.chain import Head, NotALine
from smtpproxy.sinks.audit.files import ANCHORS, last_line, segments
from smtpproxy.sinks.audit.lines import After
from smtpproxy.store.change_journal import FOLDER, Journal, JournalGap, Line, Position
from smtpproxy.store.key_files import give_to_owner_of

_COPIED = "changes.copied"
"""Beside a journal of changes that is a copy: nobody knows whether it ends where the first did."""


@dataclass(frozen=True, slots=True)
class Journals:
    """`changes` is the folder to replay from, `others` where else anchors and decisions are.

    A copy may end before the journal that it was made of. `left` files of decisions stay in it.
    """

    changes: Path
    others: tuple[Path, ...] = ()
    is_copy: bool = False
    left: int = 0

    @property
    def folders(self) -> tuple[Path, ...]:
        return tuple(dict.fromkeys((self.changes, *self.others)))


def own_journals(settings: Settings) -> Journals:
    """Return those in state_dir, where no others are given."""
    own = settings.server.state_dir / FOLDER
    return Journals(own, is_copy=(own / _COPIED).exists())


def mark_as_copy(own: Path) -> None:
    """Note, on the disk, that the journal there is about to become a copy. Raises OSError."""
    mark = own / _COPIED
    mark.touch(0o600)
    give_to_owner_of(own, mark)
    sync_folder(own)


def trust(own: Path) -> None:
    """Whatever came of the copy, what is written from now on is the journal. Raises OSError."""
    (own / _COPIED).unlink(missing_ok=True)


def what_is_short(
    journals: Journals, begin: Position, lines: Sequence[Line], kept: Iterable[Head], *, whole: bool
) -> Iterator[str]:
    """Yield what the anchors, and those `kept` elsewhere, know of and the journal lacks.

    `lines` follow `begin`; unless `whole` they are what could be read.
    """
    journal = Journal(journals.changes)
    try:
        end, _ = journal.end()
    except JournalGap:
        return  # that is said already
    found = {line.n - 1: line.after for line in lines} | {end.n: end.hash}
    known = [*kept, *(head for folder in journals.folders for head in _anchored(folder))]
    known = [head for head in known if head.n > begin.n]
    last = max((head.n for head in known), default=0)
    if last > end.n:
        many = f"changes {end.n + 1} to {last} are" if last > end.n + 1 else f"change {last} is"
        yield (
            f"{many} missing: an anchor knows of them, and {journals.changes} ends before them;"
            " it is an older copy"
        )
    for head in known:
        if whole and head.n in found and found[head.n] != head.hash:
            yield (
                f"change {head.n} is another than when an anchor was taken: {journals.changes} is"
                " the journal of another relay, or was rewritten"
            )
            return


def decisions_that_are_short(folder: Path, at_backup: Mapping[str, After]) -> Iterator[str]:
    """Yield which decisions since the backup an anchor knows of, and the folder lacks."""
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
                f"{folder}: decisions of worker {slot} end with row {n}, and anchor {last.n} knows"
                f" of row {head.n}: who was mailed after that is not counted"
            )


def _anchored(folder: Path) -> Iterator[Head]:
    """Yield the ends of the journal of changes that the anchors of a folder tell of."""
    path = folder / ANCHORS
    if not path.exists():
        return
    with path.open("rb") as lines:
        for raw in lines:
            if b'"changes"' not in raw:
                continue
            try:
                row = anchors.read_anchor(raw).row
            except NotALine:
                continue  # `audit verify` tells of it
            if isinstance(row, AnchorRow) and row.changes is not None:
                yield row.changes
