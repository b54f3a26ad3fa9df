"""The secret keys of the suppressions, and hashing addresses with them.

Addresses of suppressions are stored as HMAC-SHA256 under a key, never in clear (design.md
section 8). There is one key, or two while it is being replaced: then every lookup uses both.

A whole domain is stored in the same way. Its exact key is its wide key with a mark, which
shows that it is a domain, though not which.
"""

import re
from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from hmac import digest
from typing import NamedTuple

from msgspec import Struct

from smtpproxy.mail.address import domains_over, names_domain, whole_domain, widened
from smtpproxy.mail.mailboxes import recorded
from smtpproxy.mail.unsubscribe_token import KEY_TEXT
from smtpproxy.policy.model import Origin

_BLOCK = 64  # of SHA-256, RFC 2104 section 2
_WIDE_BYTES = 16  # truncated as RFC 2104 section 5 allows: it only finds candidates
_DOMAIN_KEY_TEXT = re.compile(r"(@|\*\.)hmac:([0-9a-f]{8}):([0-9a-f]{32})")
_MARKS = {"@": b"@".ljust(16, b"\0"), "*.": b"*.".ljust(16, b"\0")}  # no hash ends like this
_DOMAINS = 4_096  # whose keys are cached

KeyPair = tuple[bytes, bytes]
"""(wide key, exact key) of one address, or of a whole domain."""


def is_key_text(text: str) -> bool:
    """Whether it is a key text of an export, rather than an address or a domain."""
    return text.startswith(("hmac:", "@hmac:", "*.hmac:"))


def whole_domain_of(pair: KeyPair) -> str | None:
    """Return `@` or `*.` for the keys of a whole domain, None for those of an address."""
    for sign, mark in _MARKS.items():
        if pair[1].endswith(mark):
            return sign
    return None


def key_text(fingerprint: str, pair: KeyPair) -> str:
    """Return the key text of an address or a whole domain under the key of `fingerprint`."""
    wide, exact = pair
    sign = whole_domain_of(pair)
    if sign is not None:
        return f"{sign}hmac:{fingerprint}:{wide.hex()}"
    return f"hmac:{fingerprint}:{wide.hex()}:{exact.hex()}"


def suppressed_name(text: str) -> str:
    """Return the canonical name of an address or a whole domain. Raises `AddressError`."""
    domain = whole_domain(text)
    return recorded(text) if domain is None else domain


class SuppressionKey:
    """Turns addresses and whole domains into keys. Never shows the secret."""

    __slots__ = ("_inner", "_outer", "_over", "fingerprint", "version")

    def __init__(self, secret: bytes, version: int = 1) -> None:
        padded = secret.ljust(_BLOCK, b"\0")
        # HMAC with its two padded blocks hashed once: a third of hmac.digest()'s time.
        self._inner = sha256(bytes(byte ^ 0x36 for byte in padded))
        self._outer = sha256(bytes(byte ^ 0x5C for byte in padded))
        self._over = lru_cache(maxsize=_DOMAINS)(self._keys_over)
        self.version = version
        self.fingerprint = digest(secret, b"smtpproxy suppression key", "sha256")[:4].hex()

    def _hmac(self, text: str) -> bytes:
        inner = self._inner.copy()
        inner.update(text.encode())
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.digest()

    def pair(self, name: str) -> KeyPair:
        """Return the keys of a canonical address, or of a whole domain."""
        if names_domain(name):
            wide = self._hmac(name)[:_WIDE_BYTES]
            return wide, wide + _MARKS["@" if name[0] == "@" else "*."]
        return self._of_address(name)

    def _of_address(self, address: str) -> KeyPair:
        exact = self._hmac(address)
        variant = widened(address)
        return (exact if variant == address else self._hmac(variant))[:_WIDE_BYTES], exact

    def lookup(self, name: str) -> tuple[bytes, ...]:
        """Return the keys that find everything that counts for a canonical name.

        The two keys of the address, then the wide key of each whole domain that it is under, in
        the order of `domains_over`. For the name of a whole domain the first two are empty.
        """
        over = self._over(name.rpartition("@")[2])
        if name[0] in "@*" and names_domain(name):  # the first test settles it for most addresses
            return (b"", b"", *over)
        return self._of_address(name) + over

    def counting(self, name: str) -> list[KeyPair]:
        """Return the keys of a canonical address and of each whole domain that it is under."""
        return [self.pair(name), *map(self.pair, domains_over(name))]

    def _keys_over(self, domain: str) -> tuple[bytes, ...]:
        return tuple([self.pair(name)[0] for name in domains_over(domain)])

    def seal(self, text: str) -> str:
        """Return the HMAC of a text that is not an address."""
        return self._hmac(text).hex()

    def text(self, pair: KeyPair) -> str:
        """Return the key text that represents the address in exports."""
        return key_text(self.fingerprint, pair)


class KeyRing:
    """The live keys, the oldest first; new suppressions are stored under the newest."""

    __slots__ = ("keys", "newest", "versions")

    def __init__(self, keys: Iterable[SuppressionKey]) -> None:
        self.keys = tuple(sorted(keys, key=lambda key: key.version))
        self.newest = self.keys[-1]
        self.versions = tuple(key.version for key in self.keys)

    def places(self, text: str) -> list[tuple[SuppressionKey, KeyPair]]:
        """Return the keys an address or a whole domain is stored under, the newest first.

        A key text of an export is stored under its own key only.

        Raises:
            ValueError: a key text under a key that is not live; AddressError: not an address.
        """
        if not is_key_text(text):
            name = suppressed_name(text)
            return [(key, key.pair(name)) for key in reversed(self.keys)]
        fingerprint, pair = _read_key_text(text)
        for key in self.keys:
            if fingerprint == key.fingerprint:
                return [(key, pair)]
        raise ValueError(
            f"exported under another key ({fingerprint}, ours is {self.newest.fingerprint}): "
            "import it where that key is, or import the addresses"
        )

    def of_version(self, version: int) -> SuppressionKey:
        """Return the key of a stored row. Raises KeyError if it is not live."""
        for key in self.keys:
            if key.version == version:
                return key
        raise KeyError(version)


def _read_key_text(text: str) -> tuple[str, KeyPair]:
    """Return the fingerprint and the keys. Raises ValueError."""
    if match := KEY_TEXT.fullmatch(text):
        return match[1], (bytes.fromhex(match[2]), bytes.fromhex(match[3]))
    if match := _DOMAIN_KEY_TEXT.fullmatch(text):
        wide = bytes.fromhex(match[3])
        return match[2], (wide, wide + _MARKS[match[1]])
    raise ValueError("not a key text; expected one that `suppress export` wrote")


class Partner(NamedTuple):
    """A partner and the key shared with it."""

    name: str
    key: SuppressionKey


class PartnerSnapshot(Struct, frozen=True):
    """A partner's snapshot without its rows. `key` is a fingerprint."""

    key: str
    sender: str  # the host name of the side that took it
    taken_at: datetime
    imported_at: datetime
    count: int
    digest: str


class SnapshotRow(Struct, frozen=True):
    """One suppression of a partner. `origin` is the partner's."""

    keys: KeyPair  # under the key shared with the partner
    scope: str
    origin: Origin
    since: datetime


class Coverage(Struct, frozen=True):
    """How many of all suppressions can be exported to a partner."""

    covered: int
    total: int
