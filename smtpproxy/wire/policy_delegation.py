"""The server's side of Postfix's policy delegation protocol, without any I/O.

    bytes --receive_data--> next_event --> PolicyRequest, or None, or PolicyError
    answer(action) --> the bytes that answer it

A request is lines of `name=value` and an empty line; the answer is `action=…` and an empty line
(SMTPD_POLICY_README). Lines end with LF; a CR before it is ignored, because telnet sends one. The
order of attributes does not matter, unknown ones are kept, and the last of the same name counts.
Octets that are not UTF-8 are written as `\\xe9`, except in addresses: there they are lone
surrogates (surrogateescape), so that they cannot be mistaken for another address.
"""

from collections.abc import Mapping

from msgspec import Struct

REQUEST_LIMIT = 64 * 1024
"""Octets of one request; Postfix's have about a thousand."""
REQUEST_TYPE = "smtpd_access_policy"
DUNNO = "DUNNO"
"""The action without an opinion: the restrictions after ours decide."""

_PATHS = (b"sender", b"recipient")
_COMPACT_AT = 64 * 1024
"""Octets consumed before the buffer is compacted."""


class PolicyError(Exception):
    """The input is not a request; the text is private. The only answer is to hang up."""


class PolicyRequest(Struct, frozen=True):
    """One question of an MTA about one step of an SMTP session."""

    attributes: Mapping[str, str]

    def get(self, name: str) -> str:
        """The value of an attribute; empty if it is missing or the MTA does not know it."""
        return self.attributes.get(name, "")

    @property
    def state(self) -> str:
        """`RCPT`, `DATA`, `END-OF-MESSAGE` and others."""
        return self.get("protocol_state").upper()

    @property
    def recipient_count(self) -> int:
        """How many recipients the MTA has accepted; 0 before DATA."""
        return self._number("recipient_count")

    @property
    def size(self) -> int:
        """Octets of the message, at its end; before that, what the client declared."""
        return self._number("size")

    def _number(self, name: str) -> int:
        text = self.get(name)
        return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else 0


class PolicyConnection:
    """Turns bytes into requests. It cannot be used after a PolicyError."""

    idle = False  # only next_event knows whether there is another

    def __init__(self, *, request_limit: int = REQUEST_LIMIT) -> None:
        self._limit = request_limit
        self._buffer = bytearray()
        self._at = 0  # where the next unread line begins
        self._seen = 0  # up to here there is no line end
        self._start = 0  # where the request begins
        self._attributes: dict[str, str] = {}

    @property
    def buffered(self) -> int:
        """Octets received that are not yet part of a returned request."""
        return len(self._buffer) - self._start

    def receive_data(self, data: bytes) -> None:
        self._buffer += data

    def next_event(self) -> PolicyRequest | None:
        """Return the next whole request, or None. Raises PolicyError."""
        buffer = self._buffer
        while (end := buffer.find(b"\n", self._seen)) >= 0:
            line = bytes(buffer[self._at : end])
            self._at = self._seen = end + 1
            if self._at - self._start > self._limit:
                break
            if line in (b"", b"\r"):
                return self._whole()
            self._attribute(line)
        else:
            self._seen = len(buffer)
        if self._seen - self._start > self._limit:
            raise PolicyError(f"a request of more than {self._limit} octets")
        return None

    def _attribute(self, line: bytes) -> None:
        name, equals, value = line.removesuffix(b"\r").partition(b"=")
        if not equals or not name:
            raise PolicyError(f"a line that is not name=value: {line[:40]!r}")
        if b"\0" in line:
            raise PolicyError("a NUL octet")
        errors = "surrogateescape" if name in _PATHS else "backslashreplace"
        self._attributes[name.decode("utf-8", "backslashreplace")] = value.decode("utf-8", errors)

    def _whole(self) -> PolicyRequest:
        request, self._attributes = PolicyRequest(self._attributes), {}
        self._start = self._at
        if self._start >= min(_COMPACT_AT, len(self._buffer)):
            del self._buffer[: self._start]
            self._start = self._at = self._seen = 0
        if request.get("request") != REQUEST_TYPE:
            raise PolicyError(f"request={request.get('request')[:40]!r}, not {REQUEST_TYPE}")
        return request


def answer(action: str) -> bytes:
    """Return the answer to a request. Raises ValueError for an action of several lines."""
    if "\n" in action or "\r" in action or "\0" in action:
        raise ValueError("an action is one line")
    return f"action={action}\n\n".encode("utf-8", "surrogateescape")
