"""What a milter says to its MTA, as bytes ready to be sent.

One of the final replies ends a command; at the end of a message, edits and PROGRESS may
come before it.
"""

import struct
from collections.abc import Mapping, Sequence

from smtpproxy.mail.reply import Reply
from smtpproxy.wire.milter.commands import Negotiation
from smtpproxy.wire.milter.flags import Stage

_HEAD = struct.Struct("!IB")
_NUMBER = struct.Struct("!I")
_NUL_OR_LINE_END = str.maketrans({"\0": " ", "\r": " ", "\n": " "})


def packet(letter: str, data: bytes = b"") -> bytes:
    """Return a packet: the length of what follows, the letter, the data."""
    return _HEAD.pack(len(data) + 1, ord(letter)) + data


CONTINUE = packet("c")
TEMPORARY_FAILURE = packet("t")
PROGRESS = packet("p")


def negotiated(agreed: Negotiation, macros: Mapping[Stage, Sequence[str]] | None = None) -> bytes:
    """Answer a negotiation; `macros` are the names that are wanted at each stage."""
    data = struct.pack("!III", agreed.version, agreed.actions, agreed.steps)
    for stage, names in (macros or {}).items():
        data += _NUMBER.pack(stage) + _string(" ".join(names))
    return packet("O", data)


def reply_code(reply: Reply) -> bytes:
    """Refuse with a reply of our own: every line 4xx, or every line 5xx.

    MTAs take the text for a format, so `%` is doubled. Raises ValueError for other codes.
    """
    if reply.code // 100 not in (4, 5):
        raise ValueError(f"a milter's reply is 4xx or 5xx, not {reply.code}")
    enhanced = f"{reply.enhanced} " if reply.enhanced else ""
    last = len(reply.lines) - 1
    lines = [
        f"{reply.code}{' ' if at == last else '-'}{enhanced}{line.translate(_NUL_OR_LINE_END)}"
        for at, line in enumerate(reply.lines)
    ]
    return packet("y", _string("\r\n".join(lines).replace("%", "%%")))


def delete_recipient(path: str) -> bytes:
    """Take a recipient away; `path` as it came with RCPT, else it matches none."""
    return packet("-", _string(path))


def change_header(name: str, value: bytes, index: int = 1) -> bytes:
    """Replace the field that is the `index`th of its name, from 1; an empty value removes it."""
    return packet("m", _NUMBER.pack(index) + _string(name) + _value(value))


def delete_header(name: str, index: int = 1) -> bytes:
    return change_header(name, b"", index)


def _string(value: str) -> bytes:
    return _value(value.encode("utf-8", "surrogateescape"))


def _value(value: bytes) -> bytes:
    if b"\0" in value:
        raise ValueError("a NUL within a string would end it")
    return value + b"\0"
