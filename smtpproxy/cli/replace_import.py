"""Taking an import back, and one that takes the place of another of the same file."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from smtpproxy.cli.common import fail
from smtpproxy.cli.import_record import find, held, shown_state, user
from smtpproxy.cli.stores import now, using_store, warn
from smtpproxy.settings import Settings
from smtpproxy.store.exchange.files import Source
from smtpproxy.store.exchange.times import written_time
from smtpproxy.store.operations import UNDO_FOR, ImportRecord, Kind, Place, Undone
from smtpproxy.store.protocols import NoStoreYet, Store
from smtpproxy.terminal import counted

_BOTH = "none"
_READING = ("mapping", "format", "purpose", "scope", "origin")
"""Options that decide what a file is taken to say."""


@dataclass(frozen=True, slots=True)
class Replacing:
    """What --replace says: which import this one corrects, or that both are wanted."""

    record: ImportRecord | None = None
    both: bool = False

    def age(self, age: datetime) -> datetime:
        """Return the age of a file whose profiles have to count for more than the former."""
        if self.record is None:
            return age
        return max(age, self.record.as_of + timedelta(microseconds=1))


def to_replace(settings: Settings, id: str | None, kind: Kind) -> Replacing:
    """Read --replace; end the command where that import cannot be taken back."""
    if id is None or id == _BOTH:
        return Replacing(both=id is not None)
    record = find(settings, id)
    if record.kind != kind:
        fail(f"{record.id} is an import of {record.kind}", 2)
    check_undoable(settings, record)
    return Replacing(record)


def imported_otherwise(
    settings: Settings, record: ImportRecord, file: Source, place: Place | None = None
) -> ImportRecord | None:
    """Return the newest import of the same octets, when all took them for something else.

    `record` is the import at hand; `place` its end, of what comes through a pipe.
    """
    try:
        known = using_store(settings, lambda store: store.imports(), read_only=True)
    except NoStoreYet:
        return None
    same = [
        one
        for one in known
        if one.kind == record.kind
        and one.id != record.id
        and one.state not in ("undone", "undoing")
        and one.place.octets
        and (
            (one.place.octets, one.place.digest) == (place.octets, place.digest)
            if place is not None
            else one.size == file.size and file.starts_with(one.place.octets, one.place.digest)
        )
    ]
    if any(_reading(one) == _reading(record) for one in same):
        return None
    return same[-1] if same else None


def _reading(record: ImportRecord) -> list[str]:
    return [record.options.get(name, "") for name in _READING]


def said_before(name: str, former: ImportRecord) -> str:
    """Say that a file was imported under another mapping, and how to take that back."""
    return (
        f"{name} was imported before, as {former.id} on {former.started_at:%Y-%m-%d} by "
        f"{former.user}, under another mapping or with other options, and what that brought is "
        f"still there. To correct it, say --replace {former.id}: this is taken in, and then that "
        f"is taken back. Or take it back first: smtpproxy import undo {former.id}"
    )


def check_undoable(settings: Settings, record: ImportRecord) -> None:
    """End the command when an import cannot be taken back."""
    state = shown_state(settings, record)
    if state == "undone" and record.undone is not None:
        fail(f"{record.id} was undone on {written_time(record.undone.at)} by {record.undone.by}")
    if state == "running":
        fail(f"{record.id} is running; stop it first")
    if record.kind == "contacts" and record.started_at < now() - UNDO_FOR:
        fail(
            f"{record.id} is older than {UNDO_FOR.days} days: what profiles were before is not "
            "kept longer"
        )


def undo_import(settings: Settings, record: ImportRecord) -> Undone:
    """Take an import back; other processes know meanwhile that it is being worked on."""
    with held(settings, record.id):
        return using_store(settings, lambda store: _undo(store, record))


async def _undo(store: Store, record: ImportRecord) -> Undone:
    at, by = now(), user()
    done = Undone(at, by)
    try:
        while (part := await store.undo_import(record.id, at=at, by=by)) is not None:
            done = part
    except BaseException:
        warn(f"interrupted: {undone_in_words(record, done)} so far; run it again for the rest")
        raise
    return done


def undone_in_words(record: ImportRecord, undone: Undone) -> str:
    gone = "removed" if record.kind == "contacts" else "lifted"
    removed = counted(undone.removed, record.kind.removesuffix("s"))
    return (
        f"{removed} {gone}, {undone.put_back:,} put back, "
        f"{undone.kept:,} kept that others changed or confirmed since"
    )
