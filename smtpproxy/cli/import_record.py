"""What an import is on record as: who ran it, how, whether it still runs, how it goes on."""

import fcntl
import hashlib
import os
import pwd
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import click

from smtpproxy.cli.common import fail
from smtpproxy.cli.stores import now, using_store, warn
from smtpproxy.settings import Settings
from smtpproxy.store.exchange.files import Source
from smtpproxy.store.key_files import give_to_owner_of
from smtpproxy.store.operations import ImportRecord, Kind
from smtpproxy.ulid import UlidFactory

_SKEW = timedelta(minutes=5)  # between two clocks


@dataclass(frozen=True, slots=True)
class Job:
    """An import that is about to be run, or gone on with.

    `options` are those of the command that decide how the file is read.
    """

    kind: Kind
    as_of: datetime
    options: Mapping[str, str]
    earlier: ImportRecord | None = None

    def record(self, file: Path, size: int | None) -> ImportRecord:
        """Return the record to begin with."""
        started = now()
        if self.earlier is not None:
            return replace(self.earlier, state="running", ended_at=None)
        name = os.fsencode(file).decode(errors="replace")
        return ImportRecord(
            new_id(), self.kind, name, user(), started, self.as_of, size, self.options
        )


def new_id() -> str:
    return UlidFactory(lambda: time.time_ns() // 1_000_000, secrets.token_bytes)()


def user() -> str:
    """Return the name of the user of the operating system, and for whom root does it."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = str(os.getuid())
    behind = os.environ.get("SUDO_USER", "")
    return f"{name} for {behind}" if behind and behind != name else name


def digest_of(path: Path | None) -> str:
    """Return what tells whether a mapping is the same; empty without one."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path else ""


def age_of(file_time: datetime, as_of: datetime | None = None) -> datetime:
    """Return the moment that a file describes: nothing is known of a time to come."""
    if as_of is not None:
        if as_of > now() + _SKEW:
            raise click.BadParameter(
                f"{as_of:%Y-%m-%d %H:%M} UTC is yet to come, and no newer profile would count "
                "until then",
                param_hint="--as-of",
            )
        return as_of
    if file_time > now() + _SKEW:
        warn(f"the file was last written on {file_time:%Y-%m-%d}, which is yet to come; now counts")
    return min(file_time, now())


def to_resume(
    settings: Settings, id: str | None, kind: Kind, options: Mapping[str, str]
) -> ImportRecord | None:
    """Return the import to go on with; end the command where that cannot be."""
    if id is None:
        return None
    record = find(settings, id)
    if record.kind != kind:
        fail(f"{record.id} is an import of {record.kind}", 2)
    state = shown_state(settings, record)
    if state != "interrupted":
        right = (
            "import the file anew" if state in ("undone", "undoing") else "nothing is left to do"
        )
        fail(f"{record.id} is {state}: {right if state != 'running' else 'it goes on by itself'}")
    for name in sorted({*options, *record.options}):
        told, was = options.get(name, ""), record.options.get(name, "")
        if told != was:
            with_what = f"with --{name} {was}" if was else f"without --{name}"
            fail(f"{record.id} was begun {with_what}: go on in the same way", 2)
    return record


def check_same(record: ImportRecord, file: Source, name: str) -> None:
    """End the command unless `file` is the one that the import was reading."""
    if file.size is None:
        fail(
            f"{name}: only a file can be gone on with, and this comes through a pipe; import all "
            "of it again: what is there already changes nothing"
        )
    place = record.place
    if file.size != record.size or not file.starts_with(place.octets, place.digest):
        fail(
            f"{name}: not the file that {record.id} was reading (its size or its first "
            f"{place.octets:,} octets differ); import it anew"
        )


def find(settings: Settings, id: str) -> ImportRecord:
    """Return the import of that id, or of the only one that begins so; else end the command."""
    found = [
        record
        for record in using_store(
            settings, lambda store: store.imports(), read_only=True, or_empty=True
        )
        if record.id.startswith(id.upper())
    ]
    if len(found) != 1 or not id:
        fail(f"{id}: {'more than one import begins so' if found else 'there is no such import'}")
    return found[0]


def shown_state(settings: Settings, record: ImportRecord) -> str:
    """Return the state; an import whose process died is interrupted."""
    if record.state == "running" and not is_held(settings, record.id):
        return "interrupted"
    return record.state


@contextmanager
def held(settings: Settings, id: str) -> Iterator[None]:
    """Let other processes know that this import is being worked on.

    The system gives the lock back when the process ends, however it ends.
    """
    with _lock_file(settings) as descriptor:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _place(id))
        except BlockingIOError:
            fail(f"{id}: another process is working on it")
        yield


def is_held(settings: Settings, id: str) -> bool:
    """Tell whether another process works on it."""
    with _lock_file(settings) as descriptor:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _place(id))
        except BlockingIOError:
            return True
        return False


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


def _place(id: str) -> int:
    """Return the octet of the lock file that stands for an import."""
    return int.from_bytes(hashlib.sha256(id.encode()).digest()[:7], "big")
