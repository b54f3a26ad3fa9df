"""What a report says: its kind, whom it concerns, and what is to be done about it."""

from collections.abc import Callable
from enum import StrEnum

from msgspec import Struct


class Kind(StrEnum):
    """The kind of mail that arrived."""

    DSN = "dsn"  # a delivery status notification, in any form
    COMPLAINT = "complaint"
    UNSUBSCRIBE = "unsubscribe"
    AUTO_REPLY = "auto_reply"
    OTHER = "other"


class Class(StrEnum):
    """What an event is about; for a DSN, why the mail did not arrive, the most serious first."""

    DEAD = "dead"  # nobody has or will have this address
    FULL = "full"
    BLOCKED = "blocked"  # a policy against the sender or the message
    SPAM = "spam"  # treated as spam
    TRANSIENT = "transient"
    UNKNOWN = "unknown"
    COMPLAINT = "complaint"
    UNSUBSCRIBE = "unsubscribe"


class Action(StrEnum):
    SUPPRESS = "suppress"
    COUNT = "count"


class Event(Struct, frozen=True):
    """What happened to the mail of one person.

    `address` is canonical, None if the report names nobody. `scope` is that of the suppression,
    None if there is none. `why` is for people, with the report's own words.
    """

    address: str | None
    event_class: Class
    action: Action
    scope: str | None
    why: str


class Clues(Struct, frozen=True):
    """The texts of a report that may contain our tokens, as written and untrusted."""

    recipients: tuple[str, ...] = ()  # of the report
    message_ids: tuple[str, ...] = ()  # of the message that it is about
    unsubscribe_uris: tuple[str, ...] = ()
    feedback_ids: tuple[str, ...] = ()
    reverse_paths: tuple[str, ...] = ()


class Sent(Struct, frozen=True):
    """What a valid token says: whom a message went to, on which stream of which brand."""

    recipient: str  # canonical
    stream: str | None = None
    brand: str | None = None
    decision_id: str | None = None
    scope: str | None = None  # of an unsubscribe token


TokenReader = Callable[[Clues], Sent | None]
"""Reads our own tokens: returns what the first valid one says; None if there is none."""


class FeedbackReport(Struct, frozen=True):
    """A report as read. `why` says what made it this kind; `sent` is from a valid token."""

    kind: Kind
    why: str
    events: tuple[Event, ...] = ()
    sent: Sent | None = None
