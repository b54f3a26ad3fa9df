"""The file of the keys that unsubscribe links are sealed under, mode 0600 in state_dir.

A link is followed for years, so a key stays when it is replaced: new links are sealed
under the newest, and all are read. Line: version, the day it was made, key in hexadecimal.
"""

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from smtpproxy.mail.unsubscribe_token import KEY_OCTETS, TokenError, TokenRing, Unsubscription
from smtpproxy.store.key_file import create_secret, replace_secret, secret_lines
from smtpproxy.store.protocols import StoreInaccessible, StoreMisconfigured

FILE_NAME = "unsubscribe.key"
_VERSIONS = 255
_PREAMBLE = """\
# The secret keys of smtpproxy's unsubscribe links, mode 0600. Keep them secret, and keep a
# copy: a link that was sent works only while its key is here, and must work for years.
# Line: version, the day it was made, key in hexadecimal; the newest seals new links.
"""
_LINE = re.compile(rf"(\d{{1,3}}) (\d{{4}}-\d\d-\d\d) ([0-9a-f]{{{2 * KEY_OCTETS}}})")


@dataclass(frozen=True, slots=True)
class LinkKey:
    version: int
    made: date
    secret: bytes


def load_link_keys(state_dir: Path) -> Mapping[int, LinkKey]:
    """Read the keys by version, the oldest first.

    Raises StoreMisconfigured: there is none, others can read it, or it is no key file.
    """
    path = state_dir / FILE_NAME
    lines = secret_lines(
        path,
        what="the key file of the unsubscribe links",
        missing="restore it from the backup, or no link that was sent works; if none was sent yet,"
        " smtpproxy serve makes it",
    )
    found = [_LINE.fullmatch(line) for line in lines]
    try:
        keys = [
            LinkKey(int(match[1]), date.fromisoformat(match[2]), bytes.fromhex(match[3]))
            for match in found
            if match
        ]
    except ValueError:
        keys = []
    versions = {key.version for key in keys}
    if not keys or len(versions) < len(lines) or not versions <= set(range(1, _VERSIONS + 1)):
        raise StoreMisconfigured(
            f"{path}: not a file of link keys; expected a line with a version, a day and "
            f"{2 * KEY_OCTETS} hexadecimal digits for each key; restore it from the backup"
        )
    return {key.version: key for key in sorted(keys, key=lambda key: key.version)}


def link_ring(state_dir: Path) -> TokenRing:
    """Return the ring of the keys in the file. Raises StoreMisconfigured."""
    return TokenRing({key.version: key.secret for key in load_link_keys(state_dir).values()})


def ensure_link_keys(state_dir: Path, today: date) -> bool:
    """Make the first key where there is none; tell whether it was made now.

    Raises StoreMisconfigured, StoreInaccessible.
    """
    path = state_dir / FILE_NAME
    made = False
    if not path.exists():
        try:
            create_secret(path, f"{_PREAMBLE}{_written(_new(1, today))}")
            made = True
        except FileExistsError:
            pass  # another process was first
        except OSError as error:
            raise _inaccessible(path, error) from error
    load_link_keys(state_dir)
    return made


def add_link_key(state_dir: Path, today: date) -> LinkKey:
    """Make a key that new links are sealed under; the others stay.

    Raises StoreMisconfigured, StoreInaccessible.
    """
    path = state_dir / FILE_NAME
    keys = load_link_keys(state_dir)
    if max(keys) >= _VERSIONS:
        raise StoreMisconfigured(f"{path}: there are {_VERSIONS} versions, and no more can be")
    key = _new(max(keys) + 1, today)
    text = _PREAMBLE + "".join(_written(each) for each in (*keys.values(), key))
    try:
        replace_secret(path, text)
    except OSError as error:
        raise _inaccessible(path, error) from error
    return key


def _new(version: int, today: date) -> LinkKey:
    return LinkKey(version, today, secrets.token_bytes(KEY_OCTETS))


def _written(key: LinkKey) -> str:
    return f"{key.version} {key.made.isoformat()} {key.secret.hex()}\n"


def _inaccessible(path: Path, error: OSError) -> StoreInaccessible:
    return StoreInaccessible(
        f"{path}: the keys of the unsubscribe links cannot be written ({error.strerror}); "
        "state_dir must be a folder that smtpproxy may write to"
    )


class LinkReader:
    """Reads the tokens of links, under keys that may be added while it runs."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._ring: TokenRing | None = None
        self._read_at: tuple[int, int] | None = None  # what the file was when it was read

    def open(self, token: str) -> Unsubscription:
        """Read a token. Raises TokenError: it is none; StoreMisconfigured: the file is wrong."""
        if self._ring is None or not self._ring.knows(token):
            self._read_again()
        if self._ring is None:
            raise TokenError("there are no keys of links")
        return self._ring.open(token)

    def _read_again(self) -> None:
        """Read the file if it was changed, so that nobody can have it read at will."""
        try:
            state = (self._state_dir / FILE_NAME).stat()
        except FileNotFoundError:
            return
        now = state.st_mtime_ns, state.st_ino
        if now != self._read_at:
            self._ring = link_ring(self._state_dir)
            self._read_at = now
