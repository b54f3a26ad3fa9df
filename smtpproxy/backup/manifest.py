"""Taking a backup while the relay runs, and its manifest, by which it is checked."""

import os
import re
import secrets
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from hashlib import file_digest
from pathlib import Path

import msgspec
from msgspec import Struct

from smtpproxy.disk import exists, flush, is_dir, is_file, locked, sync_path
from smtpproxy.settings import Settings
from smtpproxy.sinks.audit import anchors
from smtpproxy.sinks.audit.chain import Head
from smtpproxy.sinks.audit.lines import After
from smtpproxy.store import is_postgresql, store_path
from smtpproxy.store.change_journal import FOLDER, Change, Journal, JournalGap, Position
from smtpproxy.store.key_files import FILE_NAME as SUPPRESSION_KEY
from smtpproxy.store.key_files import key_place
from smtpproxy.store.link_keys import LINK_KEY_FILE, load_link_keys
from smtpproxy.store.records import NoStoreYet, StoreMisconfigured
from smtpproxy.store.sqlite import check_there
from smtpproxy.store.sqlite.copying import counts, integrity, proven_keys, snapshot
from smtpproxy.version import VERSION

NAME = "manifest.json"
FORMAT = 1
DATABASE = "smtpproxy.db"
CONFIGURATION = "configuration.toml"
_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}")
_LARGEST = 4 * 1024 * 1024  # octets of a manifest
_DATABASES = ("mailings", "streams", "feedback", "confirmations")
"""The databases beside the store's. That of copies is left out: it is soon out of date."""


class BackupFault(Exception):
    """A backup cannot be made or restored; the text says why, and how to fix it."""

    exit_code = 1


class Kept(Struct, frozen=True, omit_defaults=True):
    """A file of the backup; `path` is the place of one that the configuration names."""

    name: str
    size: int
    sha256: str
    path: str | None = None


class Manifest(Struct, frozen=True):
    """`keys` are fingerprints by version; `changes` and `audit` are the ends of the journals."""

    format: int
    program: str
    host: str
    taken_at: datetime
    schema: int
    contacts: int
    suppressions: int
    keys: dict[str, dict[str, str]]
    changes: Position
    anchor: Head | None
    audit: dict[str, After]
    files: tuple[Kept, ...]

    def kept(self, name: str) -> Kept | None:
        return next((each for each in self.files if each.name == name), None)


_decode = msgspec.json.Decoder(Manifest).decode


def write(folder: Path, manifest: Manifest) -> str:
    """Write it durably; return its SHA-256. Raises OSError."""
    path = folder / NAME
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(file, "wb") as out:
        out.write(msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")
        flush(out)
    return digest(path)


def proven(folder: Path) -> Manifest:
    """Read the manifest of a backup, and check all of it.

    Raises BackupFault if it is incomplete or changed, StoreMisconfigured if the keys are not those
    of the database, or the database is of a newer release, and OSError.
    """
    manifest = _read(folder)
    for kept in manifest.files:
        path = folder / kept.name
        if path.is_symlink() or not is_file(path):
            raise BackupFault(f"{path}: is missing, or not a file: the backup is incomplete")
        size = path.stat().st_size
        if size != kept.size:
            raise BackupFault(
                f"{path}: has {size} octets instead of {kept.size}; the backup is damaged"
            )
        if digest(path) != kept.sha256:
            raise BackupFault(
                f"{path}: differs from what was backed up (SHA-256); the backup is damaged"
            )
    prove_databases(folder, manifest)
    found = fingerprints(folder)
    for name, keys in manifest.keys.items():
        if found.get(name) != keys:
            raise BackupFault(
                f"{folder / name}: does not hold the keys that the backup was made with; restore"
                f" the key file that belongs to it ({', '.join(keys.values())})"
            )
    return manifest


def _read(folder: Path) -> Manifest:
    path = folder / NAME
    try:
        if path.stat().st_size > _LARGEST:
            raise BackupFault(f"{path}: too large for a manifest; it is not a backup of smtpproxy")
        manifest = _decode(path.read_bytes())
    except FileNotFoundError:
        raise BackupFault(
            f"{folder}: not a backup: it has no {NAME}; name a folder that smtpproxy backup made"
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BackupFault(f"{path}: cannot be read ({error}); the backup is damaged") from None
    if manifest.format != FORMAT:
        raise BackupFault(
            f"{path}: a backup of format {manifest.format}, but this program knows {FORMAT};"
            " restore it with a newer smtpproxy"
        )
    for kept in manifest.files:
        if not _SAFE.fullmatch(kept.name) or kept.name == NAME:
            raise BackupFault(f"{path}: {kept.name!r} is not the name of a file in a backup")
    if manifest.kept(DATABASE) is None or manifest.kept(SUPPRESSION_KEY) is None:
        raise BackupFault(f"{path}: does not list {DATABASE} and {SUPPRESSION_KEY}")
    return manifest


def prove_databases(folder: Path, manifest: Manifest) -> None:
    """Raises BackupFault, StoreMisconfigured."""
    for kept in manifest.files:
        if kept.name.endswith(".db") and (found := integrity(folder / kept.name)) != "ok":
            raise BackupFault(
                f"{folder / kept.name}: SQLite finds it damaged ({found}); take another backup"
            )
    proven_keys(folder / DATABASE, folder)
    version, contacts, suppressions = counts(folder / DATABASE)
    expected = manifest.schema, manifest.contacts, manifest.suppressions
    if (version, contacts, suppressions) != expected:
        raise BackupFault(f"{folder / DATABASE}: is not the database that {NAME} describes")


def fingerprints(folder: Path) -> dict[str, dict[str, str]]:
    """Return the fingerprints of the keys in a folder. Raises StoreMisconfigured."""
    live = proven_keys(folder / DATABASE, folder)
    found = {SUPPRESSION_KEY: {str(version): name for version, name in live.items()}}
    if exists(folder / LINK_KEY_FILE):
        found[LINK_KEY_FILE] = {
            str(version): key.fingerprint
            for version, key in load_link_keys(folder, alone=True).items()
        }
    return found


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal. Raises OSError."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def in_state(settings: Settings) -> dict[str, Path]:
    """Return the files of `state_dir` that are backed up, by their names in the backup."""
    state, database = settings.server.state_dir, store_path(settings.store)
    beside = {
        f"smtpproxy-{part}.db": database.with_name(f"{database.stem}-{part}.db")
        for part in _DATABASES
    }
    keys = {name: key_place(state, name).path for name in (SUPPRESSION_KEY, LINK_KEY_FILE)}
    return {**keys, **beside, "purges.ndjson": state / "purges.ndjson", DATABASE: database}


def named_files(settings: Settings) -> list[Path]:
    """Return the existing files that the configuration names."""
    return [path for path in settings.named_paths if is_file(path)]


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
    if not is_dir(target.parent):
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
        written = write(folder, manifest)
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
    with locked(folder, BackupFault(f"{folder}: another backup removes it; try again")):
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _remove_if_left(folder: Path) -> None:
    with locked(folder, BlockingIOError()):
        shutil.rmtree(folder)


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
        if not exists(files[name]):
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
