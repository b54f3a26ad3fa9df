"""A fake MTA that does what a test says, at any step.

    with FakeUpstream(At("rcpt", Reply("450 4.2.0 later"), nth=2), At("end", Close())) as mta:
        ...
    assert mta.messages[0].data == ...

Without behaviours it accepts everything. It runs in threads, so that both blocking and
asyncio tests can use it.
"""

import contextlib
import socket
import threading
import time
from typing import BinaryIO, Literal

from msgspec import Struct

from tests.kit.ports import LOOPBACK, wait_for

Step = Literal["connect", "ehlo", "mail", "rcpt", "data", "content", "end", "rset", "noop", "quit"]

KEYWORDS = ("PIPELINING", "SIZE 52428800", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "DSN")
USUAL = {
    "connect": "220 upstream.example ESMTP",
    "mail": "250 2.1.0 sender ok",
    "rcpt": "250 2.1.5 recipient ok",
    "data": "354 go on",
    "content": "",  # after the first octets of the message
    "end": "250 2.0.0 queued as FAKE",
    "rset": "250 2.0.0 reset",
    "noop": "250 2.0.0 ok",
    "quit": "221 2.0.0 bye",
}


class Reply(Struct, frozen=True):
    """Answer this instead of the usual; `\\n` between the lines of one reply."""

    text: str


class Raw(Struct, frozen=True):
    """Answer exactly these bytes."""

    data: bytes


class Delay(Struct, frozen=True):
    """Wait that many seconds before the next action."""

    seconds: float


class Drip(Struct, frozen=True):
    """Answer as usual, byte by byte with a pause between them."""

    pause: float = 0.01


class Close(Struct, frozen=True):
    """Close the connection; `reset` sends a TCP RST."""

    reset: bool = False


class Hold(Struct, frozen=True):
    """Stay silent until the test calls `FakeUpstream.release()`."""


Action = Reply | Raw | Delay | Drip | Close | Hold


class At:
    """What to do at a step instead of the usual reply.

    `nth` is the only occurrence it is for, counted from 1 over all connections; without
    it, every one. `to` is the only recipient it is for, at `rcpt`, `data` and `end`.
    Actions run in order; the usual reply follows unless one of them answered or closed. At
    step `data`, closing happens before the 354; at `end`, after the whole message has been
    read.
    """

    def __init__(
        self, step: Step, *actions: Action, nth: int | None = None, to: str | None = None
    ) -> None:
        self.step = step
        self.actions = actions
        self.nth = nth
        self.to = to


class Accepted(Struct, frozen=True):
    """A message that the fake upstream answered with 250."""

    sender: str
    recipients: tuple[str, ...]
    data: bytes  # dot-unstuffed
    parameters: tuple[str, ...] = ()  # parameters of MAIL


class _Session(Struct):
    number: int
    socket: socket.socket
    sender: str = ""
    parameters: tuple[str, ...] = ()
    recipients: list[str] = []
    mailing: bool = False  # MAIL was accepted, with neither end of data nor RSET since


class FakeUpstream:
    """`messages` accepted, `commands` as (connection number, line), `connections` so far."""

    def __init__(self, *behaviours: At, keywords: tuple[str, ...] = KEYWORDS) -> None:
        self.behaviours = list(behaviours)
        self.keywords = keywords
        self.messages: list[Accepted] = []
        self.commands: list[tuple[int, str]] = []
        self.connections = 0
        self._seen: dict[str, int] = {}
        self._lock = threading.Lock()
        self._released = threading.Event()
        self._holding = 0
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server((LOOPBACK, 0), backlog=1024)
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._accept, daemon=True)

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop listening and drop every connection, like a crashed MTA."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._released.set()
        self.drop_connections()

    def begin(self, *behaviours: At) -> None:
        """Forget earlier messages and behave like this from now on: for tests sharing a relay."""
        with self._lock:
            self.behaviours = list(behaviours)
            self.messages, self.commands = [], []
            self._seen.clear()
        self._released.clear()

    def drop_connections(self) -> None:
        """Close every open connection silently, as an MTA does with idle ones."""
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def release(self) -> None:
        """End every `Hold`, present and future."""
        self._released.set()

    def wait_held(self, timeout: float = 10.0) -> None:
        """Wait until a session is at a `Hold`."""
        wait_for(lambda: self._holding > 0, "the upstream to be held", timeout=timeout)

    def wait_messages(self, count: int, timeout: float = 10.0) -> list[Accepted]:
        wait_for(lambda: len(self.messages) >= count, f"{count} messages", timeout=timeout)
        return self.messages

    def __enter__(self) -> "FakeUpstream":
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self.connections += 1
                self._open.add(connection)
                session = _Session(self.connections, connection)
            threading.Thread(target=self._serve, args=(session,), daemon=True).start()

    def _serve(self, session: _Session) -> None:
        try:
            with contextlib.suppress(OSError, EOFError):
                self._converse(session)
        finally:
            with self._lock:
                self._open.discard(session.socket)
            session.socket.close()

    def _converse(self, session: _Session) -> None:
        self._answer(session, "connect")
        with session.socket.makefile("rb") as stream:
            while line := stream.readline():
                text = line.decode("utf-8", "surrogateescape").rstrip("\r\n")
                self.commands.append((session.number, text))
                verb, _, argument = text.partition(" ")
                match verb.upper():
                    case "EHLO" | "HELO" | "LHLO":
                        self._answer(session, "ehlo")
                    case "MAIL" if session.mailing:
                        session.socket.sendall(b"503 5.5.1 nested MAIL command\r\n")
                    case "MAIL":
                        session.sender, session.parameters = _path(argument)
                        session.recipients = []
                        session.mailing = self._answer(session, "mail").startswith(b"2")
                    case "RCPT":
                        path = _path(argument)[0]
                        if self._answer(session, "rcpt", to=(path,)).startswith(b"2"):
                            session.recipients.append(path)
                    case "DATA":
                        to = tuple(session.recipients)
                        if self._answer(session, "data", to=to).startswith(b"3"):
                            stream.peek(1)  # part of it has arrived
                            self._answer(session, "content", to=to)
                            self._take(session, _unstuffed(stream))
                    case "XCLIENT" if any(k.startswith("XCLIENT") for k in self.keywords):
                        session.socket.sendall(b"220 upstream.example ESMTP, again\r\n")
                    case "RSET":
                        if self._answer(session, "rset").startswith(b"2"):
                            session.mailing = False
                    case "NOOP":
                        self._answer(session, "noop")
                    case "QUIT":
                        self._answer(session, "quit")
                        return
                    case _:
                        session.socket.sendall(b"500 5.5.1 what?\r\n")

    def _take(self, session: _Session, data: bytes) -> None:
        message = Accepted(session.sender, tuple(session.recipients), data, session.parameters)
        session.mailing = False
        self._answer(session, "end", message, message.recipients)

    def _answer(
        self,
        session: _Session,
        step: Step,
        message: Accepted | None = None,
        to: tuple[str, ...] = (),
    ) -> bytes:
        """Do the actions for this step, then answer; return the answer."""
        with self._lock:
            self._seen[step] = nth = self._seen.get(step, 0) + 1
        answer = _lines(self._usual(step))
        pause = 0.0
        for action in self._actions(step, nth, to):
            match action:
                case Reply(text):
                    answer = _lines(text)
                case Raw(data):
                    answer = data
                case Delay(seconds):
                    time.sleep(seconds)
                case Drip(seconds):
                    pause = seconds
                case Hold():
                    self._holding += 1
                    self._released.wait(60)
                    self._holding -= 1
                case Close(reset):
                    if reset:
                        linger = b"\x01\0\0\0\0\0\0\0"
                        session.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    raise EOFError
        if message is not None and answer.startswith(b"2"):
            self.messages.append(message)
        for piece in [answer] if not pause else [bytes([octet]) for octet in answer]:
            session.socket.sendall(piece)
            time.sleep(pause)
        return answer

    def _usual(self, step: Step) -> str:
        if step == "ehlo":
            return "\n".join(f"250 {line}" for line in ("upstream.example", *self.keywords))
        return USUAL[step]

    def _actions(self, step: Step, nth: int, to: tuple[str, ...]) -> tuple[Action, ...]:
        for behaviour in self.behaviours:
            at = behaviour.step == step and behaviour.nth in (None, nth)
            if at and (behaviour.to is None or behaviour.to in to):
                return behaviour.actions
        return ()


def _lines(text: str) -> bytes:
    """One reply of one or more lines, `-` after the code of all but the last."""
    lines = text.split("\n") if text else []
    marked = [f"{line[:3]}-{line[4:]}" for line in lines[:-1]] + lines[-1:]
    return "".join(f"{line}\r\n" for line in marked).encode()


def _path(argument: str) -> tuple[str, tuple[str, ...]]:
    """`FROM:<a@b> SIZE=1` is ("a@b", ("SIZE=1",))."""
    path, _, rest = argument.partition("<")[2].rpartition(">")
    return path, tuple(rest.split())


def _unstuffed(stream: BinaryIO) -> bytes:
    """Read to the final dot; raises EOFError if the client leaves before it."""
    pieces: list[bytes] = []
    while (line := stream.readline()) != b".\r\n":
        if not line:
            raise EOFError
        pieces.append(line[1:] if line.startswith(b".") else line)
    return b"".join(pieces)
