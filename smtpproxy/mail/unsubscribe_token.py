"""The token of an unsubscribe link: who no longer wants which mail.

A token is the sealed record itself, so nothing has to be looked up to read one years later, and
nobody without the key can make or read one. It is a compact record encrypted with AES-SIV (RFC
5297) under one key of a ring, in base64url: at most 200 characters for any possible address.
docs/adr/0010-unsubscribe-token.md says why.
"""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from collections.abc import Mapping
from hashlib import sha256

from msgspec import Struct

LONGEST = 200  # characters
KEY_OCTETS = 64  # AES-256-SIV

_OVERHEAD = 1 + 16  # the version of the key, and the synthetic IV
_ROOM = LONGEST * 3 // 4 - _OVERHEAD  # octets of a record
_CONTEXT = b"smtpproxy unsubscribe"
_ID = 16
_STREAM = 4
_NAME = 0x3F  # length of the purpose; 0: the scope is all marketing
_BRAND = 0x40  # the name is a brand's, not a purpose's
_KEYED = 0x80  # the recipient is a key text, and the stream is omitted
_TOKEN = re.compile(r"[A-Za-z0-9_-]{30,8000}")
KEY_TEXT = re.compile(r"hmac:([0-9a-f]{8}):([0-9a-f]{32}):([0-9a-f]{64})")
_KEY_OCTETS = (4, 20)  # where the wide and the exact key begin


class TokenError(ValueError):
    """Not a valid token, or no longer valid. The text is for the log, never for its bearer."""


class Unsubscription(Struct, frozen=True):
    """What a token says.

    `recipient` is a canonical address, or a key text of the suppressions if the address is too
    long; `scope` is `marketing`, `brand:NAME` or `purpose:NAME`. `stream` is the `stream_tag` of
    the stream's name, empty beside a key text.
    """

    recipient: str
    scope: str
    id: str  # of the decision, a ULID
    stream: bytes = b""


def stream_tag(name: str) -> bytes:
    """Return the four octets that identify a stream in tokens."""
    return sha256(name.encode()).digest()[:_STREAM]


def fits(recipient: str, scope: str) -> bool:
    """Whether a token has room for this address; a key text always fits."""
    return _ID + 1 + _STREAM + len(_named(scope)[1]) + len(recipient.encode()) <= _ROOM


class TokenRing:
    """Keys by version (1 to 255). Makes tokens under one and reads those under any."""

    __slots__ = ("_ciphers", "sealing")

    def __init__(self, keys: Mapping[int, bytes], sealing: int = 0) -> None:
        """`keys` are `KEY_OCTETS` long; there is at least one. `sealing` is the version that makes
        tokens, 0 for the newest."""
        from cryptography.hazmat.primitives.ciphers.aead import AESSIV  # for links only

        self._ciphers = {version: AESSIV(key) for version, key in keys.items()}
        self.sealing = sealing or max(self._ciphers)

    def seal(self, unsubscription: Unsubscription) -> str:
        """Return the token. Raises ValueError for an address that does not fit."""
        record = _packed(unsubscription)
        if len(record) > _ROOM:
            raise ValueError(f"a record of {len(record)} octets; there is room for {_ROOM}")
        return self.seal_record(record, _CONTEXT)

    def open(self, token: str) -> Unsubscription:
        """Read a token. Raises TokenError for anything that `seal` did not make."""
        if len(token) > LONGEST:
            raise TokenError("longer than a token")
        return _unpacked(self.open_record(token, _CONTEXT))

    def seal_record(self, record: bytes, context: bytes) -> str:
        """Return the token of any record. It is valid only in this context."""
        version = bytes((self.sealing,))
        sealed = self._ciphers[self.sealing].encrypt(record, [context, version])
        return urlsafe_b64encode(version + sealed).rstrip(b"=").decode()

    def open_record(self, token: str, context: bytes) -> bytes:
        """Return the record of a token. Raises TokenError."""
        from cryptography.exceptions import InvalidTag

        if _TOKEN.fullmatch(token) is None:
            raise TokenError("not the alphabet or the length of a token")
        try:
            raw = urlsafe_b64decode(token + "=" * (-len(token) % 4))
        except Base64Error:
            raise TokenError("not base64url") from None
        if urlsafe_b64encode(raw).rstrip(b"=").decode() != token:
            raise TokenError("not in its one form")  # unused bits of the last character
        cipher = self._ciphers.get(raw[0])
        if cipher is None:
            raise TokenError(f"no key of version {raw[0]}")
        try:
            return cipher.decrypt(raw[1:], [context, raw[:1]])
        except InvalidTag:
            raise TokenError("not sealed by us") from None

    def knows(self, token: str) -> bool:
        """Whether the key that the token names is known; the token itself is not checked."""
        try:
            return urlsafe_b64decode(token[:4])[0] in self._ciphers
        except (Base64Error, ValueError, IndexError):
            return False


def _named(scope: str) -> tuple[int, bytes]:
    """Return the scope as an octet that says what it is, and the name in it."""
    if scope == "marketing":
        return 0, b""
    kind, _, text = scope.partition(":")
    name = text.encode()
    if kind not in ("purpose", "brand") or not 1 <= len(name) <= _NAME:
        raise ValueError(f"{scope!r} is not a scope of an unsubscribe link")
    return len(name) | (_BRAND if kind == "brand" else 0), name


def _packed(unsubscription: Unsubscription) -> bytes:
    head, name = _named(unsubscription.scope)
    id = ulid_octets(unsubscription.id)
    match = KEY_TEXT.fullmatch(unsubscription.recipient)
    if match is not None:
        return id + bytes((_KEYED | head,)) + name + bytes.fromhex("".join(match.groups()))
    stream = unsubscription.stream.ljust(_STREAM, b"\0")
    return id + bytes((head,)) + stream + name + unsubscription.recipient.encode()


def _unpacked(record: bytes) -> Unsubscription:
    """Read a record that we sealed, and which is therefore well formed."""
    id, head, rest = record[:_ID], record[_ID], record[_ID + 1 :]
    stream = b""
    if not head & _KEYED:
        stream, rest = rest[:_STREAM], rest[_STREAM:]
    length = head & _NAME
    name, recipient = rest[:length].decode(), rest[length:]
    if head & _KEYED:
        wide, exact = _KEY_OCTETS
        parts = recipient[:wide], recipient[wide:exact], recipient[exact:]
        text = ":".join(("hmac", *(part.hex() for part in parts)))
    else:
        text = recipient.decode()
    kind = "brand" if head & _BRAND else "purpose"
    return Unsubscription(text, f"{kind}:{name}" if name else "marketing", ulid_text(id), stream)


ULID_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_DIGITS = {character: value for value, character in enumerate(ULID_ALPHABET)}


def ulid_octets(id: str) -> bytes:
    number = 0
    for character in id:
        number = number << 5 | _DIGITS[character]
    return number.to_bytes(_ID, "big")


def ulid_text(octets: bytes) -> str:
    number = int.from_bytes(octets, "big")
    return "".join(ULID_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))
