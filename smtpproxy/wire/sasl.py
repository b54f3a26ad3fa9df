"""The server side of SASL mechanisms, sans I/O: PLAIN, LOGIN and SCRAM-SHA-256.

A mechanism is a state machine: `step` takes what the client sent (None if AUTH had no initial
response) and returns what to do next. Responses are decoded on both sides. Nothing here stores or
compares a password; SCRAM has only keys derived from it.
"""

import hashlib
import hmac
import stringprep
import unicodedata
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from typing import Protocol

from msgspec import Struct

USER_NAME_RULE = "up to 128 printable characters without spaces, not beginning with # or %"


def is_user_name(name: str) -> bool:
    """Whether a users file may contain this name, and it is in prepared form (RFC 4013)."""
    if not name or name[0] in "#%" or len(name) > 128 or not name.isprintable() or " " in name:
        return False
    try:
        return saslprep(name) == name
    except NotPreparable:
        return False


class Challenge(Struct, frozen=True):
    """Ask the client: 334 with this in base64."""

    data: bytes


class CheckPassword(Struct, frozen=True):
    """Check the user's password; the result ends the exchange."""

    user: str
    password: str

    def __repr__(self) -> str:
        return f"CheckPassword({self.user!r}, …)"  # never in a log or traceback


class Proven(Struct, frozen=True):
    """The client has proved to be this user."""

    user: str


class Refused(Struct, frozen=True):
    """The exchange has failed. `malformed`: the client broke the mechanism's syntax."""

    malformed: bool = False
    user: str | None = None


Step = Challenge | CheckPassword | Proven | Refused
_MALFORMED = Refused(malformed=True)


class Mechanism(Protocol):
    def step(self, response: bytes | None) -> Step: ...


class ScramKeys(Struct, frozen=True):
    """What a server stores of a password for SCRAM-SHA-256 (RFC 5802 section 3)."""

    iterations: int
    salt: bytes
    stored_key: bytes
    server_key: bytes

    def __repr__(self) -> str:
        return "ScramKeys(…)"

    @classmethod
    def of(cls, password: str, salt: bytes, iterations: int) -> "ScramKeys":
        """Derive them from a password. Takes as long as the iterations do."""
        prepared = saslprep(password).encode()
        salted = hashlib.pbkdf2_hmac("sha256", prepared, salt, iterations)
        client_key = _hmac(salted, b"Client Key")
        return cls(
            iterations, salt, hashlib.sha256(client_key).digest(), _hmac(salted, b"Server Key")
        )


class Plain:
    """PLAIN (RFC 4616): everything in one response."""

    def step(self, response: bytes | None) -> Step:
        if response is None:
            return Challenge(b"")
        parts = response.split(b"\0")
        if len(parts) != 3:
            return _MALFORMED
        try:
            other, user, password = (saslprep(part.decode()) for part in parts)
        except ValueError:  # not UTF-8, or NotPreparable
            return _MALFORMED
        if not user or not password:
            return _MALFORMED
        if other not in ("", user):
            return Refused(user=user)  # no acting for somebody else
        return CheckPassword(user, password)


class Login:
    """LOGIN, never standardised: asks for the name, then for the password."""

    def __init__(self) -> None:
        self._user: str | None = None

    def step(self, response: bytes | None) -> Step:
        if response is None:
            return Challenge(b"Username:")
        try:
            text = saslprep(response.decode())
        except ValueError:
            return _MALFORMED
        if not text:
            return _MALFORMED
        if self._user is None:
            self._user = text
            return Challenge(b"Password:")
        return CheckPassword(self._user, text)


class ScramSha256:
    """SCRAM-SHA-256 without channel binding (RFC 5802, 7677).

    `keys` returns a user's keys; for an unknown user it always returns the same unmatchable ones,
    so that nobody learns which users exist. `nonce` is printable ASCII without a comma, never used
    before.
    """

    def __init__(self, keys: Callable[[str], ScramKeys], nonce: str) -> None:
        self._lookup = keys
        self._nonce = nonce
        self._user = ""
        self._keys: ScramKeys
        self._gs2 = b""
        self._first = b""  # client-first-message-bare "," server-first-message
        self._state = self._client_first

    def step(self, response: bytes | None) -> Step:
        if response is None:
            return Challenge(b"") if self._state == self._client_first else _MALFORMED
        return self._state(response)

    def _client_first(self, message: bytes) -> Step:
        flag, _, rest = message.partition(b",")
        other, _, bare = rest.partition(b",")
        if flag not in (b"n", b"y"):  # p=…: channel binding, which is not offered
            return _MALFORMED
        fields = _fields(bare, "nr")
        if fields is None or (other and not other.startswith(b"a=")):
            return _MALFORMED
        try:
            user = saslprep(_name(fields[0]))
            acting = saslprep(_name(other[2:].decode()))
        except ValueError:
            return _MALFORMED
        nonce = fields[1]
        if not user or not nonce or not nonce.isascii() or not nonce.isprintable():
            return _MALFORMED
        if acting not in ("", user):
            return Refused(user=user)
        self._user = user
        self._keys = self._lookup(user)
        self._nonce = nonce + self._nonce
        self._gs2 = message[: len(message) - len(bare)]
        salt = b64encode(self._keys.salt).decode()
        first = f"r={self._nonce},s={salt},i={self._keys.iterations}".encode()
        self._first = bare + b"," + first
        self._state = self._client_final
        return Challenge(first)

    def _client_final(self, message: bytes) -> Step:
        without_proof, comma, proof_field = message.rpartition(b",")
        fields = _fields(without_proof, "cr")
        if not comma or fields is None or not proof_field.startswith(b"p="):
            return _MALFORMED
        try:
            binding = b64decode(fields[0], validate=True)
            proof = b64decode(proof_field[2:], validate=True)
        except ValueError:
            return _MALFORMED
        if binding != self._gs2 or fields[1] != self._nonce or len(proof) != 32:
            return Refused(user=self._user)
        signed = self._first + b"," + without_proof
        signature = _hmac(self._keys.stored_key, signed)
        client_key = bytes(a ^ b for a, b in zip(proof, signature, strict=True))
        key = hashlib.sha256(client_key).digest()
        if not hmac.compare_digest(key, self._keys.stored_key):
            return Refused(user=self._user)
        self._state = self._client_done
        server_signature = _hmac(self._keys.server_key, signed)
        return Challenge(b"v=" + b64encode(server_signature))

    def _client_done(self, message: bytes) -> Step:
        """End the exchange: 235 carries no data, so the server's proof was a 334 before it."""
        return Proven(self._user) if not message else _MALFORMED


def _fields(message: bytes, names: str) -> Sequence[str] | None:
    """The values of the first fields, which must have these names; extensions may follow."""
    try:
        parts = message.decode().split(",")
    except UnicodeDecodeError:
        return None
    if len(parts) < len(names):
        return None
    wanted = parts[: len(names)]
    if any(not part.startswith(f"{name}=") for name, part in zip(names, wanted, strict=True)):
        return None
    return [part[2:] for part in wanted]


def _name(encoded: str) -> str:
    """Decode =2C and =3D. Raises ValueError for any other =."""
    if "=" in encoded.replace("=2C", "").replace("=3D", ""):
        raise ValueError("a name has an = that is not part of =2C or =3D")
    return encoded.replace("=2C", ",").replace("=3D", "=")


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")


_PROHIBITED = (
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


class NotPreparable(ValueError):
    """A character that a user name or password cannot have; the text does not quote it."""


def saslprep(text: str) -> str:
    """Return the prepared form of a query, which may contain unassigned code points.

    Raises NotPreparable.
    """
    if text.isascii():
        if not text.isprintable():
            raise NotPreparable("contains a control character")
        return text
    mapped = "".join(
        " " if stringprep.in_table_c12(char) else char
        for char in text
        if not stringprep.in_table_b1(char)
    )
    prepared = unicodedata.ucd_3_2_0.normalize("NFKC", mapped)
    if any(prohibited(char) for char in prepared for prohibited in _PROHIBITED):
        raise NotPreparable("contains a character that is not allowed")
    right_to_left = [stringprep.in_table_d1(char) for char in prepared]
    if any(right_to_left):  # RFC 3454, section 6
        mixed = any(map(stringprep.in_table_d2, prepared))
        if mixed or not (right_to_left[0] and right_to_left[-1]):
            raise NotPreparable("mixes writing directions")
    return prepared
