"""The keys, certificates and clock of this machine, and the state of its store."""

import ctypes
import errno
import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from msgspec import Struct

from smtpproxy.disk import exists, little_left
from smtpproxy.doctor.finding import Check, Finding, Status
from smtpproxy.policy.rules.deferrals import restore_in_force
from smtpproxy.settings import ListenerSettings, Settings
from smtpproxy.store import is_postgresql, opened_store, replica_fault, store_path
from smtpproxy.store.closed import without_password
from smtpproxy.store.key_files import FILE_NAME, key_place
from smtpproxy.store.link_keys import LINK_KEY_FILE, load_link_keys
from smtpproxy.store.postgres.standby_checks import standby_awaited
from smtpproxy.store.records import (
    NoStoreYet,
    StoreInaccessible,
    StoreMisconfigured,
    StoreUnavailable,
    with_cause,
)
from smtpproxy.terminal import counted
from smtpproxy.tls import TlsError, TlsFiles, server_context

SOON = 14
"""Days before expiry when somebody should act, as in `smtpproxy check`."""

_RENEW_CERTIFICATE = "renew it, and automate the renewal"
_EARLY_CERTIFICATE = "use the previous one until then, or correct this machine's clock"
_MAKE_ROOM = "make room: once it is full, mail is answered 451, and unsubscribes fail"


def certificate(listener: ListenerSettings, now: datetime) -> Finding | None:
    """Judge the certificate of a listener; None if it has no TLS."""
    if listener.tls == "none" or listener.certificate is None or listener.private_key is None:
        return None
    where = f'listener "{listener.name}"'
    try:
        files = TlsFiles(listener.certificate, listener.private_key, listener.client_ca)
        _, valid = server_context(files)
    except TlsError as error:
        return Finding(Check.CERTIFICATE, where, Status.FAIL, str(error), f"fix {error.key}")
    begins, ends = (datetime.fromtimestamp(at, UTC) for at in (valid.begins, valid.ends))
    if begins > now:
        text = f"its certificate is not valid before {begins:%Y-%m-%d %H:%M UTC}"
        return Finding(Check.CERTIFICATE, where, Status.FAIL, text, _EARLY_CERTIFICATE)
    return Finding(Check.CERTIFICATE, where, *judge_days(days_left(ends, now)))


def disks(settings: Settings) -> list[Finding]:
    """Judge the disk space for decisions, and for the store if it is elsewhere."""
    folders = [settings.server.state_dir]
    if not is_postgresql(settings.store):
        folders.append(store_path(settings.store).parent)
    return [_room(folder) for folder in dict.fromkeys(folders)]


def _room(folder: Path) -> Finding:
    if not os.access(folder, os.F_OK):
        text = "the folder does not exist, or this user may not see it"
        return Finding(Check.DISK, str(folder), Status.UNKNOWN, text, "run smtpproxy check")
    left = little_left(folder)
    if left is not None:
        return Finding(Check.DISK, str(folder), Status.FAIL, left, _MAKE_ROOM)
    return Finding(Check.DISK, str(folder), Status.PASS, "its disk has room")


def days_left(expires: datetime | None, now: datetime) -> float | None:
    return None if expires is None else (expires - now).total_seconds() / 86_400


def judge_days(left: float | None) -> tuple[Status, str, str]:
    """Return status, text and fix for a certificate with so many days left."""
    if left is None:
        return Status.UNKNOWN, "the expiry date of its certificate cannot be read", ""
    days = counted(round(abs(left)), "day") if abs(left) >= 1 else "less than a day"
    if left < 0:
        return Status.FAIL, f"its certificate expired {days} ago", _RENEW_CERTIFICATE
    if left < SOON:
        return Status.WARN, f"its certificate expires in {days}", _RENEW_CERTIFICATE
    return Status.PASS, f"its certificate is valid for another {left:.0f} days", ""


_OLD_DKIM = 365
_OLD_OTHER = 3 * 365
_MOST_DKIM = "at least every year: smtpproxy dkim keygen, publish the record, add it with a date"


async def restore(settings: Settings) -> list[Finding]:
    """Judge whether a restore is still waiting for its journals."""
    found = partial(Finding, Check.RESTORE, without_password(settings.store.url))
    try:
        async with opened_store(settings, read_only=True) as store:
            pause = restore_in_force(await store.pauses())
    except NoStoreYet:
        return []
    except StoreUnavailable as fault:
        return [found(Status.UNKNOWN, f"the store cannot answer: {with_cause(fault)}")]
    if pause is None:
        return [found(Status.PASS, "no restore is waiting for its journals")]
    text = f"restored at {pause.at:%Y-%m-%d %H:%M}; who objected since the backup is not known"
    return [found(Status.FAIL, f"{text}: marketing is deferred", _REPLAY)]


async def replica(settings: Settings) -> list[Finding]:
    """Judge the standby that RCPT may be answered from, if there is one."""
    if settings.store.replica_url is None:
        return []
    where = "store.replica_url"
    try:
        fault = await replica_fault(settings.store)
    except StoreUnavailable as error:
        return [Finding(Check.REPLICA, where, Status.FAIL, _without(where, error), _OTHER_STANDBY)]
    if fault:
        return [Finding(Check.REPLICA, where, Status.WARN, _without(where, fault), _OTHER_STANDBY)]
    text = f"no more than {settings.store.max_replica_lag:g} s behind the primary"
    return [Finding(Check.REPLICA, where, Status.PASS, text)]


def _without(where: str, text: object) -> str:
    return str(text).removeprefix(f"{where}: ")


_OTHER_STANDBY = "name a standby that follows store.url; until then the primary is asked"


async def failover(settings: Settings) -> list[Finding]:
    """Judge whether a failover may lose acknowledged changes; SQLite has no failover."""
    if not is_postgresql(settings.store):
        return []
    found = partial(Finding, Check.FAILOVER, without_password(settings.store.url))
    try:
        awaited = await standby_awaited(settings.store)
    except StoreUnavailable as fault:
        return [found(Status.UNKNOWN, f"the store cannot answer: {with_cause(fault)}")]
    if awaited.waits and not awaited.connected:
        text = "commits wait for a standby, and none is connected: nothing can be written"
        return [found(Status.FAIL, text, _BRING_BACK)]
    if awaited.waits:
        return [found(Status.PASS, "a commit waits for a standby")]
    text = "commits do not wait for a standby: a failover loses the last ones, even an unsubscribe"
    status = Status.FAIL if settings.store.require_synchronous else Status.WARN
    return [found(status, text, _WAIT)]


_BRING_BACK = "bring the standby back, or take it out of synchronous_standby_names, and reload"
_WAIT = "set synchronous_standby_names, and synchronous_commit = on (store.require_synchronous)"
_REPLAY = "run smtpproxy restore --journals DIR, or --journals-lost if none are left"


class KeyFile(Struct, frozen=True):
    """A key, how many days old it may get, and how to replace it. `since` is when it came into
    use, None for when the file was written."""

    name: str
    path: Path
    days: int
    renew: str
    since: datetime | None = None
    required: bool = True

    def replace_by(self) -> datetime:
        """Return until when it is young enough. Raises OSError."""
        since = self.since or datetime.fromtimestamp(self.path.stat().st_mtime, UTC)
        return since + timedelta(days=self.days)


def keys(settings: Settings, now: datetime) -> list[Finding]:
    """Judge every key file that the settings name or the state folder holds."""
    found = (judge_key(key, now) for key in key_files(settings))
    return [finding for finding in found if finding is not None]


def key_files(settings: Settings) -> Iterator[KeyFile]:
    for dkim in settings.dkim:
        name = f"DKIM {dkim.record_name}"
        yield KeyFile(name, dkim.key, _OLD_DKIM, f"replace it {_MOST_DKIM}", dkim.since)
    state = settings.server.state_dir
    rekey = "if others may have read it, replace it with smtpproxy suppress rekey"
    yield KeyFile("suppressions", _place(state, FILE_NAME), _OLD_OTHER, rekey, required=False)
    newer = "add a newer key and keep this one: links already sent have to work"
    made = _newest_link_key(state)
    links = _place(state, LINK_KEY_FILE)
    yield KeyFile("unsubscribe", links, _OLD_OTHER, newer, made, required=settings.makes_tokens)
    for partner in settings.store.partners:
        both = "agree on a new one with the partner: smtpproxy partner key"
        yield KeyFile(f"partner {partner.name}", partner.key_file, _OLD_OTHER, both)


def _place(state_dir: Path, name: str) -> Path:
    try:
        return key_place(state_dir, name).path
    except StoreMisconfigured:  # `check` says why
        return state_dir / name


def _newest_link_key(state_dir: Path) -> datetime | None:
    """Return when it was made; None if the file cannot be read."""
    try:
        found = load_link_keys(state_dir)
    except (StoreMisconfigured, StoreInaccessible):
        return None
    newest = max(each.made for each in found.values())
    return datetime(newest.year, newest.month, newest.day, tzinfo=UTC)


_BRING_KEY = "copy it from the backup or another relay; make a new one only if it is lost"


def judge_key(key: KeyFile, now: datetime) -> Finding | None:
    """Judge a key file by its status alone; None if it is missing and not required."""
    found = partial(Finding, Check.KEYS, key.name)
    try:
        status = key.path.stat()
    except FileNotFoundError:
        missing = found(Status.FAIL, f"{key.path} does not exist", _BRING_KEY)
        return missing if key.required else None
    except OSError as error:
        text = f"{key.path}: {error.strerror}"
        return found(Status.UNKNOWN, text, "run this as a user who may read it")
    if status.st_mode & stat.S_IRWXO:
        text = f"{key.path} is readable by everybody on this machine"
        return found(Status.FAIL, text, f"chmod o= {key.path}")
    since = key.since or datetime.fromtimestamp(status.st_mtime, UTC)
    days = (now - since).days
    if since > now:
        return found(Status.PASS, f"in force from {since:%Y-%m-%d}")
    if days > key.days:
        return found(Status.WARN, f"{counted(days, 'day')} old", key.renew)
    return found(Status.PASS, f"{counted(days, 'day')} old")


_SYNCHRONISED = Path("/run/systemd/timesync/synchronized")
_TIME_ERROR = 5
_STA_UNSYNC = 0x40
_FAR_OFF = 1.0  # seconds
_KEEP_TIME = "run chrony, ntpd or systemd-timesyncd (in a container: on its host)"


class ClockSeen(Struct, frozen=True):
    """`synchronised` is None if the kernel gave no answer; `error` is its bound, in seconds."""

    synchronised: bool | None
    error: float = 0.0
    marked: bool = False  # by systemd-timesyncd
    failure: str = ""


def check_clock() -> Finding:
    return judge_clock(look())


def judge_clock(seen: ClockSeen) -> Finding:
    found = partial(Finding, Check.CLOCK, "clock")
    if seen.synchronised:
        text = f"synchronised to within {seen.error:.3f} s, by the kernel's own estimate"
        if seen.error > _FAR_OFF:
            return found(Status.WARN, text, _KEEP_TIME)
        return found(Status.PASS, text)
    if seen.marked:
        return found(Status.PASS, "systemd-timesyncd has synchronised it")
    if seen.synchronised is None:
        text = f"the kernel gives no answer: {seen.failure}"
        return found(Status.UNKNOWN, text, _KEEP_TIME)
    return found(Status.WARN, "the kernel's clock is not synchronised", _KEEP_TIME)


class _Timex(ctypes.Structure):
    """struct timex of Linux: the fields read here, and space for the others."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 512),
    )


def look() -> ClockSeen:
    """Ask the kernel whether its clock is synchronised (adjtimex(2)); needs no privilege.

    systemd-timesyncd makes a file once it has synchronised.
    """
    marked = exists(_SYNCHRONISED)
    try:
        adjtimex = ctypes.CDLL(None, use_errno=True).adjtimex
    except (OSError, AttributeError):
        return ClockSeen(None, marked=marked, failure="there is no adjtimex here")
    timex = _Timex()
    state = adjtimex(ctypes.byref(timex))
    if state < 0:
        name = errno.errorcode.get(ctypes.get_errno(), "")
        text = f"adjtimex: {os.strerror(ctypes.get_errno())} {name}".rstrip()
        return ClockSeen(None, marked=marked, failure=text)
    synchronised = state != _TIME_ERROR and not timex.status & _STA_UNSYNC
    return ClockSeen(synchronised, timex.maxerror / 1e6, marked)
