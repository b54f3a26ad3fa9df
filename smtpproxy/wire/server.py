"""The server side of SMTP, sans I/O: bytes in, typed events out (RFC 5321).

Feed `receive_data`, take `next_event` until it says NEED_DATA or BLOCKED, and answer
every command event, in order, with `answer`, which returns the bytes to send. Several
RCPT commands may be taken before the first is answered (RFC 2920), so that they can be
judged together; anything else waits until all earlier ones are answered.

This file turns lines into events and answers into states. The rest is in tables: `verbs` has a row
for each verb and the states in which it may come, `session` a row for each line of the reply to
EHLO; its `Terms` says which of these a listener has. `verbs.ANSWERED` and `_ANSWERED` below say
what the answer to a command changes. A new verb needs a row in both, and a record in `commands`.
Wrong commands, NOOP, VRFY and HELP never reach the caller: they come out as `Answered`, with the
bytes to send.

`Terms.refuse_early`: a client that does not wait where it has to is sent away, since what it sends
before the answer to EHLO, DATA or AUTH may have been meant as something else. `early_input` checks
for input before the greeting.

STARTTLS: answer it with 220, send that, switch to TLS, then call `now_secure`; whatever came before
the switch is discarded. AUTH: after the answer 334 the next line is an `AuthResponse`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from smtpproxy.mail.reply import Reply
from smtpproxy.wire.commands import (
    AUTH_LIMIT,
    COMMAND_LIMIT,
    Auth,
    CommandError,
    Data,
    Hello,
    Rcpt,
    Reset,
    StartTls,
    parse_auth_response,
)
from smtpproxy.wire.content import (
    BareNewlineError,
    Chunk,
    ChunkedContent,
    ChunkReader,
    ContentReader,
    DataContent,
    HeaderCounter,
    IncomingContent,
    bare_newline,
)
from smtpproxy.wire.session import (
    BEHIND_STARTTLS,
    BLOCKED,
    EARLY,
    NEED_DATA,
    OUT_OF_STEP,
    TOO_LONG,
    Answered,
    Broken,
    Command,
    ContentBegins,
    ContentChunk,
    EndOfContent,
    Event,
    SessionState,
    Signal,
    State,
    Terms,
    bare_newline_received,
)
from smtpproxy.wire.verbs import ANSWERED, LMTP_COMMANDS, SMTP_COMMANDS, read_command

# An Enum's members are slow to look up.
_START, _READY, _CONTENT = State.START, State.READY, State.CONTENT
_EACH = Reply.of(353, None, "a reply for each recipient follows").encode()


class ServerConnection(SessionState):
    """One SMTP session as the server sees it."""

    # Thousands of sessions may be idle, so each holds little, and only once it needs it.
    __slots__ = (
        *("_after_chunk", "_pending", "_buffer", "_chunks", "_commands", "_data"),
        *("_taken", "idle"),
    )

    def __init__(self, terms: Terms) -> None:
        super().__init__(terms)
        self.idle = True  # no event is possible before more is received
        self._commands = LMTP_COMMANDS if terms.lmtp else SMTP_COMMANDS
        self._buffer = b""
        self._taken = 0  # octets of the buffer that were consumed as commands
        self._pending: Command | None = None  # to be answered; of RCPT, `unanswered` are
        self._data: DataContent | None = None
        self._chunks: ChunkedContent | None = None
        self._after_chunk = State.CHUNKS

    @property
    def buffered(self) -> int:
        """Octets received but not yet consumed as events."""
        return len(self._buffer) - self._taken

    @property
    def content_size(self) -> int:
        """Octets received so far of the current content."""
        content = self._data or self._chunks
        return content.size if content else 0

    def receive_data(self, data: bytes) -> None:
        if self.idle:  # all was consumed
            self.idle = False
            self._buffer = data
        else:
            self._buffer = self._buffer[self._taken :] + data
        self._taken = 0

    def next_event(self) -> Event | Signal:
        """Return the next event, or why there is none."""
        if self._pending is not None:
            return BLOCKED
        commands = self._commands[self.state]
        if not commands:
            return self._next_non_command()
        buffer, start = self._buffer, self._taken
        end = buffer.find(b"\r\n", start, start + COMMAND_LIMIT + 2)
        if end < 0:
            return self._unended(COMMAND_LIMIT)
        line = buffer[start:end]
        if self.unanswered and line[:5].upper() != b"RCPT ":
            return BLOCKED
        event: Any = read_command(self, commands, line)
        if self.unanswered and not isinstance(event, Rcpt):
            return BLOCKED  # until the recipients before it are answered
        self._taken = end = end + 2
        self.idle = end == len(buffer)
        handler = _HANDLERS.get(type(event))
        if handler is not None:
            return handler(self, event)
        if type(event) is Answered:  # isinstance takes ten times as long for a Struct
            verb = line[:5].strip().upper()
            if verb == b"RCPT":
                self.recipient_refused(event.data)
            elif verb == b"MAIL" and self.refusal and self.state is State.MAIL:
                self.state = State.READY  # it abandoned the transaction all the same
            elif verb == b"DATA" and not self.idle:
                self.state = State.OUT_OF_STEP
            return event
        asked: Command = event
        self._pending = asked
        return asked

    def early_input(self) -> Broken | None:
        """Call this before sending the greeting: returns why not to send it, or None."""
        return self._broken(EARLY) if self.terms.refuse_early and self._has_more else None

    @property
    def _has_more(self) -> bool:
        """Whether anything but QUIT is waiting. QUIT is unambiguous, and `openssl s_client` sends
        it early_input if its input is a file."""
        taken = self._taken
        return taken < len(self._buffer) and self._buffer[taken:].upper() != b"QUIT\r\n"

    def answer(self, reply: Reply) -> bytes:
        """Answer the oldest unanswered event; return the bytes to send."""
        code = reply.code
        if self.unanswered:
            self.unanswered -= 1
            if code >= 400:
                self.recipients -= 1
                self.refused += 1
                self.refused_in_all += 1
                self.recipient_refused(reply.wire)
        else:
            command, self._pending = self._pending, None
            _ANSWERED[type(command)](self, command, code)
        return reply.wire

    def answer_each(self, replies: Sequence[Reply], final: Reply | None = None) -> bytes:
        """Answer the end of content with a reply for each accepted recipient.

        That is LMTP (RFC 2033 4.2). With `final` it is PRDR: 353 comes first, and `final`
        last, for the message as a whole.
        """
        last = final or replies[-1]
        each = b"".join([reply.encode() for reply in (replies if final else replies[:-1])])
        return (_EACH if final else b"") + each + self.answer(last)

    def now_secure(self, *, authenticated: bool = False) -> None:
        super().now_secure(authenticated=authenticated)
        self._forget_input()

    def close(self) -> None:
        """Ignore all further input, including what is buffered."""
        self.state = State.CLOSED
        self._forget_input()
        self._pending = None
        self.unanswered = 0

    def _forget_input(self) -> None:
        self._buffer = b""
        self._taken = 0

    # what is read

    def _unended(self, limit: int) -> Event | Signal:
        """Without a whole line, ask for more, unless the line is already invalid."""
        head = self._buffer[self._taken : self._taken + limit + 1]
        name = bare_newline(head.removesuffix(b"\r"))  # an LF may follow
        if name is None and self.buffered <= limit + 1:
            return NEED_DATA
        if self.unanswered:
            return BLOCKED
        return self._broken(bare_newline_received(name) if name else TOO_LONG)

    def _next_non_command(self) -> Event | Signal:
        """The next event in a state in which the input is not a command."""
        if self.state is _CONTENT:
            return self._next_content()
        if self.state is State.CHUNK:
            return self._next_chunk()
        if self.state is State.OUT_OF_STEP:
            return self._broken(OUT_OF_STEP)
        return self._next_response() if self.state is State.AUTH else NEED_DATA

    def _next_response(self) -> Event | Signal:
        """The line after a 334."""
        start = self._taken
        end = self._buffer.find(b"\r\n", start, start + AUTH_LIMIT + 2)
        if end < 0:
            return self._unended(AUTH_LIMIT)
        self._taken = end + 2
        if self.terms.refuse_early and self._has_more:
            return self._broken(EARLY)
        try:
            response = parse_auth_response(self._buffer[start:end])
        except CommandError as error:
            self.state = State.READY
            return Answered(error.reply.encode(), error=True)
        self._pending = response
        return response

    def _next_content(self) -> Event | Signal:
        content, data = self._data, self._buffer[self._taken :]
        if content is None or not data:
            return NEED_DATA
        try:
            piece = content.take(data)
        except BareNewlineError as error:
            return self._broken(bare_newline_received(error.name))
        reader = content.reader
        self._buffer, self._taken = reader.rest, 0
        if reader.ended:
            self._data, self.idle = None, not reader.rest
            return self._end_of(content, piece)
        return ContentChunk(piece) if piece else NEED_DATA

    def _begin_chunk(self, chunk: Chunk) -> Event | Signal:
        """Begin to read the octets after BDAT, whether it is refused or not."""
        content = self._chunks
        first = content is None and chunk.refusal is None
        if content is None:
            terms = self.terms
            header, reader = HeaderCounter(terms.header_limits), ChunkReader(terms.bare_newline)
            content = ChunkedContent(terms.size_limit, header, reader=reader)
        self._chunks, self.idle = content, False
        content.begin(chunk)
        self._after_chunk = self.state if chunk.refusal is not None else State.CHUNKS
        self.state = State.CHUNK
        return ContentBegins() if first else self._next_chunk()

    def _next_chunk(self) -> Event | Signal:
        content = self._chunks
        assert content is not None
        if not content.complete:
            if not self.buffered:
                return NEED_DATA
            lines, self._taken = content.take(self._buffer, self._taken)
            return ContentChunk(lines) if lines else self._next_chunk()
        if content.last:
            self.state = State.CONTENT  # until the end is answered
            return self._end_of(content, content.end())
        self.state = self._after_chunk
        if self.state is not State.CHUNKS:
            self._chunks = None
        return content.answer()

    def _end_of(self, content: IncomingContent, last: bytes) -> EndOfContent:
        self._pending = end = EndOfContent(content.size, content.problem, last)
        return end

    # what follows from what was read

    def _broken(self, breach: Broken) -> Broken:
        self.close()
        return breach

    def _ask_recipient(self, command: Rcpt) -> Event:
        self.recipients += 1
        self.unanswered += 1
        return command

    def _ask_alone(self, command: Data | Hello | Auth) -> Event:
        """Ask about a command after which the client must wait for the answer (RFC 2920 3.1, 4954
        4)."""
        if not self.idle and self.terms.refuse_early and self._has_more:
            return self._broken(EARLY)
        self._pending = command
        return command

    def _ask_for_tls(self, command: StartTls) -> Event:
        if not self.idle:
            return self._broken(BEHIND_STARTTLS)  # CVE-2011-0411
        self._pending = command
        return command

    # where the answer to a command leads, by its code

    def _greeted(self, hello: Hello, code: int) -> None:
        if code < 400:
            self.state = State.READY
            self.extended = hello.extended
            self._chunks = None

    def _data_answered(self, data: Data, code: int) -> None:
        if code == 354:
            self.state = _CONTENT
            terms = self.terms
            header = HeaderCounter(terms.header_limits)
            reader = ContentReader(terms.bare_newline)
            self._data = DataContent(terms.size_limit, header, reader=reader)
        elif not self.idle:
            self.state = State.OUT_OF_STEP

    def _transaction_ended(self, command: EndOfContent | Reset, code: int) -> None:
        self._chunks = None
        if self.state is not _START:  # RSET before EHLO is not a greeting
            self.state = _READY

    def _tls_answered(self, command: StartTls, code: int) -> None:
        self._forget_input()


_HANDLERS: Mapping[type, Callable[[ServerConnection, Any], Event | Signal]] = {
    Broken: ServerConnection._broken,
    Chunk: ServerConnection._begin_chunk,
    Rcpt: ServerConnection._ask_recipient,
    Data: ServerConnection._ask_alone,
    Hello: ServerConnection._ask_alone,
    Auth: ServerConnection._ask_alone,
    StartTls: ServerConnection._ask_for_tls,
}
"""The commands that need more than asking the caller."""
_ANSWERED: Mapping[type, Callable[[ServerConnection, Any, int], None]] = {
    **ANSWERED,
    Hello: ServerConnection._greeted,
    Data: ServerConnection._data_answered,
    EndOfContent: ServerConnection._transaction_ended,
    Reset: ServerConnection._transaction_ended,
    StartTls: ServerConnection._tls_answered,
}
