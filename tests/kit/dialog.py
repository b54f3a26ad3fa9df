"""SMTP dialogs as text files, in tests/dialogs/.

# what this dialog shows
c: EHLO client.example          a line, sent with CRLF
s: 250-*                        one line of reply; * matches anything, ... any further lines
s: ...
c: MAIL FROM:<${sender}>        lines in a row are sent in one write: pipelining
c: RCPT TO:<jeanne@people.example>
s: 250 2.1.0 *
s: 550 5.7.1 <*> refused: no_record *
raw: text\\nmore\\r\\n.\\r\\n         bytes as they are, Python escapes, no CRLF added
closed                          the server closes the connection
"""

import re
import socket
from collections.abc import Mapping
from pathlib import Path
from string import Template

from msgspec import Struct

DIALOGS = Path(__file__).parents[1] / "dialogs"


class DialogError(AssertionError):
    """The server replied something else; names the file and line."""


class Line(Struct, frozen=True):
    number: int
    kind: str  # c, s, raw, closed
    text: str


def read_dialog(path: Path, variables: Mapping[str, str] | None = None) -> list[Line]:
    """Read a dialog file; raises ValueError on any other line."""
    lines = []
    for number, text in enumerate(path.read_text().splitlines(), 1):
        text = Template(text).substitute(variables or {}) if "${" in text else text
        if not text.strip() or text.startswith("#"):
            continue
        if text.strip() == "closed":
            lines.append(Line(number, "closed", ""))
            continue
        kind, colon, rest = text.partition(":")
        if kind not in ("c", "s", "raw") or not colon:
            raise ValueError(f"{path.name}:{number}: neither c:, s:, raw: nor closed: {text!r}")
        lines.append(Line(number, kind, rest.removeprefix(" ")))
    return lines


def run_dialog(
    path: Path,
    port: int,
    *,
    host: str = "127.0.0.1",
    piece: int | None = None,
    variables: Mapping[str, str] | None = None,
    timeout: float = 10.0,
) -> list[str]:
    """Hold the dialog with a listener; return all lines of its replies.

    `piece=1` sends byte by byte. Raises DialogError at the first line that differs.
    """
    lines = read_dialog(path, variables)
    with socket.create_connection((host, port), timeout=timeout) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return _Talk(path.name, connection, piece).hold(lines)


class _Talk:
    def __init__(self, name: str, connection: socket.socket, piece: int | None) -> None:
        self._name = name
        self._connection = connection
        self._piece = piece
        self._buffer = b""
        self._said: list[str] = []

    def hold(self, lines: list[Line]) -> list[str]:
        waiting = b""
        skipping = False
        for line in lines:
            if line.kind in ("c", "raw"):
                waiting += sent(line)
                continue
            self._send(waiting)
            waiting = b""
            if line.kind == "closed":
                self._expect_end(line, skipping)
            elif line.text == "...":
                skipping = True
                continue
            else:
                self._expect(line, skipping)
            skipping = False
        self._send(waiting)
        return self._said

    def _send(self, data: bytes) -> None:
        step = self._piece or len(data) or 1
        try:
            for at in range(0, len(data), step):
                self._connection.sendall(data[at : at + step])
        except OSError:
            return  # the server closed early: what it sent before decides

    def _expect(self, line: Line, skipping: bool) -> None:
        while True:
            said = self._read(line)
            if said is None:
                raise DialogError(f"{self._name}:{line.number}: closed instead of {line.text!r}")
            if matches(said, line.text):
                return
            if not skipping:
                raise DialogError(f"{self._name}:{line.number}: {said!r} instead of {line.text!r}")

    def _expect_end(self, line: Line, skipping: bool) -> None:
        while (said := self._read(line)) is not None:
            if not skipping:
                raise DialogError(f"{self._name}:{line.number}: {said!r} instead of closing")

    def _read(self, line: Line) -> str | None:
        """The next line; None at the end of the connection."""
        while b"\n" not in self._buffer:
            try:
                data = self._connection.recv(65_536)
            except TimeoutError:
                raise DialogError(
                    f"{self._name}:{line.number}: nothing came, wanted {line.text or 'the end'!r}"
                ) from None
            except ConnectionError:
                data = b""
            if not data:
                return None
            self._buffer += data
        said, _, self._buffer = self._buffer.partition(b"\n")
        self._said.append(said.rstrip(b"\r").decode("utf-8", "replace"))
        return self._said[-1]


def sent(line: Line) -> bytes:
    """The octets that a client sends for a `c` or `raw` line."""
    if line.kind == "c":
        return line.text.encode("utf-8", "surrogateescape") + b"\r\n"
    return (
        line.text.encode("latin-1", "backslashreplace").decode("unicode_escape").encode("latin-1")
    )


def matches(said: str, pattern: str) -> bool:
    """Whether a line of reply matches the dialog's."""
    # Only * is special, since replies are full of brackets.
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), said) is not None
