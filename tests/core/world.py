"""The world around a transaction: people who change their minds, a store, a journal, an upstream.

Everything asked of it is an `Effect` that stays outstanding until the test answers it. The
upstream is an SMTP server without sockets; each of its replies is such an effect. Mail is
checked the moment its end of data arrives; `violations` lists what is wrong.
"""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from tests.core.driving import PEOPLE, SENDER, Recorded

Result = Literal["ok", "later", "never", "lost"]
"""From the upstream `later` and `never` are 4xx and 5xx; elsewhere all but `ok` are failures."""

OWN = ("facts", "version", "copies", "record", "count", "release")
"""Kinds of effects without the upstream; `release` takes a count back."""

KEYWORDS = ("PIPELINING", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "DSN")


class Effect(Struct, eq=False):
    """Something asked and not yet answered."""

    kind: str
    about: tuple[str, ...]
    answer: Callable[[Result], None]


class Person(Struct):
    consents: bool = True
    scopes: set[str] = set()  # scopes of suppressions
    erased: bool = False
    wished_at: datetime | None = None  # when they asked for mail only once a week

    def copy(self) -> "Person":
        return replace(self, scopes=set(self.scopes))

    def forbids(self, stream: str) -> bool:
        """Whether mail on a stream is forbidden, written from design.md section 4 alone."""
        if stream == "receipts":
            return "all" in self.scopes
        return bool(self.scopes) or not self.consents


class Sent(Struct, eq=False):
    """A message whose end of data the upstream has; `code` is its answer, None if in doubt."""

    sender: str
    recipients: tuple[str, ...]
    content: str
    is_notice: bool = False
    code: int | None = None


class UnderWay(Struct):
    """The open transaction, as its client sees it."""

    id: str
    reverse_path: str
    stream: str | None = None  # known once the message names it
    aborted: bool = False
    sent: list[Sent] = []
    taken: set[str] = set()  # the upstream accepted their RCPT
    refusals: list[tuple[str, ...]] = []  # the people each 5xx was about
    refused: set[str] = set()  # people who get nothing because of one
    handed_over: set[str] = set()  # an MTA delivers to these


class Past(Struct):
    """People as they were before the latest change of mind."""

    people: dict[str, Person]
    now: datetime


class World:
    def __init__(self) -> None:
        self.now = datetime(2026, 11, 1, 12, tzinfo=UTC)
        self.people = {name: Person() for name in (*PEOPLE, SENDER)}
        self.past = Past({name: Person() for name in self.people}, self.now)
        self.journal: list[Recorded] = []
        self.outstanding: list[Effect] = []
        self.counted: dict[str, set[str]] = {}
        self.current: UnderWay | None = None
        self.violations: list[str] = []
        self.says = "so be it"  # the text of every upstream answer
        self.keywords: tuple[str, ...] = KEYWORDS  # offered by the upstream

    # effects

    def ask(self, kind: str, about: Iterable[str], answer: Callable[[Result], None]) -> Effect:
        effect = Effect(kind, tuple(about), answer)
        self.outstanding.append(effect)
        return effect

    def answer(self, effect: Effect, result: Result) -> None:
        self.outstanding.remove(effect)
        effect.answer(result)

    def waited_for(self) -> list[Effect]:
        """The effects an answer to the client may depend on: all but the reply to RSET."""
        return [effect for effect in self.outstanding if effect.kind != "rset"]

    # what happens

    def passes_time(self) -> None:
        """Let time pass before somebody changes their mind."""
        before = {name: person.copy() for name, person in self.people.items()}
        self.past = Past(before, self.now)
        self.now += timedelta(seconds=1)

    def mailed(self, sent: Sent) -> None:
        """The upstream has the end of data and may deliver from now on."""
        current = self.current
        if current is None or current.aborted:
            self.violations.append(f"mailed after the transaction was given up: {sent.recipients}")
            return
        current.sent.append(sent)
        sent.is_notice = sent.sender == "" != current.reverse_path
        if sent.is_notice:
            self._check_allowed(sent.recipients, "receipts")
        else:
            self._check_allowed(sent.recipients, current.stream)
            self._check_recorded(sent.recipients)

    def hand_over(self, recipients: Iterable[str]) -> None:
        """An MTA is told to deliver to these."""
        current = self.current
        assert current is not None
        current.handed_over |= set(recipients)
        self._check_allowed(tuple(recipients), current.stream)
        self._check_recorded(tuple(recipients))

    def _check_allowed(self, recipients: tuple[str, ...], stream: str | None) -> None:
        assert stream is not None
        for recipient in recipients:
            if self.people[recipient.lower()].forbids(stream):
                self.violations.append(f"{recipient} is mailed on {stream}, and forbids it now")

    def _check_recorded(self, recipients: tuple[str, ...]) -> None:
        assert self.current is not None
        lines = [one for one in self.journal if one.id == self.current.id and one.relayed]
        recorded = {address for one in lines for address in one.allowed}
        for recipient in recipients:
            if recipient.lower() not in recorded:
                self.violations.append(f"{recipient} is mailed without a record")


class Upstream:
    """The server side of one session with the upstream MTA.

    `reply` takes its octets to the client, `lost` ends the connection.
    """

    def __init__(
        self, world: World, reply: Callable[[bytes], None], lost: Callable[[], None]
    ) -> None:
        self._world = world
        self._reply = reply
        self._lost = lost
        self._buffer = b""
        self._commands: list[tuple[str, str]] = []  # kind and argument, not yet answered
        self._effect: Effect | None = None  # awaiting the reply to the first of them
        self._sender: str | None = None
        self._recipients: list[str] = []
        self._in_content = False
        self._reading: Effect | None = None
        self._sent: Sent | None = None
        self.closed = False

    def greet(self) -> None:
        self._reply(b"220 upstream.example ESMTP\r\n")

    def receive(self, data: bytes) -> None:
        if self.closed:
            return
        self._buffer += data
        while not self.closed and self._take():
            pass

    def reads_slowly(self, resume: Callable[[], None]) -> bool:
        """Whether content has begun but not ended; the rest then waits for an answer."""
        if self.closed or not self._in_content:
            return False

        def answer(result: Result) -> None:
            self._reading = None
            if result == "lost":
                self.drop()
            else:
                resume()

        self._reading = self._world.ask("read", [], answer)
        return True

    def drop(self) -> None:
        """The upstream drops the connection midway."""
        self.closed = True
        self._lost()

    def hang_up(self) -> None:
        """The client closed; what it asked needs no answer any more."""
        self.closed = True
        for effect in (self._effect, self._reading):
            if effect in self._world.outstanding:
                self._world.outstanding.remove(effect)

    def _take(self) -> bool:
        """Take one command, or the whole content, from the input."""
        if self._in_content:
            whole = b"\r\n" + self._buffer
            content, end, rest = whole.partition(b"\r\n.\r\n")
            if not end:
                return False
            self._buffer, self._in_content = rest, False
            text = content.decode("utf-8", "replace")
            self._sent = Sent(self._sender or "", tuple(self._recipients), text)
            self._world.mailed(self._sent)
            self._due("end", "")
            return True
        line, end, rest = self._buffer.partition(b"\r\n")
        if not end:
            return False
        self._buffer = rest
        verb, _, argument = line.decode().partition(" ")
        match verb.upper():
            case "EHLO":
                lines = ["upstream.example", *self._world.keywords]
                marked = [f"250-{each}\r\n" for each in lines[:-1]] + [f"250 {lines[-1]}\r\n"]
                self._reply("".join(marked).encode())
            case "MAIL" | "RCPT" | "DATA" | "RSET":
                self._due(verb.lower(), argument.partition("<")[2].partition(">")[0])
            case "QUIT":
                self.closed = True
            case _:
                raise AssertionError(f"the upstream is told {line!r}")
        return True

    def _due(self, kind: str, about: str) -> None:
        self._commands.append((kind, about))
        if self._effect is None:
            self._next()

    def _next(self) -> None:
        self._effect = None
        if self._commands and not self.closed:
            kind, about = self._commands[0]
            self._effect = self._world.ask(kind, [about] if about else [], self._answer)

    def _answer(self, result: Result) -> None:
        kind, about = self._commands.pop(0)
        if result == "lost":
            self.drop()
            return
        code = {"ok": 354 if kind == "data" else 250, "later": 451, "never": 550}[result]
        if kind == "mail" and self._sender is not None:
            code = 503
            self._world.violations.append("MAIL on a connection whose transaction was not ended")
        if code >= 500 and kind != "rset":
            self._refused(kind, about)
        if code < 400:
            self._done(kind, about)
        elif kind == "end":
            self._sender = None
        if kind == "end" and self._sent is not None:
            self._sent.code = code
        self._next()
        told = f"{code} {code // 100 if code != 354 else 2}.0.0 {self._world.says}\r\n"
        self._reply(told.encode())
        if self._in_content:
            self.receive(b"")

    def _refused(self, kind: str, about: str) -> None:
        """Note the people a 5xx was about, and who gets nothing because of it."""
        current = self._world.current
        if current is None:
            return
        who: tuple[str, ...] = (about,) if kind == "rcpt" else tuple(self._recipients)
        nobody_mailed = all(each.code != 250 or each.is_notice for each in current.sent)
        if kind == "mail":
            who = ()
            current.refused.update(path for verb, path in self._commands if verb == "rcpt")
        elif kind != "rcpt" and nobody_mailed and who != (current.reverse_path,):
            current.refused |= current.taken  # it may be about the message
        current.refused.update(who)
        current.refusals.append(who)

    def _done(self, kind: str, about: str) -> None:
        if kind == "mail":
            self._sender, self._recipients = about, []
        elif kind == "rcpt":
            self._recipients.append(about)
            if self._world.current is not None:
                self._world.current.taken.add(about)
        elif kind == "data":
            self._in_content = True
        else:  # the transaction ends either way
            self._sender = None
