"""The server side of SMTP, sans I/O: bytes in, typed events out (RFC 5321).

Feed `receive_data`, take `next_event` until it says NEED_DATA or BLOCKED, and answer
every command event, in order, with `answer`, which returns the bytes to send. Several
RCPT commands may be taken before the first is answered (RFC 2920), so that they can be
judged together; anything else waits until all earlier ones are answered.

Which command may come when stands in one table, `_ORDER`. Wrong commands, NOOP, VRFY
and HELP never reach the caller: they come out as `Answered` with the bytes to send.
"""

from collections import deque
from enum import Enum, auto

from msgspec import Struct

from smtpproxy.mail.reply import Reply
from smtpproxy.wire.commands import (
    COMMAND_LIMIT,
    CommandError,
    Data,
    Hello,
    Mail,
    Quit,
    Rcpt,
    Reset,
    check_characters,
    no_argument,
    parse_hello,
    parse_mail,
    parse_rcpt,
    unknown,
)
from smtpproxy.wire.content import BareNewline, BareNewlineError, ContentReader, bare_newline


class State(Enum):
    START = auto()  # no greeting from the client yet
    READY = auto()  # no transaction
    MAIL = auto()  # MAIL accepted
    CONTENT = auto()  # 354 sent
    CLOSED = auto()  # QUIT answered, or the client broke the framing


class Signal(Enum):
    NEED_DATA = auto()
    BLOCKED = auto()  # answer the events already given first


NEED_DATA = Signal.NEED_DATA
BLOCKED = Signal.BLOCKED


class ContentChunk(Struct, frozen=True):
    """A piece of the content, dot-stuffed as it came; whole lines are not promised."""

    data: bytes


class ContentProblem(Enum):
    """Why content was read but cannot be taken."""

    TOO_LARGE = auto()
    NUL = auto()


class EndOfContent(Struct, frozen=True):
    """CRLF.CRLF was read. `size` is in octets as received, without the terminator."""

    size: int
    problem: ContentProblem | None = None


class Answered(Struct, frozen=True):
    """A command that the engine answered by itself; send `data`."""

    data: bytes
    error: bool = False  # of the client; DATA pipelined behind refused recipients is none


class Broken(Struct, frozen=True):
    """The framing cannot be trusted any more: send `data` and close the connection."""

    data: bytes
    cause: str  # bare_newline, line_too_long, pipelining


Command = Hello | Mail | Rcpt | Data | Reset | Quit | EndOfContent
Event = Command | ContentChunk | Answered | Broken

_NOOP = Reply.of(250, "2.0.0", "OK").encode()
_HELP = Reply.of(
    214, "2.0.0", "EHLO HELO MAIL RCPT DATA RSET NOOP VRFY HELP QUIT", "see RFC 5321"
).encode()
_VRFY = Reply.of(252, "2.5.2", "cannot verify; send mail and it will be tried").encode()
_HELLO_FIRST = Reply.of(503, "5.5.1", "send EHLO first").encode()
_ORDER = {
    "MAIL": {
        State.START: _HELLO_FIRST,
        State.MAIL: Reply.of(503, "5.5.1", "a transaction is open; send RSET first").encode(),
    },
    "RCPT": {
        State.START: _HELLO_FIRST,
        State.READY: Reply.of(503, "5.5.1", "send MAIL first").encode(),
    },
    "DATA": {
        State.START: _HELLO_FIRST,
        State.READY: Reply.of(503, "5.5.1", "send MAIL and RCPT first").encode(),
    },
}
"""Refusals by verb and state; a pair that is absent is allowed."""

_TOO_LONG = Reply.of(500, "5.5.2", "command line too long; closing the connection").encode()
_NO_RECIPIENTS = Reply.of(554, "5.5.1", "no valid recipients").encode()
_OUT_OF_STEP = Reply.of(
    554, "5.5.0", "content was sent though DATA was refused; closing the connection"
).encode()


class ServerConnection:
    """One SMTP session as the server sees it."""

    def __init__(
        self,
        hostname: str,
        *,
        size_limit: int,
        bare_newline: BareNewline = "reject",
        max_recipients: int = 1000,
    ) -> None:
        self.hostname = hostname
        self.state = State.START
        self.extended = False
        self.smtputf8 = False
        self._size_limit = size_limit
        self._bare_newline = bare_newline
        self._max_recipients = max_recipients
        self._buffer = b""
        self._taken = 0  # octets of the buffer that were taken as commands
        self._pending: deque[Command] = deque()
        self._recipients = 0
        self._data_refused = False
        self._reader: ContentReader | None = None
        self._size = 0
        self._ended = False
        self._problem: ContentProblem | None = None

    @property
    def buffered(self) -> int:
        """Octets received and not yet taken as events."""
        return len(self._buffer) - self._taken

    @property
    def in_transaction(self) -> bool:
        return self.state in (State.MAIL, State.CONTENT)

    def receive_data(self, data: bytes) -> None:
        rest = self._buffer[self._taken :]
        self._buffer = rest + data if rest else data
        self._taken = 0

    def next_event(self) -> Event | Signal:
        """Return the next event, or why there is none."""
        if self.state is State.CONTENT:
            return BLOCKED if self._pending else self._next_content()
        if self.state is State.CLOSED:
            return NEED_DATA
        pending = self._pending
        if pending and not isinstance(pending[-1], Rcpt):
            return BLOCKED
        if self._data_refused:
            self._data_refused = False
            if self.buffered:
                return self._broken("pipelining", _OUT_OF_STEP)
        start = self._taken
        if start == len(self._buffer):
            return NEED_DATA
        end = self._buffer.find(b"\r\n", start)
        if end < 0 or end - start > COMMAND_LIMIT:
            return self._unended()
        line = self._buffer[start:end]
        if pending and line[:5].upper() != b"RCPT ":
            return BLOCKED
        try:
            event = self._command(line)
        except CommandError as error:
            event = Answered(error.reply.encode(), error=True)
        if pending and isinstance(event, (Answered, Broken)):
            return BLOCKED  # its turn comes when the recipients before it are answered
        self._taken = end + 2
        if isinstance(event, Answered):
            self._data_refused = line[:5].strip().upper() == b"DATA"
        elif isinstance(event, Broken):
            self.close()
        else:
            pending.append(event)
        return event

    def answer(self, reply: Reply) -> bytes:
        """Answer the oldest unanswered event; return the bytes to send."""
        command = self._pending.popleft()
        positive = reply.code < 400
        if isinstance(command, Rcpt):
            self._recipients += positive
        elif isinstance(command, Mail):
            if positive:
                self.state = State.MAIL
                self.smtputf8 = command.smtputf8
                self._recipients = 0
        elif isinstance(command, Data):
            self._data_refused = reply.code != 354
            if reply.code == 354:
                self.state = State.CONTENT
                self._buffer = self._buffer[self._taken :]
                self._taken = 0
                self._reader = ContentReader(self._bare_newline)
                self._size = 0
                self._problem = None
        elif isinstance(command, (EndOfContent, Reset)):
            if self.state is not State.START:
                self.state = State.READY
        elif isinstance(command, Hello):
            if positive:
                self.state = State.READY
                self.extended = command.extended
        else:
            self.state = State.CLOSED
        return reply.encode()

    def hello_reply(self, hello: Hello) -> Reply:
        """The reply to EHLO (with the extensions) or HELO."""
        greeting = f"{self.hostname} greets {_printable(hello.domain)}"
        if not hello.extended:
            return Reply(250, None, (greeting,))
        return Reply(
            250,
            None,
            (
                greeting,
                "PIPELINING",
                f"SIZE {self._size_limit}",
                "8BITMIME",
                "SMTPUTF8",
                "ENHANCEDSTATUSCODES",
            ),
        )

    def close(self) -> None:
        """Take no further input: whatever is buffered is not looked at."""
        self.state = State.CLOSED
        self._buffer = b""
        self._taken = 0
        self._pending.clear()

    def _unended(self) -> Event | Signal:
        """No whole line is there: ask for more, unless it is hopeless already."""
        head = self._buffer[self._taken : self._taken + COMMAND_LIMIT + 1]
        name = bare_newline(head.removesuffix(b"\r"))  # an LF may follow
        too_long = self.buffered > COMMAND_LIMIT + 1 or (
            len(head) > COMMAND_LIMIT and not head.endswith(b"\r")
        )
        if name is None and not too_long:
            return NEED_DATA
        if self._pending:
            return BLOCKED
        broken = _bare_newline(name) if name else Broken(_TOO_LONG, "line_too_long")
        self.close()
        return broken

    def _command(self, line: bytes) -> Command | Answered | Broken:
        text = line.decode("utf-8", "surrogateescape")
        verb, _, argument = text.partition(" ")
        if not (text.isascii() and text.isprintable()):
            name = bare_newline(line)
            if name is not None:
                return _bare_newline(name)
            check_characters(verb, text)
        verb = verb.upper()
        refusals = _ORDER.get(verb)
        if refusals is not None and self.state in refusals:
            return Answered(refusals[self.state], error=True)
        match verb:
            case "RCPT":
                if self._recipients + len(self._pending) >= self._max_recipients:
                    raise CommandError(452, "4.5.3", "too many recipients; send the rest later")
                return parse_rcpt(argument, extended=self.extended, smtputf8=self.smtputf8)
            case "MAIL":
                return parse_mail(argument, extended=self.extended, size_limit=self._size_limit)
            case "DATA":
                no_argument(verb, argument)
                return Data() if self._recipients else Answered(_NO_RECIPIENTS)
            case "EHLO" | "HELO":
                return parse_hello(argument, extended=verb == "EHLO")
            case "RSET":
                no_argument(verb, argument)
                return Reset()
            case "QUIT":
                no_argument(verb, argument)
                return Quit()
            case "NOOP":
                return Answered(_NOOP)
            case "VRFY":
                if not argument.strip():
                    raise CommandError(501, "5.5.4", "syntax: VRFY address")
                return Answered(_VRFY)
            case "HELP":
                return Answered(_HELP)
            case "EXPN" | "STARTTLS" | "AUTH" | "BDAT" | "TURN" | "ETRN":
                raise CommandError(502, "5.5.1", f"{verb} is not implemented here")
            case _:
                raise unknown()

    def _next_content(self) -> Event | Signal:
        if self._ended:
            self._ended = False
            end = EndOfContent(self._size, self._problem)
            self._pending.append(end)
            return end
        if not self._buffer or self._reader is None:
            return NEED_DATA
        data, self._buffer = self._buffer, b""
        try:
            chunk, self._ended = self._reader.feed(data)
        except BareNewlineError as error:
            self.close()
            return _bare_newline(error.name)
        if self._ended:
            self._buffer = self._reader.rest
            self._reader = None
        self._size += len(chunk)
        if self._size > self._size_limit:
            self._problem = ContentProblem.TOO_LARGE
        elif b"\0" in chunk:
            self._problem = self._problem or ContentProblem.NUL
        if self._problem is None and chunk:
            return ContentChunk(chunk)
        return self._next_content()

    def _broken(self, cause: str, reply: bytes) -> Broken:
        self.close()
        return Broken(reply, cause)


def _bare_newline(name: str) -> Broken:
    text = f"bare {name} received; lines must end with <CR><LF>; closing the connection"
    return Broken(Reply.of(521, "5.5.2", text).encode(), "bare_newline")


def _printable(text: str) -> str:
    return text.encode("ascii", "replace").decode()
