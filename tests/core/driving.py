"""How a transaction is driven, whatever it is made of.

`present.py` drives the code as it is. Another inside needs another `Driver` and nothing else:
the world (`world.py`) and the promises stay. What a transaction wants of the outside it asks
of the world, as effects, and the test answers them when and as it likes. Nothing here waits.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

Protocols = Literal["smtp", "lmtp", "milter", "policy"]

PEOPLE = ("ann@people.example", "bob@people.example", "cyd@people.example")
SENDER = "news@shop.example"
STREAMS = ("offers", "receipts")
"""Marketing with purpose `offers`, and transactional. Clients may use the first, or both."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What a relay or an adviser of an MTA is configured as."""

    intake: Protocols
    on_mixed: Literal["refuse", "split"] = "refuse"
    adds_links: bool = False  # `unsubscribe = "add"`: a message for each recipient
    refuses_at_data: bool = False
    returns: bool = False  # `verp`: the same, from a reverse path of the recipient's own
    standby: bool = False  # RCPT is answered from one that lacks the last change

    @property
    def relays(self) -> bool:
        """Whether mail goes through us; else an MTA has it, and asks."""
        return self.intake in ("smtp", "lmtp")

    @property
    def name(self) -> str:
        parts = [self.intake, self.on_mixed, "links" * self.adds_links, "verp" * self.returns]
        parts += ["late" * self.refuses_at_data, "standby" * self.standby]
        return "-".join(filter(None, parts))


@dataclass(frozen=True, slots=True)
class Answer:
    """What the client is told; 250 where an MTA is told to go on."""

    code: int
    text: str = ""


@dataclass(slots=True)
class Question:
    """Something that the client, or the MTA, waits to be answered: one answer for each of `about`.

    `answers` is None until then. A fault of the program is `error`.
    """

    about: tuple[str, ...]
    answers: Sequence[Answer] | None = None
    error: BaseException | None = None

    @property
    def due(self) -> bool:
        return self.answers is None and self.error is None


class Driven(Protocol):
    """One transaction. `rcpt` any number of times, then `data`, or `abort`; one at a time."""

    @property
    def id(self) -> str:
        """The id of its decisions on record."""
        ...

    def rcpt(self, *paths: str) -> Question:
        """The client names recipients, an MTA one; an answer each."""
        ...

    def data(self, content: bytes) -> Question:
        """The whole message, not dot-stuffed; an answer for each accepted recipient, in order.

        With plain SMTP they are one answer, repeated. Who an MTA mails upon the answer is told
        to `World.hand_over` at that moment.
        """
        ...

    def abort(self) -> None: ...


class Driver(Protocol):
    """Makes transactions, one after another, that ask the world they were made for."""

    def begin(self, reverse_path: str, streams: Sequence[str]) -> Driven:
        """A client that may use these streams, the first by default, says MAIL."""
        ...

    def settle(self) -> None:
        """Let everything go on that waits for no effect."""
        ...

    def held(self) -> int:
        """How many connections to the upstream are in use."""
        ...

    def close(self) -> None: ...


@dataclass(slots=True)
class Recorded:
    """One line of the journal: who may be mailed by it, and who may not."""

    id: str
    relayed: bool  # it is about to be put to the upstream, or left to the MTA
    allowed: frozenset[str] = field(default_factory=frozenset)
    refused: frozenset[str] = field(default_factory=frozenset)
    refuses_all: bool = False  # the message itself does not pass
    paths: tuple[str, ...] = ()  # as the client named them
    at_rcpt: bool = False
    notice: bool = False
