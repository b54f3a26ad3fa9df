"""Feed the server engine in one piece, octet by octet, or cut anywhere."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from smtpproxy.mail.reply import Reply
from smtpproxy.wire.commands import Data, Hello, Quit, Rcpt
from smtpproxy.wire.server import ServerConnection
from smtpproxy.wire.session import (
    NEED_DATA,
    Answered,
    Broken,
    Command,
    ContentBegins,
    ContentChunk,
    EndOfContent,
    Event,
    Signal,
    Terms,
)
from tests.kit.soak import times

HELLO = b"EHLO client.example\r\n"
SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=8)
"""Lengths of pieces, used in turn."""

quick = settings(
    deadline=None, max_examples=times(25, 3_000), suppress_health_check=[HealthCheck.too_slow]
)
"""Small examples, not timed."""

Answer = Callable[[Command], Reply]


def cut(data: bytes, sizes: Sequence[int] = ()) -> Iterator[bytes]:
    """Yield `data` in pieces of these sizes, repeated; without sizes, whole."""
    position = 0
    for size in itertools.cycle(sizes or [len(data) or 1]):
        yield data[position : position + size]
        position += size
        if position >= len(data):
            return


def accept(command: Command) -> Reply:
    """Accept everything; EHLO and HELO get the engine's own answer."""
    match command:
        case Data():
            return Reply.of(354, None, "go on")
        case Quit():
            return Reply.of(221, "2.0.0", "bye")
        case _:
            return Reply.of(250, "2.0.0", type(command).__name__)


@dataclass
class Talk:
    """The outcome of a session, which must not depend on how its input was cut."""

    replies: bytes = b""
    commands: list[Command] = field(default_factory=list)
    contents: list[bytes] = field(default_factory=list)  # complete messages without a problem
    cause: str | None = None  # why the engine ended it
    errors: int = 0

    @property
    def lines(self) -> list[str]:
        """All reply lines except those of the greeting."""
        return self.replies.decode().split("\r\n")[:-1]

    @property
    def codes(self) -> list[str]:
        """The code and enhanced code (or next word) in the last line of every reply."""
        last = [line for line in self.lines if line[3] == " "]
        return [" ".join(line.split(" ")[:2]) for line in last]


def terms(**options: Any) -> Terms:
    return Terms(**{"hostname": "relay.example", "size_limit": 1000, **options})


class Server:
    """An engine whose events are answered.

    `groups` has the number of RCPTs in each group, `handed_on` the octets of content.
    """

    def __init__(self, answer: Answer = accept, **options: Any) -> None:
        self.engine = ServerConnection(terms(**options))
        self.talk = Talk()
        self.groups: list[int] = []
        self.handed_on = 0
        self._answer = answer
        self._content = b""
        self._unanswered: list[Command] = []

    def feed(self, data: bytes) -> bytes:
        """Return the replies to `data`."""
        said = len(self.talk.replies)
        self.engine.receive_data(data)
        while (event := self._next()) is not NEED_DATA or self._unanswered:
            match event:
                case ContentBegins():
                    self._content = b""
                case ContentChunk(chunk):
                    self._content += chunk
                    self.handed_on += len(chunk)
                case Answered(reply, error):
                    self.talk.replies += reply
                    self.talk.errors += error
                case Broken(reply, cause):
                    self.talk.replies += reply
                    self.talk.cause = cause
                case Signal():
                    self._answer_all()
                case _:
                    self._unanswered.append(event)
        return self.talk.replies[said:]

    def _next(self) -> Event | Signal:
        idle = self.engine.idle
        event = self.engine.next_event()
        assert not idle or isinstance(event, Signal), "an event though the engine was idle"
        return event

    def _answer_all(self) -> None:
        assert self._unanswered, "blocked though all is answered"
        if isinstance(self._unanswered[0], Rcpt):
            self.groups.append(len(self._unanswered))
        for command in self._unanswered:
            reply = self._answer(command)
            if isinstance(command, Hello):
                reply = self.engine.hello_reply(command)
            if isinstance(command, EndOfContent):
                self._content += command.data
                self.handed_on += len(command.data)
                command = replace(command, data=b"")  # how much comes last depends on the cuts
                if command.problem is None:
                    self.talk.contents.append(self._content)
                self._content = b""
            self.talk.replies += self.engine.answer(reply)
            self.talk.commands.append(command)
        self._unanswered.clear()


def talk(data: bytes, sizes: Sequence[int] = (), answer: Answer = accept, **options: Any) -> Talk:
    """Run a whole session."""
    server = Server(answer, **options)
    for piece in cut(data, sizes):
        server.feed(piece)
    return server.talk


def settled(data: bytes, answer: Answer = accept, **options: Any) -> Talk:
    """Run a session whole, octet by octet and in odd pieces; all outcomes must be equal."""
    whole = talk(data, (), answer, **options)
    for sizes in ((1,), (2,), (3, 1), (7, 5)):
        assert talk(data, sizes, answer, **options) == whole, f"differs in pieces of {sizes}"
    return whole


def ended(talked: Talk) -> list[EndOfContent]:
    return [command for command in talked.commands if isinstance(command, EndOfContent)]
