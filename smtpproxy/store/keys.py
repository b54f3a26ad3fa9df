"""The secret keys of the suppressions, and what they make of an address.

Addresses of suppressions are stored as HMAC-SHA256 under a key, never in clear
(design.md section 8). There is one key; while it is being replaced there are two, and
every lookup asks under both.
"""

import re
from collections.abc import Iterable
from hashlib import sha256
from hmac import digest

from smtpproxy.mail.address import canonical, widened

_BLOCK = 64  # of SHA-256, RFC 2104 section 2
_WIDE_BYTES = 16  # truncated as RFC 2104 section 5 allows: it only finds candidates
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

    def seal(self, text: str) -> str:
        """Return what only a holder of the key can make of a text that is no address."""
        return self._hmac(text).hex()

    def text(self, pair: KeyPair) -> str:
        """Return the key text of an export: it stands for the address under this key."""
        wide, exact = pair
        return f"hmac:{self.fingerprint}:{wide.hex()}:{exact.hex()}"


class KeyRing:
    """The keys that are live, the oldest first; new suppressions are stored under the newest."""

    __slots__ = ("keys", "newest", "versions")

    def __init__(self, keys: Iterable[SuppressionKey]) -> None:
        self.keys = tuple(sorted(keys, key=lambda key: key.version))
        self.newest = self.keys[-1]
        self.versions = tuple(key.version for key in self.keys)

    def places(self, text: str) -> list[tuple[SuppressionKey, KeyPair]]:
        """Return where an address as given stands, under its newest key first.

        A key text of an export stands under its own key alone.

        Raises:
            ValueError: a key text under a key that is not live; AddressError: not an address.
        """
        if not text.startswith("hmac:"):
            address = canonical(text)
            return [(key, key.pair(address)) for key in reversed(self.keys)]
        match = _KEY_TEXT.fullmatch(text)
        if match is None:
            raise ValueError("not a key text as `suppress export` writes it")
        for key in self.keys:
            if match[1] == key.fingerprint:
                return [(key, (bytes.fromhex(match[2]), bytes.fromhex(match[3])))]
        raise ValueError(
            f"exported under another key ({match[1]}, ours is {self.newest.fingerprint}): "
            "import it where that key is, or with the addresses"
        )

    def of_version(self, version: int) -> SuppressionKey:
        """Return the key of a stored row. Raises KeyError: it is not live."""
        for key in self.keys:
            if key.version == version:
                return key
        raise KeyError(version)
