"""How a test drives a transaction, whatever the transaction is made of.

`present.py` drives the present code. A different implementation needs only another `Driver`:
the world (`world.py`) and the promises stay the same. Whatever a transaction needs from outside,
it asks the world for, as effects, and the test answers them when and how it likes. Nothing here
waits.
"""

from collections.abc import Sequence
from typing import Literal, Protocol

from msgspec import Struct, field

Protocols = Literal["smtp", "lmtp", "milter", "policy"]

PEOPLE = ("ann@people.example", "bob@people.example", "cyd@people.example")
SENDER = "news@shop.example"
STREAMS = ("offers", "receipts")
"""Marketing with purpose `offers`, and transactional; clients may use the first or both."""


class Setting(Struct, frozen=True):
    """How the relay, or the adviser of an MTA, is configured."""

    intake: Protocols
    on_mixed: Literal["refuse", "split"] = "refuse"
    adds_links: bool = False  # `unsubscribe = "add"`: one message per recipient
    refuses_at_data: bool = False
    returns: bool = False  # `verp`: the same, each from its own reverse path
    standby: bool = False  # RCPT is answered from a standby that lacks the last change

    @property
    def relays(self) -> bool:
        """Whether mail passes through us; otherwise an MTA holds it and asks."""
        return self.intake in ("smtp", "lmtp")

    @property
    def name(self) -> str:
        parts = [self.intake, self.on_mixed, "links" * self.adds_links, "verp" * self.returns]
        parts += ["late" * self.refuses_at_data, "standby" * self.standby]
        return "-".join(filter(None, parts))


class Answer(Struct, frozen=True):
    """The reply to the client; 250 where an MTA is told to continue."""

    code: int
    text: str = ""


class Question(Struct):
    """Something the client or the MTA awaits an answer to: one answer for each of `about`.

    `answers` is None until answered; `error` is a fault of the program.
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
        """The client names recipients (an MTA just one); one answer for each."""
        ...

    def data(self, content: bytes) -> Question:
        """The whole message, not dot-stuffed; an answer for each accepted recipient, in order.

        With plain SMTP they are one answer, repeated. `World.hand_over` is told at that moment
        whom an MTA mails.
        """
        ...

    def abort(self) -> None: ...


class Driver(Protocol):
    """Makes transactions, one after another, for the world it was made for."""

    def begin(self, reverse_path: str, streams: Sequence[str]) -> Driven:
        """MAIL from a client that may use these streams, the first by default."""
        ...

    def settle(self) -> None:
        """Let everything that awaits no effect go on."""
        ...

    def held(self) -> int:
        """The number of upstream connections in use."""
        ...

    def close(self) -> None: ...


class Recorded(Struct):
    """One line of the journal: who may be mailed, and who may not."""

    id: str
    relayed: bool  # it goes to the upstream, or is left to the MTA
    allowed: frozenset[str] = field(default_factory=frozenset)
    refused: frozenset[str] = field(default_factory=frozenset)
    refuses_all: bool = False  # the message itself is refused
    paths: tuple[str, ...] = ()  # as the client named them
    at_rcpt: bool = False
    notice: bool = False
