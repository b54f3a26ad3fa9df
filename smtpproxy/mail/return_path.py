"""The reverse path of a message to one recipient (VERP): it identifies which message and recipient
a bounce to it is about, and nobody without the key can make one.

The local part has at most 64 octets (RFC 5321 4.5.3.1.1) and is case-insensitive.
docs/adr/0023-return-paths.md explains its design.
"""

import re
from base64 import b32decode, b32encode
from collections.abc import Iterator, Mapping
from hashlib import sha256
from hmac import compare_digest, digest

from msgspec import Struct

from smtpproxy.mail.unsubscribe_token import TokenError, stream_tag, ulid_octets, ulid_text

_PREFIX = "b"
_LOCAL_PART = re.compile(rf"{_PREFIX}[a-z2-7]{{63}}", re.IGNORECASE)
_FOUND = re.compile(rf"(?<![a-z0-9]){_LOCAL_PART.pattern}(?![a-z0-9])", re.IGNORECASE)
_CONTEXT = b"smtpproxy return path"
_ID = slice(1, 17)
_STREAM = slice(17, 21)
_PERSON = slice(21, 29)
_SIGNED = 29  # octets before the MAC
_MAC = 10


class ReturnPath(Struct, frozen=True):
    """A return path's content: the decision, its stream, a keyed digest of the recipient."""

    id: str  # a ULID
    stream: bytes  # the `stream_tag` of the stream's name
    person: bytes
    version: int  # of the key


class ReturnPaths:
    """Makes return paths at a domain under one key, and reads those under any key."""

    __slots__ = ("_domain", "_keys", "_sealing")

    def __init__(self, keys: Mapping[int, bytes], domain: str = "", sealing: int = 0) -> None:
        """`keys` by version, 1 to 255; each use derives its own key from these. `sealing` is the
        version that makes return paths, 0 for the newest.

        The domain is only for making them; they are read at any domain.
        """
        self._keys = {version: digest(key, _CONTEXT, sha256) for version, key in keys.items()}
        self._sealing = sealing or max(self._keys)
        self._domain = domain

    def make(self, id: str, stream: str, recipient: str) -> str:
        """Return the address for one canonical recipient of a decision."""
        octets, key = ulid_octets(id), self._keys[self._sealing]
        signed = (
            bytes((self._sealing,)) + octets + stream_tag(stream) + _person(key, octets, recipient)
        )
        text = b32encode(signed + digest(key, signed, sha256)[:_MAC]).decode().rstrip("=")
        return f"{_PREFIX}{text.lower()}@{self._domain}"

    def read(self, local_part: str) -> ReturnPath:
        """Read a local part. Raises TokenError for anything that `make` did not make."""
        if _LOCAL_PART.fullmatch(local_part) is None:
            raise TokenError("not the alphabet or the length of a return path")
        raw = b32decode(local_part[1:].upper() + "=")
        key = self._keys.get(raw[0])
        if key is None:
            raise TokenError(f"no key of version {raw[0]}")
        if not compare_digest(digest(key, raw[:_SIGNED], sha256)[:_MAC], raw[_SIGNED:]):
            raise TokenError("not made by us")
        return ReturnPath(ulid_text(raw[_ID]), raw[_STREAM], raw[_PERSON], raw[0])

    def concerns(self, path: ReturnPath, recipient: str) -> bool:
        """Whether it was made for this canonical recipient."""
        person = _person(self._keys[path.version], ulid_octets(path.id), recipient)
        return compare_digest(person, path.person)

    def knows(self, local_part: str) -> bool:
        """Whether the key that it names is known; the rest is not checked."""
        if _LOCAL_PART.fullmatch(local_part) is None:
            return True
        return b32decode(local_part[1:9].upper())[0] in self._keys


def candidates(text: str) -> Iterator[str]:
    """Yield the possible local parts of return paths in a text, in lower case."""
    for found in _FOUND.finditer(text):
        yield found[0].lower()


def _person(key: bytes, id: bytes, recipient: str) -> bytes:
    """The recipient's digest, which differs between messages so that they cannot be linked."""
    return digest(key, b"recipient\0" + id + recipient.encode(), sha256)[:8]
