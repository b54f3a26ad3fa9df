"""The record of an import: who ran it, how to resume it, and which import it replaces."""

import fcntl
import hashlib
import os
import pwd
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, ParamSpec

import click
from msgspec import Struct

from smtpproxy.access import Access, OthersConcerned
from smtpproxy.cli import fail
from smtpproxy.cli.options import Value
from smtpproxy.cli.stores import read_store, using_store, warn
from smtpproxy.clock import now
from smtpproxy.disk import give_to_owner_of
from smtpproxy.import_options import check_as_of
from smtpproxy.settings import Settings
from smtpproxy.store.exchange.files import STDIN, Source
from smtpproxy.store.exchange.plausible import SKEW
from smtpproxy.store.exchange.times import NO_EARLIER, written_time
from smtpproxy.store.operations import UNDO_FOR, Checkpoint, ImportRecord, Kind, Undone, brands_of
from smtpproxy.store.records import NoStoreYet
from smtpproxy.store.sql.store import Store
from smtpproxy.terminal import counted

P = ParamSpec("P")

BOTH = "none"
"""The --replace with which an earlier import of the same file is kept."""
_READING = ("mapping", "format", "purpose", "brand", "scope", "origin", "set")
"""Options that decide how a file is interpreted."""


class Behalf(Struct, frozen=True):
    """Whom the relay runs a command for, and the id that it has already given them."""

    id: str
    by: str


def _behalf(value: str) -> Behalf:
    id, _, by = value.partition(" ")
    return Behalf(id, by)


BehalfOf = Annotated[Behalf, Value("ID WHO", _behalf)]


def access_of(settings: Settings, job: Behalf | None) -> Access:
    """Return what a command may see and change; end it if its token may no longer import.

    A person may see and change everything, a token whatever it is allowed now.
    """
    if job is None:
        return Access("", frozenset(), settings)
    name = job.by.removeprefix("token ")
    token = next((one for one in settings.tokens if one.name == name), None)
    if token is None or "import" not in token.may:
        fail(f"the token {name} may no longer import: the token or its right was removed")
    return Access(name, token.brands, settings)


def rejecting(check: Callable[P, None]) -> Callable[P, None]:
    """Return the check of a token's access, raising ValueError, which rejects a line."""

    def checked(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            check(*args, **kwargs)
        except OthersConcerned as error:
            raise ValueError(str(error)) from None

    return checked


def user() -> str:
    """Return the operating system's user, and under sudo the user behind it."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = str(os.getuid())
    behind = os.environ.get("SUDO_USER", "")
    return f"{name} for {behind}" if behind and behind != name else name


def digest_of(path: Path | None) -> str:
    """Return a digest that identifies a mapping; empty without one."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path else ""


def input_time(file: Path) -> datetime:
    """Return when the file was last written; for a pipe, now."""
    found = os.fstat(0) if file == STDIN else file.stat()
    if not stat.S_ISREG(found.st_mode):
        return now()
    return datetime.fromtimestamp(found.st_mtime_ns // 1000 / 1e6, UTC)


def age_of(file_time: datetime, as_of: datetime | None = None) -> datetime:
    """Return the time that a file describes, which is never in the future."""
    if as_of is not None:
        try:
            check_as_of(as_of, now())
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--as-of") from error
        return as_of
    wrong = "in the future" if file_time > now() + SKEW else ""
    if file_time < NO_EARLIER:
        wrong = "no date but what archives give to files that have none"
    if wrong:
        warn(
            f"the file was last written on {file_time:%Y-%m-%d}, which is {wrong}; the current"
            " time is used"
        )
        return now()
    return min(file_time, now())


def is_on_record(settings: Settings, id: str) -> bool:
    """Return whether an import with that id has begun."""
    return any(record.id == id for record in _on_record(settings))


def _on_record(settings: Settings) -> Sequence[ImportRecord]:
    try:
        return using_store(settings, Store.imports, read_only=True)
    except NoStoreYet:
        return ()


def to_resume(
    settings: Settings, id: str | None, kind: Kind, options: Mapping[str, str]
) -> ImportRecord | None:
    """Return the import to resume; end the command if it cannot be resumed."""
    if id is None:
        return None
    record = find(settings, id)
    if record.kind != kind:
        fail(f"{record.id} is an import of {record.kind}", 2)
    state = shown_state(settings, record)
    if state != "interrupted":
        right = (
            "import the file again" if state in ("undone", "undoing") else "nothing is left to do"
        )
        fail(f"{record.id} is {state}: {right if state != 'running' else 'wait until it ends'}")
    for name in sorted({*options, *record.options}):
        now_given, was = options.get(name, ""), record.options.get(name, "")
        if now_given not in (was, was.replace("+00:00", "Z")):  # as times were once recorded
            with_what = f"with --{name} {was}" if was else f"without --{name}"
            fail(f"{record.id} was started {with_what}: resume it in the same way", 2)
    return record


def check_same(record: ImportRecord, file: Source, name: str) -> None:
    """End the command unless `file` is the one that the import was reading."""
    if file.size is None:
        fail(
            f"{name}: this is a pipe, and only the import of a file can be resumed; import all of"
            " it again: what is already stored does not change"
        )
    place = record.place
    is_same = not place.octets or file.starts_with(place.octets, place.digest)
    if file.size != record.size or not is_same:
        fail(
            f"{name}: not the file that {record.id} was reading (its size or its first "
            f"{place.octets:,} octets differ); import it again"
        )


def find(settings: Settings, id: str, access: Access | None = None) -> ImportRecord:
    """Return the import whose id is, or alone begins with, `id`; otherwise end the command.

    Only imports that `access` may see are found.
    """
    found = [
        record
        for record in read_store(settings, Store.imports)
        if record.id.startswith(id.upper())
        and (access is None or access.sees_import(brands_of(record)))
    ]
    if len(found) != 1 or not id:
        fail(f"{id}: {'more than one id begins with that' if found else 'no such import'}")
    return found[0]


def shown_state(settings: Settings, record: ImportRecord) -> str:
    """Return the state; an import whose process died is interrupted."""
    if record.state == "running" and not is_locked(settings, record.id):
        return "interrupted"
    return record.state


@contextmanager
def locked(settings: Settings, id: str) -> Iterator[None]:
    """Lock this import against other processes.

    The system releases the lock when the process ends, however it ends.
    """
    with _lock_file(settings) as descriptor:
        if not _try_lock(descriptor, id):
            fail(f"{id}: another process is working on it")
        yield


def is_locked(settings: Settings, id: str) -> bool:
    """Return whether another process holds this import."""
    with _lock_file(settings) as descriptor:
        return not _try_lock(descriptor, id)


def _try_lock(descriptor: int, id: str) -> bool:
    """Lock the octet of the lock file that stands for an import; False if another process has."""
    place = int.from_bytes(hashlib.sha256(id.encode()).digest()[:7], "big")
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _lock_file(settings: Settings) -> Iterator[int]:
    path = settings.server.state_dir / "imports.lock"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        give_to_owner_of(path.parent, path)
    descriptor = os.open(path, os.O_RDWR)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def to_replace(access: Access, id: str | None, kind: Kind) -> ImportRecord | None:
    """Return the import that --replace names; end the command if that cannot be undone."""
    if id is None or id == BOTH:
        return None
    record = find(access.settings, id, access)
    if record.kind != kind:
        fail(f"{record.id} is an import of {record.kind}", 2)
    check_undoable(access.settings, record)
    return record


def imported_otherwise(
    access: Access, record: ImportRecord, file: Source, place: Checkpoint | None = None
) -> ImportRecord | None:
    """Return the newest import of the same octets, if all of them interpreted these otherwise.

    An import whose lines were all rejected does not count. `record` is the import at hand,
    `place` its end when it was read from a pipe.
    """
    same = [
        one
        for one in _on_record(access.settings)
        if one.kind == record.kind
        and access.sees_import(brands_of(one))
        and one.id != record.id
        and one.state not in ("undone", "undoing")
        and one.place.octets
        and (one.added or one.changed or one.unchanged)
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


def imported_before(name: str, former: ImportRecord) -> str:
    """Say that a file was imported under another mapping, and how to undo that."""
    return (
        f"{name} was imported before, as {former.id} on {former.started_at:%Y-%m-%d} by "
        f"{former.user}, under another mapping or with other options, and that data is still "
        f"stored. To correct it, use --replace {former.id}: this file is imported, then that "
        f"import is undone. Or undo it first: smtpproxy import undo {former.id}"
    )


def check_undoable(settings: Settings, record: ImportRecord) -> None:
    """End the command if an import cannot be undone."""
    state = shown_state(settings, record)
    if state == "undone" and record.undone is not None:
        fail(f"{record.id} was undone on {written_time(record.undone.at)} by {record.undone.by}")
    if state == "running":
        fail(f"{record.id} is running; stop it first")
    if record.kind == "contacts" and record.started_at < now() - UNDO_FOR:
        fail(
            f"{record.id} is older than {UNDO_FOR.days} days: earlier profiles are not kept "
            "longer than that"
        )


def undo_import(settings: Settings, record: ImportRecord, access: Access, by: str = "") -> Undone:
    """Undo an import, locked against other processes meanwhile.

    `by` is on whose behalf, otherwise whoever runs the command. Suppressions that bear on the mail
    of brands outside `access` stay: a purpose may have become theirs too.
    """
    with locked(settings, record.id):
        return using_store(settings, lambda store: _undo(store, record, access, by or user()))


async def _undo(store: Store, record: ImportRecord, access: Access, by: str) -> Undone:
    at = now()
    done = Undone(at, by)
    try:
        while (
            part := await store.undo_import(record.id, at=at, by=by, may_lift=access.changes_scope)
        ) is not None:
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
