"""What a report says: of which kind it is, whom it concerns, and what is to be done about it."""

from enum import StrEnum
from typing import Protocol

from msgspec import Struct


class Kind(StrEnum):
    """What arrived."""

    DSN = "dsn"  # a delivery status notification, in whatever form
    COMPLAINT = "complaint"
    UNSUBSCRIBE = "unsubscribe"
    AUTO_REPLY = "auto_reply"
    OTHER = "other"


class Class(StrEnum):
    """What an event is about: for a DSN, why the mail did not arrive, the gravest first."""

    DEAD = "dead"  # nobody has this address, or will
    FULL = "full"
    BLOCKED = "blocked"  # a policy against the sender or the message
    SPAM = "spam"  # taken for spam
    TRANSIENT = "transient"
    UNKNOWN = "unknown"
    COMPLAINT = "complaint"
    UNSUBSCRIBE = "unsubscribe"


class Action(StrEnum):
    SUPPRESS = "suppress"
    COUNT = "count"
    NONE = "none"


class Event(Struct, frozen=True):
    """What happened to the mail of one person.

    `address` is canonical, None where the report names nobody. `scope` is that of the suppression,
    None where there is none. `why` is for people, and holds what the report said.
    """

    address: str | None
    event_class: Class
    action: Action
    scope: str | None
    why: str


class Clues(Struct, frozen=True):
    """Where a report carries tokens of ours, as it wrote them; nothing here is to be trusted."""

    recipients: tuple[str, ...] = ()  # that the report came to: envelope first, then its fields
    message_ids: tuple[str, ...] = ()  # of the message that it is about
    unsubscribe_uris: tuple[str, ...] = ()
    feedback_ids: tuple[str, ...] = ()
    reverse_paths: tuple[str, ...] = ()


class Sent(Struct, frozen=True):
    """What a valid token says: to whom a message went, on which stream of which brand."""

    recipient: str  # canonical
    stream: str | None = None
    brand: str | None = None
    decision_id: str | None = None
    scope: str | None = None  # of an unsubscribe token


class TokenReader(Protocol):
    """Reads our own tokens."""

    def read(self, clues: Clues) -> Sent | None:
        """Return what the first valid token says, None where none is."""


class FeedbackReport(Struct, frozen=True):
    """What was read. `why` says what made it this kind; `sent` is of a valid token."""

    kind: Kind
    why: str
    events: tuple[Event, ...] = ()
    sent: Sent | None = None
