"""The secret key of the suppressions: made on first start, kept in the state folder.

Addresses of suppressions are stored as HMAC-SHA256 under this key, never in clear
(design.md section 8). A key that is lost or mixed up would make every suppression
match nobody, so the database remembers the fingerprint of its key and is not opened
with another one.
"""

import os
import re
import secrets
from contextlib import suppress
from hashlib import sha256
from hmac import digest
from pathlib import Path

from smtpproxy.mail.address import canonical, widened
from smtpproxy.store.protocols import StoreInaccessible, StoreMisconfigured

FILE_NAME = "suppression.key"
_BLOCK = 64  # of SHA-256, RFC 2104 section 2
_WIDE_BYTES = 16  # truncated as RFC 2104 section 5 allows: it only finds candidates
_PREAMBLE = """\
# The secret key of smtpproxy's suppressions, mode 0600. Keep it secret, and keep a copy:
# without it every stored suppression is void. Line: version, key in hexadecimal.
"""
_KEY_LINE = re.compile(r"(\d{1,4}) ([0-9a-f]{64})")
_KEY_TEXT = re.compile(r"hmac:([0-9a-f]{8}):([0-9a-f]{32}):([0-9a-f]{64})")

KeyPair = tuple[bytes, bytes]
"""(wide key, exact key) of one address."""


class SuppressionKey:
    """Turns addresses into keys. Never shows the secret."""

    __slots__ = ("_inner", "_outer", "fingerprint", "version")

    def __init__(self, secret: bytes, version: int = 1) -> None:
        padded = secret.ljust(_BLOCK, b"\0")
        # HMAC with its two padded blocks hashed once: a third of hmac.digest()'s time.
        self._inner = sha256(bytes(byte ^ 0x36 for byte in padded))
        self._outer = sha256(bytes(byte ^ 0x5C for byte in padded))
        self.version = version
        self.fingerprint = digest(secret, b"smtpproxy suppression key", "sha256")[:4].hex()

    def _hmac(self, text: str) -> bytes:
        inner = self._inner.copy()
        inner.update(text.encode())
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.digest()

    def pair(self, address: str) -> KeyPair:
        """Return the keys of a canonical address."""
        exact = self._hmac(address)
        wide = widened(address)
        return (exact if wide == address else self._hmac(wide))[:_WIDE_BYTES], exact

    def text(self, pair: KeyPair) -> str:
        """Return the key text of an export: it stands for the address under this key."""
        wide, exact = pair
        return f"hmac:{self.fingerprint}:{wide.hex()}:{exact.hex()}"

    def read(self, text: str) -> KeyPair:
        """Return the keys of an address as given, or of a key text of an export.

        Raises:
            ValueError: a key text under another key; AddressError: not an address.
        """
        if not text.startswith("hmac:"):
            return self.pair(canonical(text))
        match = _KEY_TEXT.fullmatch(text)
        if match is None:
            raise ValueError("not a key text as `suppress export` writes it")
        if match[1] != self.fingerprint:
            raise ValueError(
                f"exported under another key ({match[1]}, ours is {self.fingerprint}): "
                "import it where that key is, or with the addresses"
            )
        return bytes.fromhex(match[2]), bytes.fromhex(match[3])


def load_key(state_dir: Path) -> SuppressionKey:
    """Read the key that is there.

    Raises:
        StoreMisconfigured: there is none, it can be read by others, or it is not a key.
    """
    path = state_dir / FILE_NAME
    try:
        mode = path.stat().st_mode & 0o777
        if mode & 0o077:
            raise StoreMisconfigured(
                f"{path}: mode {mode:04o} lets others read the key of the suppressions; "
                f"make it 0600: chmod 600 {path}"
            )
        text = path.read_text("ascii", errors="replace")
    except FileNotFoundError:
        raise StoreMisconfigured(
            f"{path}: the key of the suppressions is missing; restore it from the backup: "
            "without it every stored suppression is void"
        ) from None
    except OSError as error:
        raise StoreInaccessible(
            f"{path}: cannot be read ({error.strerror}); it must belong to the user that "
            "smtpproxy runs as, mode 0600"
        ) from error
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    match = _KEY_LINE.fullmatch(lines[0]) if len(lines) == 1 else None
    if match is None:
        raise StoreMisconfigured(
            f"{path}: not a key file; expected one line with a version and 64 hexadecimal "
            "digits; restore it from the backup"
        )
    return SuppressionKey(bytes.fromhex(match[2]), int(match[1]))


def load_or_create_key(state_dir: Path) -> SuppressionKey:
    """Read the key, or make it when there is none. Safe when two processes start at once."""
    path = state_dir / FILE_NAME
    if not path.exists():
        try:
            _create(path)
        except OSError as error:
            raise StoreInaccessible(
                f"{path}: the key of the suppressions cannot be made ({error.strerror}); "
                "state_dir must be a folder that smtpproxy may write to"
            ) from error
    return load_key(state_dir)


def _create(path: Path) -> None:
    """Write the whole file aside and link it into place: the first of two wins."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(f"{_PREAMBLE}1 {secrets.token_hex(32)}\n")
            file.flush()
            os.fsync(file.fileno())
        give_to_owner_of(path.parent, aside)
        with suppress(FileExistsError):
            os.link(aside, path)
    finally:
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
