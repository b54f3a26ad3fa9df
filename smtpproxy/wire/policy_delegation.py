"""Postfix's policy delegation protocol, the server's side, without any I/O.

    bytes --receive_data--> next_event --> PolicyRequest, or None, or PolicyError
    answer(action) --> the bytes that answer it

A request is lines of `name=value` and an empty line; the answer is `action=…` and an empty
line (SMTPD_POLICY_README). Lines end with LF; a CR before it is forgiven, as telnet sends it.
The order of attributes means nothing, unknown ones are kept, and the last of a name counts.
Octets that are no UTF-8 are written as `\\xe9`, but in addresses: there they are lone surrogates
(surrogateescape), so that nobody takes them for another address.
"""

from collections.abc import Mapping

from msgspec import Struct

REQUEST_LIMIT = 64 * 1024
"""Octets of one request; Postfix's have about a thousand."""
REQUEST_TYPE = "smtpd_access_policy"
DUNNO = "DUNNO"
"""The action that says nothing: what stands behind us in the restrictions decides."""

_PATHS = (b"sender", b"recipient")
_KEEP = 64 * 1024
"""Octets taken before the buffer is moved up."""


class PolicyError(Exception):
    """What came is no request; private text. The protocol's only answer is to hang up."""


class PolicyRequest(Struct, frozen=True):
    """One question of an MTA about one step of an SMTP session."""

    attributes: Mapping[str, str]

    def get(self, name: str) -> str:
        """The value of an attribute; empty where the MTA has none, as it has it itself."""
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
        """Octets of the message, at its end; before that what the client says they will be."""
        return self._number("size")

    def _number(self, name: str) -> int:
        text = self.get(name)
        return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else 0


class PolicyConnection:
    """Takes bytes, gives requests. After a PolicyError it is of no more use."""

    idle = False  # whether another event is there shows only when it is asked for

    def __init__(self, *, request_limit: int = REQUEST_LIMIT) -> None:
        self._limit = request_limit
        self._buffer = bytearray()
        self._at = 0  # where the line begins that is not read yet
        self._seen = 0  # up to where no line end was found
        self._begun = 0  # where the request begins
        self._attributes: dict[str, str] = {}

    @property
    def buffered(self) -> int:
        """Octets of what is not yet a whole request that was taken."""
        return len(self._buffer) - self._begun

    def receive_data(self, data: bytes) -> None:
        self._buffer += data

    def next_event(self) -> PolicyRequest | None:
        """Return the next whole request, or None. Raises PolicyError."""
        buffer = self._buffer
        while (end := buffer.find(b"\n", self._seen)) >= 0:
            line = bytes(buffer[self._at : end])
            self._at = self._seen = end + 1
            if self._at - self._begun > self._limit:
                break
            if line in (b"", b"\r"):
                return self._whole()
            self._attribute(line)
        else:
            self._seen = len(buffer)
        if self._seen - self._begun > self._limit:
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
        self._begun = self._at
        if self._begun >= min(_KEEP, len(self._buffer)):
            del self._buffer[: self._begun]
            self._begun = self._at = self._seen = 0
        if request.get("request") != REQUEST_TYPE:
            raise PolicyError(f"request={request.get('request')[:40]!r}, not {REQUEST_TYPE}")
        return request


def answer(action: str) -> bytes:
    """Return the answer to a request. Raises ValueError for an action of several lines."""
    if "\n" in action or "\r" in action or "\0" in action:
        raise ValueError("an action is one line")
    return f"action={action}\n\n".encode("utf-8", "surrogateescape")
