"""A dialog of tests/dialogs held with a milter: the kit is the MTA in between.

What an MTA says by itself (its greeting, EHLO's list, order and syntax of commands) is not
the milter's to say; its answers to recipients and messages have to be those of the dialog.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.kit.dialog import Line, matches, read_dialog, sent
from tests.kit.mta import Mta, Outcome, encode, strings

_OF_THE_MTA = ("501 ", "503 ", "554 5.5.1", "555 ")
"""Replies to RCPT that the milter never hears of."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the milter said, beside what the dialog has in its place."""

    about: str
    said: str  # "250" where it had nothing against it
    expected: str

    @property
    def agrees(self) -> bool:
        if self.said == "250" or self.expected.startswith("452 4.5.3"):
            return self.expected[:3] == self.said[:3]
        return matches(self.said, self.expected)


def hold_with_milter(path: Path, mta: Mta) -> list[Verdict]:
    """Hold the dialog's transactions; return every verdict of the milter."""
    lines = read_dialog(path)
    replies = _replies(lines)
    assert next(replies).startswith("220")
    stream = b"".join(sent(line) for line in lines if line.kind in ("c", "raw"))
    verdicts: list[Verdict] = []
    mta.negotiate()
    mta.connect()
    while stream:
        command, _, stream = stream.partition(b"\r\n")
        reply = next(replies)
        verb = command.partition(b" ")[0].upper()
        accepted = reply[:1] in "23"
        if verb in (b"EHLO", b"HELO") and accepted:
            mta.send(encode("A"), encode("H", strings(command[5:])))
        elif verb == b"RSET":
            mta.send(encode("A"))
        elif verb == b"MAIL" and accepted:
            mta.mail(_path(command))
        elif verb == b"RCPT" and not reply.startswith(_OF_THE_MTA):
            verdicts.append(_verdict(command.decode(), mta.rcpt(_path(command)), reply))
        elif verb == b"DATA" and accepted:
            content, _, stream = (
                stream.partition(b".\r\n")
                if stream[:3] == b".\r\n"
                else (stream.partition(b"\r\n.\r\n"))
            )
            message = re.sub(rb"(?m)^\.", b"", content + b"\r\n" if content else b"")
            verdicts.append(_verdict("message", mta.message(message), next(replies)))
    return verdicts


def _replies(lines: list[Line]) -> Iterator[str]:
    """The last line of each reply."""
    return (line.text for line in lines if line.kind == "s" and line.text[3:4] == " ")


def _path(command: bytes) -> str:
    return command.partition(b"<")[2].partition(b">")[0].decode()


def _verdict(about: str, outcome: Outcome, expected: str) -> Verdict:
    return Verdict(about, "250" if outcome.final == "c" else outcome.reply, expected)
