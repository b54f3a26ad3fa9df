"""Files of secret keys, mode 0600: of the suppressions, of partners, of unsubscribe links.

A key that is lost or mixed up would make every suppression match nobody, so the database
remembers the fingerprints of its keys and is not opened with others. The file of the
suppressions holds one line for each live key, the newest last.

A link is followed for years, so its key stays when it is replaced: new links are sealed
under the newest, and all are read. Line: version, the day it was made, key in hexadecimal.
"""

import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date
from hmac import digest
from pathlib import Path

from smtpproxy.mail.confirmation_token import Confirmation, read_confirmation
from smtpproxy.mail.return_path import ReturnPaths
from smtpproxy.mail.unsubscribe_token import KEY_OCTETS, TokenError, TokenRing, Unsubscription
from smtpproxy.store.keys import KeyRing, SuppressionKey
from smtpproxy.store.protocols import StoreInaccessible, StoreMisconfigured

FILE_NAME = "suppression.key"
_PREAMBLE = """\
# The secret key of smtpproxy's suppressions, mode 0600. Keep it secret, and keep a copy:
# without it every stored suppression is void. Line: version, key in hexadecimal.
"""
_PARTNER_PREAMBLE = """\
# A key shared by two partners of smtpproxy, mode 0600: whoever has it can find out which
# addresses a snapshot holds. Line: key in hexadecimal, the same on both sides.
"""
_KEY_LINE = re.compile(r"(\d{1,4}) ([0-9a-f]{64})")
_PARTNER_LINE = re.compile(r"[0-9a-f]{64}")


def load_keys(state_dir: Path) -> KeyRing:
    """Read the keys that are there.

    Raises:
        StoreMisconfigured: there is none, it can be read by others, or it is not a key.
    """
    return KeyRing(SuppressionKey(key, version) for version, key in _secrets(state_dir).items())


def _secrets(state_dir: Path) -> dict[int, bytes]:
    """Return the keys of the file by version."""
    path = state_dir / FILE_NAME
    lines = secret_lines(
        path,
        what="the key of the suppressions",
        missing="restore it from the backup: without it every stored suppression is void",
    )
    found = [_KEY_LINE.fullmatch(line) for line in lines]
    keys = {int(match[1]): bytes.fromhex(match[2]) for match in found if match}
    if not keys or len(keys) < len(lines):
        raise StoreMisconfigured(
            f"{path}: not a key file; expected a line with a version and 64 hexadecimal "
            "digits for each key; restore it from the backup"
        )
    return keys


def load_partner_key(path: Path) -> SuppressionKey:
    """Read the key shared with a partner.

    Raises:
        StoreMisconfigured: there is none, it can be read by others, or it is not a key.
    """
    lines = secret_lines(
        path,
        what="the key shared with a partner",
        missing="make it with smtpproxy partner key, or copy the partner's",
    )
    if len(lines) != 1 or not _PARTNER_LINE.fullmatch(lines[0]):
        raise StoreMisconfigured(
            f"{path}: not the key of a partner; expected one line of 64 hexadecimal digits, "
            "as smtpproxy partner key makes it"
        )
    return SuppressionKey(bytes.fromhex(lines[0]))


def secret_lines(path: Path, *, what: str, missing: str) -> list[str]:
    """Return the lines of a secret file, comments left out.

    `what` it holds and what to do where it is `missing` are for the text of the fault.
    Raises StoreMisconfigured, StoreInaccessible.
    """
    try:
        mode = path.stat().st_mode & 0o777
        if mode & 0o077:
            raise StoreMisconfigured(
                f"{path}: mode {mode:04o} lets others read {what}; make it 0600: chmod 600 {path}"
            )
        text = path.read_text("ascii", errors="replace")
    except FileNotFoundError:
        raise StoreMisconfigured(f"{path}: {what} is missing; {missing}") from None
    except OSError as error:
        raise StoreInaccessible(
            f"{path}: cannot be read ({error.strerror}); it must belong to the user that "
            "smtpproxy runs as, mode 0600"
        ) from error
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


def load_or_create_keys(state_dir: Path) -> KeyRing:
    """Read the keys, or make one when there is none. Safe when two processes start at once."""
    path = state_dir / FILE_NAME
    if not path.exists():
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            create_secret(path, f"{_PREAMBLE}1 {secrets.token_hex(32)}\n")
        except FileExistsError:
            pass  # another process was first
        except OSError as error:
            raise StoreInaccessible(
                f"{path}: the key of the suppressions cannot be made ({error.strerror}); "
                "state_dir must be a folder that smtpproxy may write to"
            ) from error
    return load_keys(state_dir)


def create_partner_key(path: Path) -> SuppressionKey:
    """Make a key to share with a partner. Raises FileExistsError, OSError."""
    create_secret(path, f"{_PARTNER_PREAMBLE}{secrets.token_hex(32)}\n")
    return load_partner_key(path)


def add_key(state_dir: Path, live: Mapping[int, str]) -> KeyRing:
    """Add the next key to the file and return what is in it then.

    `live` are the fingerprints of the database by version. A newer key that is in the
    file already, because an earlier attempt broke off, is taken; keys that were retired
    are left out. Raises StoreMisconfigured, StoreInaccessible.
    """
    keys = {v: key for v, key in _secrets(state_dir).items() if v in live or v > max(live)}
    if max(keys) == max(live):
        keys[max(keys) + 1] = secrets.token_bytes(32)
    _replace(state_dir, keys)
    return load_keys(state_dir)


def drop_keys(state_dir: Path, live: Iterable[int]) -> KeyRing:
    """Take the keys out of the file that are not live any more."""
    keys, kept = _secrets(state_dir), set(live)
    left = {version: key for version, key in keys.items() if version in kept}
    if left and left != keys:
        _replace(state_dir, left)
    return load_keys(state_dir)


def _replace(state_dir: Path, keys: Mapping[int, bytes]) -> None:
    """Write the whole file aside and rename it into place: it is the old or the new one."""
    path = state_dir / FILE_NAME
    lines = "".join(f"{version} {key.hex()}\n" for version, key in sorted(keys.items()))
    try:
        replace_secret(path, _PREAMBLE + lines)
    except OSError as error:
        raise StoreInaccessible(
            f"{path}: the keys of the suppressions cannot be written ({error.strerror})"
        ) from error


def replace_secret(path: Path, text: str) -> None:
    """Write the whole file aside and rename it into place. Raises OSError."""
    for left in path.parent.glob(f"{path.name}.*.aside"):
        left.unlink(missing_ok=True)  # of a process that was killed
    with _written_aside(path, text) as aside:
        aside.replace(path)


def create_secret(path: Path, text: str) -> None:
    """Write the whole file aside and link it into place: the first of two wins.

    Raises FileExistsError, OSError.
    """
    with _written_aside(path, text) as aside:
        path.hardlink_to(aside)


@contextmanager
def _written_aside(path: Path, text: str) -> Iterator[Path]:
    """Let the caller move a complete file into place; it is on the disk when this ends."""
    aside = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}.aside")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        give_to_owner_of(path.parent, aside)
        yield aside
    finally:
        with suppress(FileNotFoundError):
            aside.unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def give_to_owner_of(folder: Path, path: Path) -> None:
    """Let root's command make files that the relay's own user can use."""
    if os.geteuid() == 0:
        owner = folder.stat()
        os.chown(path, owner.st_uid, owner.st_gid)


LINK_KEY_FILE = "unsubscribe.key"
_VERSIONS = 255
_LINK_PREAMBLE = """\
# The secret keys of smtpproxy's unsubscribe links, mode 0600. Keep them secret, and keep a
# copy: a link that was sent works only while its key is here, and must work for years.
# Line: version, the day it was made, key in hexadecimal; the newest seals new links.
"""
_LINK_LINE = re.compile(rf"(\d{{1,3}}) (\d{{4}}-\d\d-\d\d) ([0-9a-f]{{{2 * KEY_OCTETS}}})")


@dataclass(frozen=True, slots=True)
class LinkKey:
    version: int
    made: date
    secret: bytes

    @property
    def fingerprint(self) -> str:
        """What shows which key it is, and gives nothing of it away."""
        return digest(self.secret, b"smtpproxy link key", "sha256")[:4].hex()


def load_link_keys(state_dir: Path) -> Mapping[int, LinkKey]:
    """Read the keys by version, the oldest first.

    Raises StoreMisconfigured: there is none, others can read it, or it is no key file.
    """
    path = state_dir / LINK_KEY_FILE
    lines = secret_lines(
        path,
        what="the key file of the unsubscribe links",
        missing="restore it from the backup, or no link that was sent works; if none was sent yet,"
        " smtpproxy serve makes it",
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
            f"{path}: not a file of link keys; expected a line with a version, a day and "
            f"{2 * KEY_OCTETS} hexadecimal digits for each key; restore it from the backup"
        )
    return {key.version: key for key in sorted(keys, key=lambda key: key.version)}


def link_ring(state_dir: Path) -> TokenRing:
    """Return the ring of the keys in the file. Raises StoreMisconfigured."""
    return TokenRing({key.version: key.secret for key in load_link_keys(state_dir).values()})


def ensure_link_keys(state_dir: Path, today: date) -> bool:
    """Make the first key if there is none; say whether it was made now.

    Raises StoreMisconfigured, StoreInaccessible.
    """
    path = state_dir / LINK_KEY_FILE
    made = False
    if not path.exists():
        try:
            create_secret(path, f"{_LINK_PREAMBLE}{_link_line(_new_link_key(1, today))}")
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
    path = state_dir / LINK_KEY_FILE
    keys = load_link_keys(state_dir)
    if max(keys) >= _VERSIONS:
        raise StoreMisconfigured(f"{path}: there are {_VERSIONS} versions, and no more can be")
    key = _new_link_key(max(keys) + 1, today)
    text = _LINK_PREAMBLE + "".join(_link_line(each) for each in (*keys.values(), key))
    try:
        replace_secret(path, text)
    except OSError as error:
        raise _inaccessible(path, error) from error
    return key


def _new_link_key(version: int, today: date) -> LinkKey:
    return LinkKey(version, today, secrets.token_bytes(KEY_OCTETS))


def _link_line(key: LinkKey) -> str:
    return f"{key.version} {key.made.isoformat()} {key.secret.hex()}\n"


def _inaccessible(path: Path, error: OSError) -> StoreInaccessible:
    return StoreInaccessible(
        f"{path}: the keys of the unsubscribe links cannot be written ({error.strerror}); "
        "state_dir must be a folder that smtpproxy may write to"
    )


class LinkReader:
    """Reads the tokens of links and return paths, under keys that may be added while it runs."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._ring: TokenRing | None = None
        self._paths: ReturnPaths | None = None
        self._read_at: tuple[int, int] | None = None  # what the file was when it was read

    def open(self, token: str) -> Unsubscription:
        """Read a token. Raises TokenError: it is none; StoreMisconfigured: the file is wrong."""
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
        """Return what reads this return path. Raises as `open` does."""
        if self._paths is None or not self._paths.knows(local_part):
            self._read_again()
        if self._paths is None:
            raise TokenError("there are no keys of links")
        return self._paths

    def _read_again(self) -> None:
        """Read the file if it was changed, so that nobody can have it read at will."""
        try:
            state = (self._state_dir / LINK_KEY_FILE).stat()
        except FileNotFoundError:
            return
        now = state.st_mtime_ns, state.st_ino
        if now != self._read_at:
            keys = {key.version: key.secret for key in load_link_keys(self._state_dir).values()}
            self._ring, self._paths = TokenRing(keys), ReturnPaths(keys)
            self._read_at = now
