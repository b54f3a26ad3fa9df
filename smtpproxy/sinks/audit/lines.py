"""What the lines of a journal contain, and how decisions are written and read.

The entry of a line names nobody: time, stream, verdicts, sizes. Possible personal data
(addresses, facts, subject, links) is in parts that can be erased one by one: one part for a
decision about one recipient, else one for the message and one for each recipient. A field
added to `Decided` must be added here.

Defaults are omitted, so the default of a field in these lines never changes.
"""

import os
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, cast

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from smtpproxy.events import Client, Decided, JudgedRecipient, Relayed
from smtpproxy.policy.model import (
    Action,
    Basis,
    Decision,
    MessageFeatures,
    Reason,
    RecipientFacts,
    Stream,
    Verdict,
)
from smtpproxy.sinks.audit.chain import UNREADABLE, Head, NotALine

FORMAT = 1
"""In the first line of each file."""

ERASED = "erased:"
"""The start of what replaces an erased address; an address has an @."""

CLOCK_TOLERANCE = timedelta(minutes=1)
"""How far a time may go back from line to line. Going back further is noted in the journal: the
clock was set back, or a decision waited that long for the upstream.
"""

_SALT = 32  # hexadecimal digits: nobody can guess a part from an address list
_SALTS = 1024

Entry = tuple[bytes, Sequence[bytes]]
"""The entry of a line and its personal parts, for `Chain.seal`."""


class OpenVerdict(Struct, frozen=True, omit_defaults=True, gc=False):
    """A verdict without its detail, which may quote facts about a person."""

    action: Action
    reason: Reason = Reason.NONE
    basis: Basis | None = None
    rule: str = ""


class DecisionEntry(
    Struct, frozen=True, omit_defaults=True, gc=False, tag="decision", tag_field="kind"
):
    """The part of a decision that names nobody."""

    id: str
    at: datetime
    stage: Literal["rcpt", "data", "notice"]
    client: Client
    stream: Stream
    rulebook: str
    message: OpenVerdict | None = None
    recipients: tuple[OpenVerdict, ...] = ()
    observed: bool = False
    undecided: bool = False
    size: int = 0
    relayed: bool = False
    notice_about: str | None = None
    help_url: str = ""
    permitted_before: tuple[str, ...] = ()


class Answer(Struct, frozen=True, omit_defaults=True, gc=False):
    """The upstream's answer to the message with the id `of`."""

    of: str
    at: datetime
    code: int
    reply: str
    each: tuple[str, ...] = ()  # by recipient, if each gets a message of their own; "": not mailed


class AnswersEntry(Struct, frozen=True, tag="answers", tag_field="kind"):
    """Nothing was decided: the line only carries answers."""


class PersonalAnswerEntry(Struct, frozen=True, tag="personal_answer", tag_field="kind"):
    """An answer whose reply names an address, and so is a personal part."""

    of: str
    at: datetime
    code: int


class After(Struct, frozen=True):
    """The position of the last line of a slot."""

    file: str
    n: int
    hash: str


class BeginEntry(Struct, frozen=True, omit_defaults=True, tag="begin", tag_field="kind"):
    """The first line of each file.

    `after` is None at the very beginning; `torn` are octets of incomplete lines at the ends
    of earlier files, by file name; `anchor` is the newest anchor at that time;
    `set_back_from` is the newest recorded time, if the clock was set back since.
    """

    file: str
    at: datetime
    after: After | None
    torn: dict[str, int]
    anchor: Head | None
    format: int
    set_back_from: datetime | None = None


class AnchorEntry(Struct, frozen=True, tag="anchor", tag_field="kind"):
    """An anchor was taken; it is in anchors.ndjson with that number and hash."""

    anchor: Head


class ClockEntry(Struct, frozen=True, tag="clock", tag_field="kind"):
    """The next line is dated `at`, though there are lines dated `before`."""

    at: datetime
    before: datetime


class Personal(Struct, frozen=True, omit_defaults=True, gc=False):
    """A part that can be erased.

    A message's part has `reverse_path`, a recipient's `canonical`, and the only part of a
    decision about one recipient both. An answer's part has only `reply` and `each`.
    """

    salt: str
    reverse_path: str | None = None
    message_id: str | None = None
    subject: str | None = None
    header_from: str | None = None
    features: MessageFeatures | None = None
    message_detail: str | None = None
    address: str | None = None
    canonical: str | None = None
    detail: str | None = None
    facts: RecipientFacts | None = None
    reply: str | None = None
    login: str | None = None
    each: tuple[str, ...] = ()  # of an answer: see `Answer`


class Line(Struct, frozen=True):
    """A line as read. `answers` are to messages of earlier lines."""

    hash: str
    n: int
    entry: (
        DecisionEntry | AnswersEntry | PersonalAnswerEntry | BeginEntry | AnchorEntry | ClockEntry
    )
    personal: tuple[Personal | str, ...]
    answers: tuple[Answer, ...] = ()


_encode = msgspec.json.Encoder().encode
_decoder: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)


def read_line(raw: bytes) -> Line:
    """Read a line, ignoring its hash. Raises NotALine if it is not one, or is torn."""
    try:
        return _decoder.decode(raw)
    except UNREADABLE as error:
        raise NotALine(f"it cannot be read: {error}") from None


def plain(entry: BeginEntry | AnchorEntry | AnswersEntry | ClockEntry) -> Entry:
    """Return an entry that concerns nobody."""
    return _encode(entry), ()


def answers_member(answers: Sequence[bytes]) -> bytes:
    """Return the member before a line's entry that carries answers to earlier messages."""
    return b'"answers":[%b],' % b",".join(answers)


class LineMaker:
    """Makes entries and their parts. Used for each message, so written for speed."""

    def __init__(self) -> None:
        self._salts: list[str] = []
        self._streams: dict[int, tuple[Stream, Stream]] = {}

    def decision(self, decided: Decided) -> Entry:
        client, decision, recipients = decided.client, decided.decision, decided.recipients
        message: Any = decision.message  # a verdict without detail reads as an OpenVerdict
        verdicts: tuple[Any, ...]
        if len(recipients) == 1:  # as nearly always
            (recipient,) = recipients
            verdict, canonical = recipient.verdict, recipient.canonical
            verdicts = (verdict if verdict.detail is None else _open(verdict),)
            part = Personal(
                self._salts.pop() if self._salts else self._salt(),
                decided.reverse_path,
                decided.message_id,
                decided.subject,
                decided.header_from,
                decided.features,
                None if message is None else message.detail,
                recipient.address,
                canonical,
                verdict.detail,
                decided.facts.get(canonical),
                None,
                client.login or None,
            )
            personal = [_encode(part)]
        else:
            verdicts = tuple([_open(recipient.verdict) for recipient in recipients])
            personal = [self._message(decided), *[self._recipient(decided, r) for r in recipients]]
        entry = DecisionEntry(
            decided.id,
            decided.at,
            decided.stage,
            client if not client.login else replace(client, login=""),
            (self._streams.get(id(decision.stream)) or self._cached(decision.stream))[1],
            decision.rulebook,
            message if message is None or message.detail is None else _open(message),
            verdicts,
            decided.observed,
            decided.undecided,
            decided.size,
            decided.relayed,
            decided.notice_about,
            decided.help_url,
            decided.permitted_before,
        )
        return _encode(entry), personal

    def answer(self, relayed: Relayed, at: datetime) -> bytes:
        """Return an answer for `answers_member`; its reply must not name an address."""
        return _encode(Answer(relayed.id, at, relayed.code, relayed.reply, relayed.each))

    def personal_answer(self, relayed: Relayed, at: datetime) -> Entry:
        part = _encode(Personal(self._salt(), reply=relayed.reply, each=relayed.each))
        return _encode(PersonalAnswerEntry(relayed.id, at, relayed.code)), (part,)

    def _message(self, decided: Decided) -> bytes:
        message = decided.decision.message
        return _encode(
            Personal(
                self._salt(),
                reverse_path=decided.reverse_path,
                message_id=decided.message_id,
                subject=decided.subject,
                header_from=decided.header_from,
                features=decided.features,
                message_detail=None if message is None else message.detail,
                login=decided.client.login or None,
            )
        )

    def _recipient(self, decided: Decided, recipient: JudgedRecipient) -> bytes:
        return _encode(
            Personal(
                self._salt(),
                address=recipient.address,
                canonical=recipient.canonical,
                detail=recipient.verdict.detail,
                facts=decided.facts.get(recipient.canonical),
            )
        )

    def _salt(self) -> str:
        if not self._salts:
            octets = os.urandom(_SALT // 2 * _SALTS).hex()
            self._salts = [octets[i : i + _SALT] for i in range(0, len(octets), _SALT)]
        return self._salts.pop()

    def _cached(self, stream: Stream) -> tuple[Stream, Stream]:
        """Encode a stream and cache it: streams are settings, few, and always the same objects."""
        if len(self._streams) > 1000:
            self._streams.clear()
        known = self._streams[id(stream)] = stream, cast(Stream, Raw(_encode(stream)))
        return known


def _open(verdict: Verdict) -> OpenVerdict:
    return OpenVerdict(verdict.action, verdict.reason, verdict.basis, verdict.rule)


def decided(line: Line, entry: DecisionEntry) -> Decided:
    """Return the decision of a line, without erased parts; an erased address reads `erased:…`.

    Raises NotALine for a line that no journal wrote.
    """
    parts, count = line.personal, len(entry.recipients)
    if len(parts) != max(count, 1) + (count > 1):
        raise NotALine("its parts do not match its recipients")
    first, each = parts[0], parts if count == 1 else parts[1:]
    message = Personal("", _erased(first)) if isinstance(first, str) else first
    pairs = zip(entry.recipients, each, strict=True)
    recipients = tuple([_closed_recipient(verdict, part) for verdict, part in pairs])
    verdict = None if entry.message is None else _closed(entry.message, message.message_detail)
    verdicts = tuple([recipient.verdict for recipient in recipients])
    return Decided(
        id=entry.id,
        at=entry.at,
        stage=entry.stage,
        client=replace(entry.client, login=message.login) if message.login else entry.client,
        reverse_path=message.reverse_path or "",
        decision=Decision(entry.stream, entry.rulebook, verdicts, verdict),
        recipients=recipients,
        facts={
            part.canonical: part.facts
            for part in each
            if not isinstance(part, str) and part.canonical and part.facts is not None
        },
        features=message.features,
        observed=entry.observed,
        undecided=entry.undecided,
        message_id=message.message_id,
        subject=message.subject,
        header_from=message.header_from,
        size=entry.size,
        relayed=entry.relayed,
        notice_about=entry.notice_about,
        help_url=entry.help_url,
        permitted_before=entry.permitted_before,
    )


def time_of(line: bytes) -> datetime:
    """Return the time of a line. Raises NotALine if it is not one, or has no time."""
    read = read_line(line)
    entry = read.entry
    if isinstance(entry, AnswersEntry | AnchorEntry):
        if not read.answers:
            raise NotALine("no time")
        return read.answers[-1].at
    return entry.at


def personal_reply(line: Line) -> tuple[str | None, tuple[str, ...]]:
    """Return the reply of a personal answer and those by recipient; None and () if erased."""
    for part in line.personal:
        return (None, ()) if isinstance(part, str) else (part.reply, part.each)
    return None, ()


def is_erased(recipient: JudgedRecipient) -> bool:
    return recipient.canonical.startswith(ERASED)


def _closed_recipient(verdict: OpenVerdict, part: Personal | str) -> JudgedRecipient:
    if isinstance(part, str):
        name = _erased(part)
        return JudgedRecipient(name, name, _closed(verdict, None))
    return JudgedRecipient(part.address or "", part.canonical or "", _closed(verdict, part.detail))


def _closed(verdict: OpenVerdict, detail: str | None) -> Verdict:
    return Verdict(verdict.action, verdict.reason, verdict.basis, verdict.rule, detail)


def _erased(digest: str) -> str:
    return f"{ERASED}{digest[:16]}"
