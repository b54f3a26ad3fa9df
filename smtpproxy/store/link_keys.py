"""The file of the keys for unsubscribe links, confirmations and return paths, mode 0600.

A link has to work for years, so a replaced key stays: new links are sealed with the newest key, and
all are read. Line: version, the day it was made, key in hexadecimal.

Of several relays, none uses a new key before all have it. Which key seals new links is stored in
the database, and by each relay beside its keys.
"""

import re
import secrets
from collections.abc import Iterable, Mapping
from datetime import date
from hmac import digest
from pathlib import Path

from msgspec import Struct

from smtpproxy.disk import exists
from smtpproxy.mail.confirmation_token import Confirmation, read_confirmation
from smtpproxy.mail.return_path import ReturnPaths
from smtpproxy.mail.unsubscribe_token import KEY_OCTETS, TokenError, TokenRing, Unsubscription
from smtpproxy.store.key_files import (
    KeyPlace,
    create_secret,
    key_place,
    not_written,
    replace_key_file,
    replace_secret,
    secret_lines,
)
from smtpproxy.store.records import StoreInaccessible, StoreMisconfigured

LINK_KEY_FILE = "unsubscribe.key"
SEALING_FILE = "unsubscribe.version"
_VERSIONS = 255
_WHAT = "a key of the links"
_LINK_PREAMBLE = """\
# The secret keys of smtpproxy's unsubscribe links, mode 0600. Keep them secret, and keep a
# copy: a link that was sent works only while its key is here, and must work for years.
# Line: version, the day it was made, key in hexadecimal; the newest seals new links.
"""
_LINK_LINE = re.compile(rf"(\d{{1,3}}) (\d{{4}}-\d\d-\d\d) ([0-9a-f]{{{2 * KEY_OCTETS}}})")


class LinkKey(Struct, frozen=True):
    version: int
    made: date
    secret: bytes

    def __repr__(self) -> str:
        return f"LinkKey({self.version}, {self.fingerprint})"

    @property
    def fingerprint(self) -> str:
        """Identifies the key without revealing it."""
        return digest(self.secret, b"smtpproxy link key", "sha256")[:4].hex()


def load_link_keys(state_dir: Path, *, alone: bool = False) -> Mapping[int, LinkKey]:
    """Read the keys by version, the oldest first; `alone`: only those in the folder of a backup.

    Raises StoreMisconfigured: there is no file, others can read it, or it is not a key file.
    """
    place = key_place(state_dir, LINK_KEY_FILE, alone=alone)
    lines = secret_lines(
        place,
        what="the key file of the unsubscribe links",
        missing="restore it from the backup, as no link sent before works without it; if none was"
        " sent yet, smtpproxy serve creates it",
    )
    found = [_LINK_LINE.fullmatch(line) for line in lines]
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
            f"{place.path}: not a file of link keys, which has a line with a version, a day and "
            f"{2 * KEY_OCTETS} hexadecimal digits for each key; restore it from the backup"
        )
    return {key.version: key for key in sorted(keys, key=lambda key: key.version)}


def has_link_keys(state_dir: Path) -> bool:
    """Whether there is a file. Raises StoreMisconfigured."""
    return exists(key_place(state_dir, LINK_KEY_FILE).path)


def link_ring(state_dir: Path) -> TokenRing:
    """Return the ring of the keys in the file. Raises StoreMisconfigured."""
    return TokenRing(*_secrets(state_dir))


def link_paths(state_dir: Path, domain: str = "") -> ReturnPaths:
    """Return the maker and reader of return paths at a domain. Raises StoreMisconfigured."""
    keys, sealing = _secrets(state_dir)
    return ReturnPaths(keys, domain, sealing)


def _secrets(state_dir: Path) -> tuple[Mapping[int, bytes], int]:
    """Return the keys by version, and the version that seals. Raises StoreMisconfigured."""
    keys = {version: key.secret for version, key in load_link_keys(state_dir).items()}
    sealing = _noted(state_dir) or max(keys)
    if sealing not in keys:
        raise StoreMisconfigured(
            f"{key_place(state_dir, LINK_KEY_FILE).path}: key {sealing}, under which new links are "
            "sealed, is missing; copy the file from a relay that has it, or the backup"
        )
    return keys, sealing


def note_sealing(state_dir: Path, version: int) -> None:
    """Store which key seals new links. Raises StoreInaccessible."""
    if _noted(state_dir) == version:
        return
    path = state_dir / SEALING_FILE
    try:
        replace_secret(path, f"{version}\n")
    except OSError as error:
        raise StoreInaccessible(f"{path}: cannot be written ({error.strerror})") from error


def _noted(state_dir: Path) -> int | None:
    try:
        return int((state_dir / SEALING_FILE).read_text("ascii")[:8])
    except (OSError, ValueError):
        return None  # not yet: the newest


def ensure_link_keys(state_dir: Path, today: date) -> bool:
    """Create the first key if there is none; return whether it was created.

    Raises StoreMisconfigured, StoreInaccessible.
    """
    place = key_place(state_dir, LINK_KEY_FILE)
    made = False
    if not exists(place.path):
        try:
            create_secret(place.path, f"{_LINK_PREAMBLE}{_link_line(_new_link_key(1, today))}")
            made = True
        except FileExistsError:
            pass  # another process was first
        except OSError as error:
            raise not_written(place, _WHAT, error) from error
    load_link_keys(state_dir)
    return made


def add_link_key(state_dir: Path, today: date) -> LinkKey:
    """Add a key for new links; the others stay.

    Raises StoreMisconfigured, StoreInaccessible.
    """
    keys, place = load_link_keys(state_dir), key_place(state_dir, LINK_KEY_FILE)
    if max(keys) >= _VERSIONS:
        raise StoreMisconfigured(
            f"{place.path}: there are already {_VERSIONS} versions, the most there can be"
        )
    key = _new_link_key(max(keys) + 1, today)
    _replace(place, (*keys.values(), key))
    return key


def drop_link_key(state_dir: Path, version: int) -> None:
    """Remove a key from the file. Raises StoreMisconfigured, StoreInaccessible."""
    keys, place = load_link_keys(state_dir), key_place(state_dir, LINK_KEY_FILE)
    left = [key for key in keys.values() if key.version != version]
    if left and len(left) < len(keys):
        _replace(place, left)


def _replace(place: KeyPlace, keys: Iterable[LinkKey]) -> None:
    replace_key_file(place, _LINK_PREAMBLE + "".join(map(_link_line, keys)), _WHAT)


def _new_link_key(version: int, today: date) -> LinkKey:
    return LinkKey(version, today, secrets.token_bytes(KEY_OCTETS))


def _link_line(key: LinkKey) -> str:
    return f"{key.version} {key.made.isoformat()} {key.secret.hex()}\n"


class LinkReader:
    """Reads the tokens of links and return paths, with keys that may be added while it runs."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._ring: TokenRing | None = None
        self._paths: ReturnPaths | None = None
        self._read_at: tuple[int, int] | None = None  # identifies the file that was read

    def open(self, token: str) -> Unsubscription:
        """Read a token. Raises TokenError if it is invalid, StoreMisconfigured if the file is."""
        return self._ring_of(token).open(token)

    def open_confirmation(self, token: str) -> Confirmation:
        """Read the token of a confirmation. Raises as `open` does."""
        return read_confirmation(self._ring_of(token), token)

    def open_record(self, token: str, context: bytes) -> bytes:
        """Read what `seal_record` sealed. Raises as `open` does."""
        return self._ring_of(token).open_record(token, context)

    def seal_record(self, record: bytes, context: bytes) -> str:
        """Seal any record under the newest key. Raises StoreMisconfigured."""
        if self._ring is None:
            self._read_again()
        ring = self._ring or link_ring(self._state_dir)
        return ring.seal_record(record, context)

    def _ring_of(self, token: str) -> TokenRing:
        if self._ring is None or not self._ring.knows(token):
            self._read_again()
        if self._ring is None:
            raise TokenError("there are no keys of links")
        return self._ring

    def return_paths(self, local_part: str = "") -> ReturnPaths:
        """Return the reader of this return path. Raises as `open` does."""
        if self._paths is None or not self._paths.knows(local_part):
            self._read_again()
        if self._paths is None:
            raise TokenError("there are no keys of links")
        return self._paths

    def _read_again(self) -> None:
        """Read the file if it has changed, so that invalid tokens cannot force a read."""
        try:
            state = key_place(self._state_dir, LINK_KEY_FILE).path.stat()
        except FileNotFoundError:
            return
        now = state.st_mtime_ns, state.st_ino
        if now != self._read_at:
            keys, sealing = _secrets(self._state_dir)
            self._ring = TokenRing(keys, sealing)
            self._paths = ReturnPaths(keys, sealing=sealing)
            self._read_at = now
