"""A dialog of tests/dialogs as an MTA sees it: what it asks about, and the answers expected.

What an MTA answers by itself (greeting, EHLO's list, order and syntax of commands) is not asked;
answers to recipients and messages must be those of the dialog.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from tests.kit.dialog import Line, matches, read_dialog, sent

OF_THE_MTA = ("501 ", "503 ", "554 5.5.1", "554 5.6.0 content contains a bare", "555 ")
"""Replies that an MTA gives by itself."""


class Step(Struct, frozen=True):
    """A command, or `MESSAGE` with its content, and the dialog's reply to it."""

    verb: bytes
    command: bytes
    reply: str
    content: bytes = b""  # unstuffed

    @property
    def path(self) -> str:
        return self.command.partition(b"<")[2].partition(b">")[0].decode()


class Verdict(Struct, frozen=True):
    """An answer, and the dialog's reply in its place."""

    about: str
    said: str  # "250" if there was no objection
    expected: str

    @property
    def agrees(self) -> bool:
        if self.said == "250" or self.expected.startswith("452 4.5.3"):
            return self.expected[:3] == self.said[:3]
        return matches(self.said, self.expected)


def heard(path: Path) -> Iterator[Step]:
    """Yield the client's steps in order, without those that the MTA itself refuses."""
    lines = read_dialog(path)
    replies = _replies(lines)
    assert next(replies).startswith("220")
    stream = b"".join(sent(line) for line in lines if line.kind in ("c", "raw"))
    chunks = b""
    while stream:
        command, _, stream = stream.partition(b"\r\n")
        reply = next(replies)
        words = command.upper().split(b" ")
        if words[0] == b"BDAT":
            size = int(words[1])
            chunk, stream = stream[:size], stream[size:]
            if reply.startswith(OF_THE_MTA):
                continue
            chunks += chunk
            if words[-1] == b"LAST":
                yield Step(b"MESSAGE", command, reply, chunks)
                chunks = b""
        elif words[0] == b"DATA" and reply[:1] in "23":
            content, stream = _content(stream)
            yield Step(b"MESSAGE", command, next(replies), content)
        elif not reply.startswith(OF_THE_MTA):
            chunks = b""
            yield Step(words[0], command, reply)


def _content(stream: bytes) -> tuple[bytes, bytes]:
    if stream[:3] == b".\r\n":
        return b"", stream[3:]
    content, _, rest = stream.partition(b"\r\n.\r\n")
    return re.sub(rb"(?m)^\.", b"", content + b"\r\n"), rest


def _replies(lines: list[Line]) -> Iterator[str]:
    """The last line of each reply."""
    return (line.text for line in lines if line.kind == "s" and line.text[3:4] == " ")
