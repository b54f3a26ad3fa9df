"""Feedback by mail as it is recorded, and the messages that relays ask each other about."""

from datetime import datetime, timedelta
from typing import NamedTuple

from msgspec import Struct

from smtpproxy.events import Client

_LASTING = timedelta(days=3 * 366)
UNKNOWN = "unknown"
"""The stream of feedback that is about none of ours."""


class HeardEvent(Struct, frozen=True):
    """One event of feedback, identified by `key`.

    `lasting`: it is kept as long as consents commonly last, not only as long as reports.
    """

    key: bytes
    kind: str  # of `feedback_total`
    stream: str
    lasting: bool = False

    def dated(self, at: datetime) -> datetime:
        """Return the time to record it under: a lasting event is dated later, so that it stays."""
        return at + _LASTING if self.lasting else at


class ReadReport(Struct, frozen=True):
    """A report that was read. `id` is the name of its file in the maildir."""

    id: str
    at: datetime  # when it came
    kind: str
    why: str
    kept: bool = False  # it could not be understood: a person has to look at it
    people: tuple[str, ...] = ()  # whom it concerns, canonical or key texts
    events: tuple[HeardEvent, ...] = ()
    relay: str = ""  # the host that has the file, when read; empty: the only one, or unknown
    hand_on: bytes = b""  # the key of a bounce to forward; of several with the same, one is
    decision: str = ""  # that the bounce is about


class HandingOn(Struct, frozen=True):
    """A bounce that is due to be forwarded."""

    key: bytes
    report: str
    decision: str
    since: datetime
    tries: int


class Waiting(NamedTuple):
    """How many reports are waiting."""

    kept: int  # for a person
    hand_on: int  # to be forwarded
    elsewhere: int  # for the record of a message from another relay


ANSWERED_FOR = timedelta(hours=1)
"""How long an answer is kept at most; normally the asking relay removes it after use."""
ASKED_FOR = timedelta(days=6)
"""How long a question is kept: a day longer than anybody waits."""


class SentMessage(Struct, frozen=True):
    """A message as recorded in a journal, without the addresses of people erased since."""

    client: Client
    reverse_path: str  # that the client gave
    recipients: tuple[str, ...]  # canonical
