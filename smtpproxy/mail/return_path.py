"""The reverse path of a message to one recipient (VERP): a bounce that comes back to it tells by
itself which message and whom it is about, and nobody without the key can make one.

The local part is at most 64 octets (RFC 5321 4.5.3.1.1) and case says nothing in it.
docs/adr/0023-return-paths.md says why it is as it is.
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
    """What a return path says: the decision, its stream, and a keyed digest of the recipient."""

    id: str  # a ULID
    stream: bytes  # what `stream_tag` makes of the stream's name
    person: bytes
    version: int  # of the key


class ReturnPaths:
    """Makes return paths at a domain under one key, and reads those of all keys."""

    __slots__ = ("_domain", "_keys", "_sealing")

    def __init__(self, keys: Mapping[int, bytes], domain: str = "", sealing: int = 0) -> None:
        """`keys` by version, 1 to 255: each use has a key of its own, made of these. `sealing` is
        the version that makes them, 0 for the newest.

        The domain is for making them; they are read whatever domain they stand at.
        """
        self._keys = {version: digest(key, _CONTEXT, sha256) for version, key in keys.items()}
        self._sealing = sealing or max(self._keys)
        self._domain = domain

    def make(self, id: str, stream: str, recipient: str) -> str:
        """Return the address for one recipient, canonical, of a decision."""
        octets, key = ulid_octets(id), self._keys[self._sealing]
        signed = (
            bytes((self._sealing,)) + octets + stream_tag(stream) + _person(key, octets, recipient)
        )
        text = b32encode(signed + digest(key, signed, sha256)[:_MAC]).decode().rstrip("=")
        return f"{_PREFIX}{text.lower()}@{self._domain}"

    def read(self, local_part: str) -> ReturnPath:
        """Read a local part. Raises TokenError for all that `make` did not make."""
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
        """Whether it was made for this recipient, canonical."""
        person = _person(self._keys[path.version], ulid_octets(path.id), recipient)
        return compare_digest(person, path.person)

    def knows(self, local_part: str) -> bool:
        """Whether the key is here that it names; says nothing about the rest."""
        if _LOCAL_PART.fullmatch(local_part) is None:
            return True
        return b32decode(local_part[1:9].upper())[0] in self._keys


def candidates(text: str) -> Iterator[str]:
    """Yield what may be local parts of return paths in a text, in lower case."""
    for found in _FOUND.finditer(text):
        yield found[0].lower()


def _person(key: bytes, id: bytes, recipient: str) -> bytes:
    """The digest is another one in each message: two of them cannot be told to be of one person."""
    return digest(key, b"recipient\0" + id + recipient.encode(), sha256)[:8]
