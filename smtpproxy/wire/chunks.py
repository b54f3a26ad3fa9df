"""Content that comes in counted chunks, made into the form of DATA (RFC 3030).

The rest of the product knows one form of content: dot-stuffed lines, each ended by CRLF.
"""

import re

from msgspec import Struct

from smtpproxy.mail.reply import Reply
from smtpproxy.wire.content import BareNewline, bare_newline, with_crlf
from smtpproxy.wire.events import Broken
from smtpproxy.wire.session import SessionState, State

_ARGUMENT = re.compile(r" *([0-9]{1,20})(?: +(LAST))? *", re.IGNORECASE)
_SYNTAX = Reply.of(501, "5.5.4", "syntax: BDAT size [LAST]; closing the connection").encode()
_NO_TRANSACTION = Reply.of(503, "5.5.1", "send MAIL and RCPT first").encode()
_NO_RECIPIENTS = Reply.of(554, "5.5.1", "no valid recipients").encode()


class Chunk(Struct, frozen=True):
    """BDAT, with octets that follow in any case. `refusal` is answered when they were read."""

    size: int
    last: bool
    refusal: bytes | None = None


def read_bdat(session: SessionState, argument: str) -> Chunk | Broken:
    """Read what follows BDAT. Without a size nobody knows where the next command begins."""
    found = _ARGUMENT.fullmatch(argument)
    if found is None:
        return Broken(_SYNTAX, "chunk_size")
    refusal = None
    if session.state not in (State.MAIL, State.CHUNKS):
        refusal = _NO_TRANSACTION
    elif not session.recipients:
        refusal = _NO_RECIPIENTS
    return Chunk(int(found[1]), found[2] is not None, refusal)


class ChunkReader:
    """Takes the octets of all chunks of one message and gives dot-stuffed lines.

    `stray` names the first CR or LF that stood alone, if any: whether the message is
    refused for it is the caller's to say; what is given is rewritten as DATA rewrites it.
    """

    __slots__ = ("_bare", "_held", "_new_line", "stray")

    def __init__(self, bare: BareNewline) -> None:
        self._bare = bare
        self._held = b""
        self._new_line = True
        self.stray: str | None = None

    @property
    def refused(self) -> bool:
        return self.stray is not None and self._bare == "reject"

    def feed(self, data: bytes) -> bytes:
        buffer = self._held + data
        self._held = b""
        if buffer.endswith(b"\r"):  # what follows tells whether it stands alone
            buffer, self._held = buffer[:-1], b"\r"
        return self._lines(buffer)

    def end(self) -> bytes:
        """Return what is left, with the CRLF that DATA needs at the end of the last line."""
        rest = self._lines(self._held)
        if not self._new_line:
            rest += b"\r\n"
        self._held, self._new_line = b"", True
        return rest

    def _lines(self, data: bytes) -> bytes:
        if not data:
            return b""
        name = bare_newline(data)
        if name is not None:
            self.stray = self.stray or name
            data = with_crlf(data)
        start = b"." if self._new_line and data.startswith(b".") else b""
        self._new_line = data.endswith(b"\r\n")
        return start + data.replace(b"\r\n.", b"\r\n..")
