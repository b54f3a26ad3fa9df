"""Taking a backup, while the relay runs."""

import fcntl
import os
import secrets
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from smtpproxy.backup import manifest as manifests
from smtpproxy.backup.manifest import (
    CONFIGURATION,
    DATABASE,
    FORMAT,
    BackupFault,
    Kept,
    Manifest,
    digest,
    fingerprints,
    in_state,
    named_files,
    prove_databases,
)
from smtpproxy.disk import sync_path
from smtpproxy.settings import Settings
from smtpproxy.sinks.audit import anchors
from smtpproxy.store import is_postgresql
from smtpproxy.store.change_journal import FOLDER, Change, Journal, JournalGap
from smtpproxy.store.protocols import NoStoreYet, StoreMisconfigured
from smtpproxy.store.sqlite import check_there
from smtpproxy.store.sqlite.copying import counts, snapshot
from smtpproxy.version import VERSION

_TRIES = 2
"""The first fails if a key is retired between copying the database and the keys."""


def take(
    settings: Settings, configuration: Path, target: Path, now: Callable[[], datetime]
) -> tuple[Manifest, str]:
    """Make a backup in the folder `target`, which must not exist; it appears once all is checked.

    Returns the manifest and its SHA-256. Raises BackupFault, StoreUnavailable, OSError, and then
    leaves nothing.
    """
    if is_postgresql(settings.store):
        raise BackupFault(
            "store.url: back PostgreSQL up with its own tools, with continuous archiving, and copy"
            " state_dir, which holds the keys"
        )
    if os.path.lexists(target):
        raise BackupFault(
            f"{target}: already exists, and a backup overwrites nothing: name a new folder"
        )
    if not target.parent.is_dir():
        raise BackupFault(f"{target.parent}: no such folder; create it first")
    database = in_state(settings)[DATABASE]
    try:
        check_there(database, settings.server.state_dir)
    except NoStoreYet:
        raise BackupFault(f"{database}: there is no database yet: nothing to back up") from None
    with _work_folder(target) as folder:
        try:
            manifest = _filled(settings, configuration, folder, now)
        except StoreMisconfigured as fault:  # of a copy, but it is the original that is at fault
            text = str(fault).replace(str(folder), str(settings.server.state_dir))
            raise StoreMisconfigured(text) from fault
        written = manifests.write(folder, manifest)
        sync_path(folder)
        try:
            folder.rename(target)  # fails if something was put there meanwhile
        except OSError as error:
            raise BackupFault(f"{target}: {error.strerror}; nothing was overwritten") from error
        sync_path(target.parent)
    return manifest, written


@contextmanager
def _work_folder(target: Path) -> Iterator[Path]:
    """Create a private folder beside the target, after removing those of killed backups."""
    for left in target.parent.glob(f".{target.name}.*.partial"):
        with suppress(OSError):
            _remove_if_left(left)
    folder = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    folder.mkdir(mode=0o700)
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _remove_if_left(folder: Path) -> None:
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder)
    finally:
        os.close(lock)


def _filled(
    settings: Settings, configuration: Path, folder: Path, now: Callable[[], datetime]
) -> Manifest:
    state = settings.server.state_dir
    at = now()
    journal = Journal(state / FOLDER)
    # The position in the journal comes first: it is harmless if later commits are replayed as well.
    try:
        with journal.locked():
            _, mark = journal.end()
            changes = journal.append([(Change(at, "backup"), mark)], at)
    except JournalGap as error:
        raise BackupFault(f"the journal of changes is damaged: {error}") from error
    anchor, heads = anchors.position(state / FOLDER)
    for attempt in range(_TRIES):
        _copy_state(settings, folder)
        try:
            keys = fingerprints(folder)
            break
        except StoreMisconfigured:
            if attempt == _TRIES - 1:
                raise
    _copy(configuration, folder / CONFIGURATION)
    places: dict[str, Path] = {}
    for number, path in enumerate(named_files(settings)):
        name = f"named-{number}"
        _copy(path, folder / name)
        places[name] = path
    schema, contacts, suppressions = counts(folder / DATABASE)
    manifest = Manifest(
        format=FORMAT,
        program=VERSION,
        host=socket.gethostname(),
        taken_at=at,
        schema=schema,
        contacts=contacts,
        suppressions=suppressions,
        keys=keys,
        changes=changes,
        anchor=anchor,
        audit=heads,
        files=tuple(_kept(path, places.get(path.name)) for path in sorted(folder.iterdir())),
    )
    prove_databases(folder, manifest)
    return manifest


def _copy_state(settings: Settings, folder: Path) -> None:
    """Copy the files of state_dir: the database before its keys, which a rekeying adds first."""
    files = in_state(settings)
    for name in sorted(files, key=lambda name: name != DATABASE):
        (folder / name).unlink(missing_ok=True)
        if not files[name].exists():
            continue
        if name.endswith(".db"):
            snapshot(files[name], folder / name)
        else:
            _copy(files[name], folder / name)


def _copy(source: Path, target: Path) -> None:
    """Copy a file to a new one that only its owner can read."""
    out = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with source.open("rb") as data, os.fdopen(out, "wb") as copy:
            shutil.copyfileobj(data, copy, 1024 * 1024)
    except OSError as error:
        raise OSError(error.errno, error.strerror, error.filename or str(target)) from error


def _kept(path: Path, place: Path | None) -> Kept:
    sync_path(path)
    return Kept(path.name, path.stat().st_size, digest(path), None if place is None else str(place))
