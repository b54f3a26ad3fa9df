"""Secret keys on this machine: how old they are, and who may read them."""

import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from msgspec import Struct

from smtpproxy.doctor.finding import Check, Finding, Status
from smtpproxy.settings import Settings
from smtpproxy.store import key_file, unsubscribe_keys
from smtpproxy.store.protocols import StoreInaccessible, StoreMisconfigured

_OLD_DKIM = 365
_OLD_OTHER = 3 * 365
_MOST_DKIM = "every year at least: smtpproxy dkim keygen, publish, add it with a date"


class KeyFile(Struct, frozen=True):
    """A key, how many days old it may get, and how it is replaced. `since` is when it came
    into use, None for when the file was written."""

    name: str
    path: Path
    days: int
    renew: str
    since: datetime | None = None
    required: bool = True


def keys(settings: Settings, now: datetime) -> list[Finding]:
    """Judge every key file that the settings name or the state folder holds."""
    found = (judge_key(key, now) for key in key_files(settings))
    return [finding for finding in found if finding is not None]


def key_files(settings: Settings) -> Iterator[KeyFile]:
    for dkim in settings.dkim:
        name = f"DKIM {dkim.selector}._domainkey.{dkim.domain}"
        yield KeyFile(name, dkim.key, _OLD_DKIM, f"replace it {_MOST_DKIM}", dkim.since)
    state = settings.server.state_dir
    rekey = "replace it with smtpproxy suppress rekey where it may have been read by others"
    yield KeyFile("suppressions", state / key_file.FILE_NAME, _OLD_OTHER, rekey, required=False)
    way_out = "add a newer key and keep this one: links that were sent have to work"
    made = _newest_link_key(state)
    links = state / unsubscribe_keys.FILE_NAME
    yield KeyFile("unsubscribe", links, _OLD_OTHER, way_out, made, required=settings.adds_ways_out)
    for partner in settings.store.partners:
        both = "agree on another with the partner: smtpproxy partner key"
        yield KeyFile(f"partner {partner.name}", partner.key_file, _OLD_OTHER, both)


def _newest_link_key(state_dir: Path) -> datetime | None:
    """When it was made; None where the file does not tell."""
    try:
        found = unsubscribe_keys.load_link_keys(state_dir)
    except (StoreMisconfigured, StoreInaccessible):
        return None
    newest = max(each.made for each in found.values())
    return datetime(newest.year, newest.month, newest.day, tzinfo=UTC)


def judge_key(key: KeyFile, now: datetime) -> Finding | None:
    """None for a key that need not be there and is not. Only the file's status is read."""
    try:
        status = key.path.stat()
    except FileNotFoundError:
        if not key.required:
            return None
        return Finding(Check.KEYS, key.name, Status.FAIL, f"{key.path} is not there", key.renew)
    except OSError as error:
        text = f"{key.path}: {error.strerror}"
        return Finding(Check.KEYS, key.name, Status.UNKNOWN, text, "ask as the user that may")
    if status.st_mode & stat.S_IRWXO:
        text = f"{key.path} may be read by everybody on this machine"
        return Finding(Check.KEYS, key.name, Status.FAIL, text, f"chmod o= {key.path}")
    written = datetime.fromtimestamp(status.st_mtime, UTC)
    since = key.since or written
    days = (now - since).days
    if since > now:
        text = f"in force from {since:%Y-%m-%d}"
        return Finding(Check.KEYS, key.name, Status.PASS, text)
    text = f"{days} days old"
    if days > key.days:
        return Finding(Check.KEYS, key.name, Status.WARN, text, key.renew)
    return Finding(Check.KEYS, key.name, Status.PASS, text)
