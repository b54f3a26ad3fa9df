"""Putting a backup in place: all marketing is held back from the first moment on."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec
from msgspec import Struct

from smtpproxy.backup.manifest import (
    CONFIGURATION,
    DATABASE,
    BackupFault,
    Manifest,
    digest,
    in_state,
    proven,
)
from smtpproxy.policy.model import Pause
from smtpproxy.settings import Settings
from smtpproxy.sinks.audit import anchors
from smtpproxy.sinks.audit.files import ANCHORS, is_written, segments
from smtpproxy.store import is_postgresql
from smtpproxy.store.change_journal import (
    FOLDER,
    Journal,
    JournalGap,
    Position,
    files,
    sync_folder,
)
from smtpproxy.store.key_files import give_to_owner_of
from smtpproxy.store.sqlite.copying import hold


class Pending(Struct, frozen=True):
    """A restore that waits for its journal: from where on, and when the backup was taken."""

    taken_at: datetime
    changes: Position


@dataclass(frozen=True, slots=True)
class Placed:
    """What was put in place, what of the configuration's files was not, and why."""

    manifest: Manifest
    files: tuple[Path, ...]
    left: tuple[str, ...]
    same_configuration: bool


def pending(pause: Pause) -> Pending:
    """Return what the pause of all marketing waits for. Raises BackupFault."""
    try:
        return msgspec.json.decode(pause.reason or "", type=Pending)
    except msgspec.DecodeError as error:
        raise BackupFault(f"what was restored cannot be read from the database ({error})") from None


def place(
    settings: Settings,
    configuration: Path,
    backup: Path,
    now: Callable[[], datetime],
    journals: Path | None = None,
) -> Placed:
    """Restore a backup to where the configuration says, over nothing that is there.

    `journals` come first: the audit log then goes on from where they end.

    The relay must not run. Raises BackupFault, StoreMisconfigured, OSError: nothing is changed, or
    the same call does the rest: the database comes last.
    """
    if is_postgresql(settings.store):
        raise BackupFault("store.url: what was backed up is SQLite; right is sqlite:///PATH")
    manifest = proven(backup)
    state = settings.server.state_dir
    audit = state / FOLDER
    if any(is_written(audit, slot) for slot in segments(audit)):
        raise BackupFault(f"{audit}: a relay is writing its audit log; stop it first")
    places = {
        name: path for name, path in in_state(settings).items() if manifest.kept(name) is not None
    }
    _refuse_what_is_there(settings, places, manifest)
    audit.mkdir(mode=0o700, parents=True, exist_ok=True)
    give_to_owner_of(state, audit)
    if journals is not None:
        bring_journals(settings, journals)
    try:
        _, mark = Journal(audit).end()
    except JournalGap as error:
        raise BackupFault(f"the journal of changes on this machine is damaged: {error}") from error
    waiting = msgspec.json.encode(Pending(manifest.taken_at, manifest.changes)).decode()
    written = []
    for name, path in places.items():
        if name == DATABASE:
            anchors.note_restored(audit, now, "restored", manifest.taken_at)
            _put(backup / name, path, lambda copy: hold(copy, now(), waiting, mark))
        elif path.exists():
            continue  # it is newer than the backup's
        else:
            _put(backup / name, path)
        written.append(path)
    named, left = _put_named(backup, manifest)
    kept = manifest.kept(CONFIGURATION)
    same = kept is not None and digest(configuration) == kept.sha256
    return Placed(manifest, (*written, *named), left, same)


def _refuse_what_is_there(settings: Settings, places: dict[str, Path], manifest: Manifest) -> None:
    """Raise BackupFault where what counts is there and would be overwritten, or mixed up."""
    for name, path in places.items():
        kept = manifest.kept(name)
        if name.endswith(".db") and (name == DATABASE or not path.exists()):
            found = [Path(f"{path}{end}") for end in ("", "-wal", "-shm")]
        elif name.endswith(".key") and path.exists() and kept and digest(path) != kept.sha256:
            found = [path]
        else:
            found = []
        for there in found:
            if os.path.lexists(there):
                raise BackupFault(
                    f"{there}: is there already, and a restore overwrites nothing. Stop the relay,"
                    f" move {settings.server.state_dir} aside, restore, and give what was moved to"
                    " --journals"
                )


def _put(source: Path, target: Path, prepare: Callable[[Path], None] | None = None) -> None:
    """Copy a file to a new name; it has the name only once it is whole and on the disk."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.restoring")
    aside.unlink(missing_ok=True)
    try:
        out = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with source.open("rb") as data, os.fdopen(out, "wb") as copy:
            shutil.copyfileobj(data, copy, 1024 * 1024)
        if prepare is not None:
            prepare(aside)
        file = os.open(aside, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)
        give_to_owner_of(target.parent, aside)
        target.hardlink_to(aside)  # never over what was put there meanwhile
    finally:
        aside.unlink(missing_ok=True)
    sync_folder(target.parent)


def _put_named(backup: Path, manifest: Manifest) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """Put the files that the configuration names where they are missing, and may be written."""
    written, left = [], []
    for kept in manifest.files:
        if kept.path is None:
            continue
        path = Path(kept.path)
        try:
            if path.exists():
                if digest(path) != kept.sha256:
                    left.append(f"{path}: is another now; the backup has it as {kept.name}")
                continue
            if not path.parent.is_dir():
                raise FileNotFoundError(2, "its folder is not there")
            _put(backup / kept.name, path)
            written.append(path)
        except OSError as error:
            left.append(f"{path}: {error.strerror}; copy {kept.name} of the backup there")
    return tuple(written), tuple(left)


def bring_journals(settings: Settings, given: Path) -> Path:
    """Return the folder to replay from: that of the machine, once it has what is given.

    `given` is a copy of state_dir or of its folder of journals. Where the machine has journals of
    its own, these stay, and those given are only read. Raises BackupFault, OSError.
    """
    source = given / FOLDER if (given / FOLDER).is_dir() else given
    own = settings.server.state_dir / FOLDER
    if not source.is_dir():
        raise BackupFault(f"{given}: no such folder; right is a copy of state_dir, or of its audit")
    if source.resolve() == own.resolve():
        return own
    if not segments(own) and not (own / ANCHORS).exists():
        decisions = [segment.path for found in segments(source).values() for segment in found]
        kept = [source / ANCHORS] if (source / ANCHORS).exists() else []
        for path in (*decisions, *kept):
            _put(path, own / path.name)
    if files(own):
        return source
    for path in files(source):
        _put(path, own / path.name)
    return own
