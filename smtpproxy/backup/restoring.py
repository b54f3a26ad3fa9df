"""Restoring a backup, with all marketing held back from the first moment."""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path

import msgspec
from msgspec import Struct

from smtpproxy.backup.journals import Journals, mark_as_copy, own_journals
from smtpproxy.backup.manifest import (
    CONFIGURATION,
    DATABASE,
    BackupFault,
    Manifest,
    digest,
    in_state,
    proven,
)
from smtpproxy.disk import exists, give_to_owner_of, is_dir, locked, sync_path
from smtpproxy.policy.model import Pause
from smtpproxy.settings import Settings
from smtpproxy.sinks.audit import anchors
from smtpproxy.sinks.audit.anchors import RestoredRow
from smtpproxy.sinks.audit.files import ANCHORS, is_written, segments
from smtpproxy.sinks.audit.lines import After
from smtpproxy.store import is_postgresql
from smtpproxy.store.change_journal import FOLDER, Journal, JournalGap, Position, files
from smtpproxy.store.sql.store import Store
from smtpproxy.store.sqlite.copying import hold


class Pending(Struct, frozen=True, omit_defaults=True):
    """A restore whose journal has yet to be replayed, from `changes` on."""

    taken_at: datetime
    changes: Position
    audit: dict[str, After] = {}  # where the decisions ended at the backup
    at: datetime | None = None  # when it was restored


class Placed(Struct, frozen=True):
    """What was restored, and which of the configuration's files were left, and why."""

    manifest: Manifest
    files: tuple[Path, ...]
    left: tuple[str, ...]
    same_configuration: bool


def pending(pause: Pause) -> Pending:
    """Return the restore that pauses all marketing. Raises BackupFault."""
    try:
        found = msgspec.json.decode(pause.reason or "", type=Pending)
    except msgspec.DecodeError as error:
        raise BackupFault(f"the database's record of the restore is damaged ({error})") from None
    return msgspec.structs.replace(found, at=pause.at)


def place(
    settings: Settings,
    configuration: Path,
    backup: Path,
    now: Callable[[], datetime],
    journals: Path | None = None,
) -> Placed:
    """Restore a backup to the places in the configuration, without overwriting anything.

    `journals` are put there first, so that the audit log continues from their end.

    The relay must not run. Raises BackupFault, StoreMisconfigured, OSError; nothing counts then, as
    the database comes last, and the same call can do the rest.
    """
    if is_postgresql(settings.store):
        raise BackupFault("store.url: the backup is of SQLite; set it to sqlite:///PATH")
    manifest = proven(backup)
    state = settings.server.state_dir
    audit = state / FOLDER
    if any(is_written(audit, slot) for slot in segments(audit)):
        raise BackupFault(f"{audit}: a relay is writing its audit log; stop it first")
    places = {
        name: path for name, path in in_state(settings).items() if manifest.kept(name) is not None
    }
    with _locked(settings):
        _refuse_existing(settings, places, manifest)
        if journals is not None:
            _bring(settings, journals)
        try:
            _, mark = Journal(audit).end()
        except JournalGap as error:
            raise BackupFault(
                f"the journal of changes on this machine is damaged: {error}"
            ) from error
        waiting = msgspec.json.encode(
            Pending(manifest.taken_at, manifest.changes, manifest.audit)
        ).decode()

        written = []
        for name, path in places.items():
            if name == DATABASE:
                _forget_answers(path)
                row = partial(RestoredRow, what="restored", of=manifest.taken_at)
                anchors.note(audit, now, row)
                _put(backup / name, path, lambda copy: hold(copy, now(), waiting, mark))
            elif exists(path):
                continue  # the existing one is newer
            else:
                _put(backup / name, path)
            written.append(path)
        named, left = _put_named(settings, backup, manifest)
        kept = manifest.kept(CONFIGURATION)
        same = kept is not None and digest(configuration) == kept.sha256
        return Placed(manifest, (*written, *named), left, same)


@contextmanager
def _locked(settings: Settings) -> Iterator[None]:
    """Lock out other restores to the same places. Raises BackupFault, OSError."""
    state = settings.server.state_dir
    audit = state / FOLDER
    audit.mkdir(mode=0o700, parents=True, exist_ok=True)
    give_to_owner_of(state, audit)
    busy = BackupFault(f"{state}: another restore is running there; wait for it")
    with locked(audit, busy):
        for folder in {audit, *(path.parent for path in in_state(settings).values())}:
            for left in folder.glob(".*.restoring*"):  # left by a restore that was killed
                left.unlink()
        yield


def _refuse_existing(settings: Settings, places: dict[str, Path], manifest: Manifest) -> None:
    """Raise BackupFault if there are files that would be overwritten or mixed with the backup."""
    for name, path in places.items():
        kept = manifest.kept(name)
        if name.endswith(".db") and (name == DATABASE or not exists(path)):
            found = [Path(f"{path}{end}") for end in ("", "-wal", "-shm")]
        elif name.endswith(".key") and exists(path) and kept and digest(path) != kept.sha256:
            found = [path]
        else:
            found = []
        for existing in found:
            if os.path.lexists(existing):
                raise BackupFault(
                    f"{existing}: already exists, and a restore overwrites nothing. Stop the relay,"
                    f" move {settings.server.state_dir} aside, and restore with --journals and the"
                    " folder that you moved"
                )


def _put(source: Path, target: Path, prepare: Callable[[Path], None] | None = None) -> None:
    """Copy a file to a new name, which it gets once it is complete and durable."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.restoring")
    for end in ("", "-journal", "-wal", "-shm"):  # left by a restore that was killed
        aside.with_name(f"{aside.name}{end}").unlink(missing_ok=True)
    try:
        out = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with source.open("rb") as data, os.fdopen(out, "wb") as copy:
            shutil.copyfileobj(data, copy, 1024 * 1024)
        if prepare is not None:
            prepare(aside)
        sync_path(aside)
        give_to_owner_of(target.parent, aside)
        target.hardlink_to(aside)  # never replaces a file
    except OSError as error:
        raise OSError(error.errno, error.strerror, error.filename or str(target)) from error
    finally:
        aside.unlink(missing_ok=True)
    sync_path(target.parent)


def _forget_answers(database: Path) -> None:
    """Delete the API's kept answers: their effects are undone, so repeated requests have to run."""
    answers = database.with_name(f"{database.stem}-answers.db")
    for end in ("", "-wal", "-shm"):
        answers.with_name(f"{answers.name}{end}").unlink(missing_ok=True)


def _put_named(
    settings: Settings, backup: Path, manifest: Manifest
) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """Restore missing files that the configuration names, if they may be written."""
    written, left = [], []
    named = {str(path) for path in settings.named_paths}
    for kept in manifest.files:
        if kept.path is None:
            continue
        path = Path(kept.path)
        if kept.path not in named:  # a backup must not choose places itself
            left.append(f"{path}: the configuration does not name it; the backup has {kept.name}")
            continue
        try:
            if exists(path):
                if digest(path) != kept.sha256:
                    left.append(f"{path}: differs from the backup, which has it as {kept.name}")
                continue
            if not is_dir(path.parent):
                raise FileNotFoundError(2, "its folder does not exist")
            _put(backup / kept.name, path)
            written.append(path)
        except OSError as error:
            left.append(f"{path}: {error.strerror}; copy {kept.name} of the backup there")
    return tuple(written), tuple(left)


def bring_journals(settings: Settings, given: Path) -> Journals:
    """Copy journals to the machine's folder, and return those to replay from.

    `given` is a copy of state_dir or of its folder of journals. Journals that the machine has stay,
    and those given are then only read. Raises BackupFault, OSError.
    """
    with _locked(settings):
        return _bring(settings, given)


def _bring(settings: Settings, given: Path) -> Journals:
    source = given / FOLDER if is_dir(given / FOLDER) else given
    own = settings.server.state_dir / FOLDER
    if not is_dir(source):
        raise BackupFault(f"{given}: no such folder; name a copy of state_dir, or of its audit")
    if source.resolve() == own.resolve():
        return own_journals(settings)
    decisions = _decisions(source)
    follows = _are_among(files(own), files(source))
    alone = bool(decisions) and follows and not _decisions(own)
    before = anchors.restored_alone(own) if alone else ()
    if before:  # else no decision could be put before what is anchored here
        (own / ANCHORS).unlink()
    # Anchors come last: without them, the files here are from a restore that was killed.
    if not exists(own / ANCHORS) and _are_among(_decisions(own), decisions):
        kept = [source / ANCHORS] if exists(source / ANCHORS) else []
        _put_missing((*decisions, *kept), own)
    for row in before:
        again = partial(RestoredRow, what=row.what, of=row.of)
        anchors.note(own, partial(_same, row.at), again)
    left = sum(not exists(own / path.name) for path in decisions)
    if not follows:
        return Journals(source, (own,), is_copy=True, left=left)
    if any(not exists(own / path.name) for path in files(source)):
        mark_as_copy(own)
    _put_missing(files(source), own)
    return Journals(own, (source,), own_journals(settings).is_copy, left)


def _same(moment: datetime) -> datetime:
    return moment


def _decisions(folder: Path) -> list[Path]:
    return [segment.path for found in segments(folder).values() for segment in found]


def _are_among(own: list[Path], others: list[Path]) -> bool:
    """Whether each file is among the others, with the same name and content."""
    named = {path.name: path for path in others}
    return all(path.name in named and digest(path) == digest(named[path.name]) for path in own)


def _put_missing(paths: Iterable[Path], folder: Path) -> None:
    for path in paths:
        if not exists(folder / path.name):
            _put(path, folder / path.name)


async def lost_snapshots(settings: Settings, store: Store, waiting: Pending) -> list[str]:
    """Say of which partners no snapshot was imported since the restore; no journal has them.

    Raises StoreUnavailable.
    """
    known = await store.snapshots()
    fresh = {name for name, one in known.items() if waiting.at and one.imported_at >= waiting.at}
    return [
        f"any snapshot of {partner.name} since the backup is lost: import the newest before mail"
        f" goes out (smtpproxy suppress import --partner {partner.name} FILE)"
        for partner in settings.partners
        if partner.name not in fresh
    ]
