"""What happened, as frozen records for the sinks (audit, metrics, log), and the ids of decisions.

Every field that a metric may use as a label comes from a closed set. Ids are ULIDs, 26 characters
that sort by time and increase within a process.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import datetime
from itertools import chain
from typing import Any, Literal, get_args

from msgspec import Struct

from smtpproxy.mail.unsubscribe_token import ULID_ALPHABET
from smtpproxy.policy.model import Decision, Facts, MessageFeatures, Verdict

Stage = Literal["policy", "store", "dns", "sign", "upstream", "audit"]
Part = Literal["store", "audit", "upstream", "spool", "internal", "protocol", "sign", "dns"]
DnsOutcome = Literal["answered", "absent", "failed", "cached"]
TlsOutcome = Literal["ok", "failed", "timeout"]
AuthOutcome = Literal["ok", "failed", "malformed", "cancelled", "limited", "busy"]
ProxyOutcome = Literal["ok", "local", "untrusted", "malformed", "timeout"]
Work = Literal["streams", "feedback", "webhooks", "journals", "web"]
Limit = Literal[
    "message_rate",
    "recipient_rate",
    "credential_message_rate",
    "credential_recipient_rate",
    "recipients",
    "refused_recipients",
    "size",
    "header_size",
    "header_fields",
    "upstream_connections",
    "upstream_hold",
]
LIMITS: tuple[Limit, ...] = get_args(Limit)
STAGES: tuple[Stage, ...] = get_args(Stage)
DNS_OUTCOMES: tuple[DnsOutcome, ...] = get_args(DnsOutcome)


class Event(Struct, frozen=True):
    """Something that happened."""


class ConnectionOpened(Event, frozen=True):
    listener: str
    peer: str


class ConnectionClosed(Event, frozen=True):
    listener: str
    peer: str
    seconds: float
    cause: str  # one of ENDS, in sinks/rows.py


class ConnectionRefused(Event, frozen=True):
    """A connection over a limit was answered 421 and closed."""

    listener: str
    peer: str
    cause: Literal["limit", "address_limit", "files", "rate", "draining"]


class ProxyHeaderRead(Event, frozen=True):
    """A connection to a listener with the PROXY protocol; `peer` is the balancer."""

    listener: str
    peer: str
    outcome: ProxyOutcome
    detail: str = ""  # private, for the log


class TlsHandshake(Event, frozen=True):
    """A TLS handshake ended."""

    listener: str
    peer: str
    outcome: TlsOutcome
    detail: str = ""  # private, for the log


class Authentication(Event, frozen=True):
    """An AUTH exchange ended. It names no user, because a password may have been typed there."""

    listener: str
    peer: str
    mechanism: str
    outcome: AuthOutcome


class SenderRefused(Event, frozen=True):
    """A client gave a reverse path that its credential does not permit."""

    listener: str
    peer: str


class Limited(Event, frozen=True):
    """A limit was reached: a command or message was refused, and the session continues. With
    `upstream_hold` nothing is refused: the upstream connection no longer waits for the client."""

    listener: str
    peer: str
    limit: Limit


class FilesRead(Event, frozen=True):
    """Changed files were read again; with an `error` the old content stays in use."""

    listener: str  # empty: the users file, which all listeners share
    what: Literal["certificate", "users"]
    error: str | None = None


class Client(Struct, frozen=True, omit_defaults=True):
    """The client that talks to us, or to the MTA that asks us."""

    listener: str
    peer: str  # IP address, or "unix"
    helo: str
    login: str = ""  # the name it proved; personal, since it may be an address
    queue_id: str = ""  # the MTA's name for the message, if an MTA asks us

    @property
    def app(self) -> str:
        """The name of its application in reports."""
        return f"{self.listener}/{self.login or self.peer}"


class JudgedRecipient(Struct, frozen=True):
    """A recipient as the client gave it, with its verdict."""

    address: str  # as in the RCPT command, without brackets
    canonical: str
    verdict: Verdict


class Decided(Event, frozen=True):
    """A decision, before anything is done about it; the audit log commits this.

    `stage` is `rcpt` for recipients refused at RCPT, `data` for the whole message, `notice` for a
    notice of the relay about the message `notice_about`. A policy listener sees no messages, so
    there `rcpt` is for permitted recipients too. In observe mode the verdicts are what would have
    been done, and `observed` is set.
    """

    id: str
    at: datetime
    stage: Literal["rcpt", "data", "notice"]
    client: Client
    reverse_path: str
    decision: Decision
    recipients: tuple[JudgedRecipient, ...]
    facts: Facts
    features: MessageFeatures | None = None
    observed: bool = False
    undecided: bool = False  # observe mode let pass what could not be decided
    message_id: str | None = None
    subject: str | None = None
    header_from: str | None = None
    size: int = 0
    relayed: bool = False  # what is allowed is about to go to the upstream
    notice_about: str | None = None
    help_url: str = ""  # the base of the links in the refusals' replies
    permitted_before: tuple[str, ...] = ()
    """By recipient, the basis of an earlier decision with the same id that permitted them and that
    this one replaces. Empty: it replaces none."""


class Relayed(Event, frozen=True):
    """The upstream's answer to a message, which is also the client's."""

    id: str
    listener: str
    stream: str
    code: int
    reply: str
    size: int
    recipients: int
    each: tuple[str, ...] = ()  # by recipient of the decision; empty: one reply for all


class DnsAsked(Event, frozen=True):
    """A lookup ended; failed: there was no answer."""

    outcome: DnsOutcome


class TransactionEnded(Event, frozen=True):
    """A message got its final answer. `stages` are seconds spent, without the client's time."""

    listener: str
    seconds: float
    stages: Mapping[Stage, float]


class Failed(Event, frozen=True):
    """An internal failure: the client got 451. `part` names what failed.

    `recipients` and `messages` could not be decided because of it, and were deferred.
    """

    listener: str
    part: Part
    error: str  # private, for the log
    stream: str | None = None
    recipients: int = 0
    messages: int = 0


class WorkFailed(Event, frozen=True):
    """Work beside the mail failed; it is tried again."""

    work: Work


Emit = Callable[[Event], None]

EventHandlers = Mapping[type[Struct], Callable[[Any], None]]
"""A sink's handlers by type of event; it ignores other events."""


def emitter(*sinks: EventHandlers) -> Emit:
    """Return a function that passes each event to the sinks with a handler for its type."""
    handlers: dict[type[Struct], list[Callable[[Any], None]]] = defaultdict(list)
    for kind, handle in chain.from_iterable(sink.items() for sink in sinks):
        handlers[kind].append(handle)

    def emit(event: Event) -> None:
        for handle in handlers[type(event)]:
            handle(event)

    return emit


_ID = re.compile(f"[0-3][{ULID_ALPHABET}]{{25}}", re.IGNORECASE | re.ASCII)  # to the year 6429
_PAIRS = [a + b for a in ULID_ALPHABET for b in ULID_ALPHABET]
_AT_ONCE = 400  # random numbers: a system call for each id would cost more than the id


class UlidFactory:
    """Makes ids from a clock (milliseconds since 1970) and a source of random octets.

    After the 10 characters of the time come 16 hexadecimal digits, which are digits of a ULID too
    and take one call to format: a random number of 63 bits, incremented for each further id in the
    same millisecond.
    """

    def __init__(self, clock: Callable[[], int], random: Callable[[int], bytes]) -> None:
        self._clock = clock
        self._random = random
        self._numbers: list[int] = []  # from the system, for some hundred ids at a time
        self._last = -1
        self._number = 0
        self._seconds = -1  # of 1024 milliseconds: the value of the first eight characters
        self._beginning = ""

    def __call__(self) -> str:
        now = self._clock()
        if now > self._last:
            self._last = now
            self._number = (self._numbers or self._drawn()).pop() >> 1
        else:
            self._number += 1  # the same millisecond, or the clock was set back
        seconds = self._last >> 10
        if seconds != self._seconds:
            self._seconds, self._beginning = seconds, encoded(seconds, 8)
        return f"{self._beginning}{_PAIRS[self._last & 1023]}{self._number:016X}"

    def _drawn(self) -> list[int]:
        self._numbers = list(memoryview(self._random(8 * _AT_ONCE)).cast("Q"))
        return self._numbers


def encoded(number: int, length: int) -> str:
    """Return a number in the digits of ids; their number, `length`, is even."""
    return "".join([_PAIRS[number >> shift & 1023] for shift in range(5 * length - 10, -1, -10)])


ID_LEAST = 6
"""Characters of an id that are enough to search for it: its time to a quarter of an hour."""


def time_span(beginning: str) -> tuple[int, int]:
    """Return the first and last time of ids that begin so; see `time_of`. Raises ValueError."""
    first, last = beginning.ljust(26, "0"), beginning.ljust(26, "Z")
    if len(beginning) < ID_LEAST or _ID.fullmatch(first) is None:
        raise ValueError(_wrong(beginning))
    return time_of(first), time_of(last)


def time_of(id: str) -> int:
    """Return the time in an id, in milliseconds since 1970. Raises ValueError."""
    if _ID.fullmatch(id) is None:
        raise ValueError(_wrong(id))
    return _decoded(id[:10])


def _wrong(id: str) -> str:
    if "@" in id:
        return (
            f"{id!r} is an address, not a decision id: smtpproxy audit show --recipient ADDRESS"
            " lists the decisions about one, with their ids"
        )
    return (
        f"{id!r} is not a decision id: 26 letters and digits, as in id=01J9…,"
        f" or its first {ID_LEAST} or more"
    )


def successor(id: str) -> str:
    """Return the id that comes next after `id`."""
    return encoded(_decoded(id) + 1, 26)


def _decoded(digits: str) -> int:
    number = 0
    for character in digits.upper():
        number = number * 32 + ULID_ALPHABET.index(character)
    return number


def picked(record: object, *names: str) -> dict[str, Any]:
    """Return some fields of a record as a JSON object."""
    return {name: getattr(record, name) for name in names}
