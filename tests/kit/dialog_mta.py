"""A dialog of tests/dialogs as an MTA hears it: what it asks about, and what is to be answered.

What an MTA says by itself (its greeting, EHLO's list, order and syntax of commands) is for
nobody else to say; answers to recipients and messages have to be those of the dialog.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.kit.dialog import Line, matches, read_dialog, sent

OF_THE_MTA = ("501 ", "503 ", "554 5.5.1", "554 5.6.0 content contains a bare", "555 ")
"""Replies that an MTA gives without asking anybody."""


@dataclass(frozen=True, slots=True)
class Said:
    """A command, or `MESSAGE` with content behind it, and what the dialog has for a reply."""

    verb: bytes
    command: bytes
    reply: str
    content: bytes = b""  # unstuffed

    @property
    def path(self) -> str:
        return self.command.partition(b"<")[2].partition(b">")[0].decode()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was answered, beside what the dialog has in its place."""

    about: str
    said: str  # "250" where there was nothing against it
    expected: str

    @property
    def agrees(self) -> bool:
        if self.said == "250" or self.expected.startswith("452 4.5.3"):
            return self.expected[:3] == self.said[:3]
        return matches(self.said, self.expected)


def heard(path: Path) -> Iterator[Said]:
    """Yield what the client of the dialog says, in order, without what the MTA refuses itself."""
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
                yield Said(b"MESSAGE", command, reply, chunks)
                chunks = b""
        elif words[0] == b"DATA" and reply[:1] in "23":
            content, stream = _content(stream)
            yield Said(b"MESSAGE", command, next(replies), content)
        elif not reply.startswith(OF_THE_MTA):
            chunks = b""
            yield Said(words[0], command, reply)


def _content(stream: bytes) -> tuple[bytes, bytes]:
    if stream[:3] == b".\r\n":
        return b"", stream[3:]
    content, _, rest = stream.partition(b"\r\n.\r\n")
    return re.sub(rb"(?m)^\.", b"", content + b"\r\n"), rest


def _replies(lines: list[Line]) -> Iterator[str]:
    """The last line of each reply."""
    return (line.text for line in lines if line.kind == "s" and line.text[3:4] == " ")
