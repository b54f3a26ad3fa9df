"""Acts on reports: whom to suppress, what counts against a stream, which bounces to hand on, and
what a person has to look at.

Everything may be repeated after a crash and still takes effect once: an event that was already
recorded does nothing.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from hashlib import sha256

import structlog
from msgspec import Struct

from smtpproxy.feedback.records import Class, Event, Kind, Sent
from smtpproxy.mailbox.reading import Understood
from smtpproxy.policy.breaker import Feedback
from smtpproxy.policy.model import Origin
from smtpproxy.policy.periods import beginning
from smtpproxy.settings import FeedbackSettings, WebhookSettings
from smtpproxy.store.breaker import Breaker
from smtpproxy.store.feedback import FeedbackLog, HeardEvent, ReadReport
from smtpproxy.store.propagation import NewEvent
from smtpproxy.store.records import SuppressionEntry
from smtpproxy.store.sql.store import Store

SUPPRESSIONS = {
    Class.DEAD: (Origin.BOUNCE, "no such mailbox"),
    Class.FULL: (Origin.BOUNCE, "mailbox full"),
    Class.COMPLAINT: (Origin.COMPLAINT, "reported as spam"),
    Class.UNSUBSCRIBE: (Origin.UNSUBSCRIBE, "by e-mail"),
}
"""The origin of a suppression, and its note: one of the standard motives, which name nobody."""

_AGAINST = {
    Class.DEAD: Feedback.DEAD_ADDRESS,
    Class.BLOCKED: Feedback.BLOCK,
    Class.SPAM: Feedback.BLOCK,
    Class.COMPLAINT: Feedback.COMPLAINT,
    Class.UNSUBSCRIBE: Feedback.UNSUBSCRIBE,
}
"""What the breaker counts."""

log = structlog.get_logger(__name__)


class Done(Struct, frozen=True):
    """What was done about one report."""

    understood: Understood
    news: Sequence[Event]  # its events that were not recorded before
    kept: bool


class Actor(Struct, frozen=True):
    """Acts on reports. Raises StoreUnavailable; then the reports have to be read again."""

    settings: FeedbackSettings
    store: Callable[[], Store]
    log: FeedbackLog
    breaker: Breaker | None = None
    tells: bool = False  # a webhook wants feedback

    async def act(self, understood: Sequence[Understood]) -> Sequence[Done]:
        """Act on the reports, and record it."""
        keyed = [(one, *each) for one in understood for each in _keyed(one)]
        known = set(await self.log.known([key for *_, key in keyed]))
        news: dict[str, list[_Keyed]] = {one.arrived.id: [] for one in understood}
        entries: list[SuppressionEntry] = []
        for one, event, key in keyed:
            if key in known:
                continue
            known.add(key)
            news[one.arrived.id].append((event, key))
            if event is not None:
                entries += await self._suppressions(one, event, key)
                await self._tell_breaker(one.report.sent, event)
        if entries:
            await self.store().add_suppressions(entries)
        told = [each for one in understood for each in _webhook_events(one, news[one.arrived.id])]
        if told and self.tells:
            await self.store().log_events(told)
        await self.log.note([_noted(one, news[one.arrived.id]) for one in understood])
        return [
            Done(one, [event for event, _ in new if event is not None], one.kept and bool(new))
            for one, new in ((one, news[one.arrived.id]) for one in understood)
        ]

    async def _suppressions(
        self, one: Understood, event: Event, key: bytes
    ) -> Sequence[SuppressionEntry]:
        at = one.arrived.at
        if event.address is None:
            return ()
        if event.scope is not None:
            origin, note = SUPPRESSIONS[event.event_class]
            if event.event_class is Class.UNSUBSCRIBE and one.report.sent is not None:
                id = one.report.sent.decision_id
                note = note if id is None else f"link of id={id}"
            return (SuppressionEntry(event.address, event.scope, origin, at, note),)
        cap = self.settings.suppress_full
        if event.event_class is not Class.FULL or cap is None or not self._trusts(one):
            return ()
        times = await self.log.note_full(event.address, key, at, beginning(at, cap.period))
        if times < cap.count:
            return ()
        origin, note = SUPPRESSIONS[Class.FULL]
        return (SuppressionEntry(event.address, "all", origin, at, note),)

    async def _tell_breaker(self, sent: Sent | None, event: Event) -> None:
        """Count what a token proves against its stream; the breaker counts a repetition once."""
        kind = _AGAINST.get(event.event_class)
        if self.breaker is None or kind is None or sent is None:
            return
        if sent.stream is not None and sent.decision_id is not None:
            await self.breaker.heard(kind, sent.stream, sent.decision_id, sent.recipient)

    def _trusts(self, one: Understood) -> bool:
        unproven = self.settings.require_token or self.settings.authenticate == "required"
        return one.report.sent is not None or not unproven


_Keyed = tuple[Event | None, bytes]
"""An event (None if a report has none) and a key that identifies it."""


def _keyed(one: Understood) -> Sequence[_Keyed]:
    if not one.report.events:
        return ((None, sha256(b"other" + one.digest).digest()[:16]),)
    return [(event, _key(one, event)) for event in one.report.events]


def _key(one: Understood, event: Event) -> bytes:
    """The key of an event: about the message if there is a token, otherwise about the report.

    Somebody who asks to be unsubscribed again means it again, because they may have consented in
    between. So such a request is identified by its letter, however often and by whichever way that
    comes.
    """
    sent = one.report.sent
    if event.event_class is Class.UNSUBSCRIBE:
        about = f"{one.letter.hex()} {event.address} {event.scope}"
    elif sent is not None and sent.decision_id is not None:
        about = f"{sent.decision_id} {sent.recipient}"
    else:
        about = f"{one.digest.hex()} {event.address}"
    return sha256(f"{event.event_class} {about}".encode()).digest()[:16]


_TOLD = (Class.DEAD, Class.COMPLAINT, Class.UNSUBSCRIBE)


def _webhook_events(one: Understood, news: Sequence[_Keyed]) -> Iterator[NewEvent]:
    """The events of a report for webhooks, without addresses and without its own words."""
    sent = one.report.sent
    for event, key in news:
        if one.kept or (event is not None and event.event_class in _TOLD):
            yield heard_event(
                key,
                at=one.arrived.at,
                report=one.arrived.id,
                heard="other" if event is None else event.event_class,
                stream=one.stream,
                decision=None if sent is None else sent.decision_id,
                suppressed=None if event is None else event.scope,
                kept=one.kept,
            )


def heard_event(
    key: bytes,
    *,
    at: datetime,
    report: str,
    heard: str,
    stream: str,
    decision: str | None = None,
    suppressed: str | None,
    kept: bool = False,
) -> NewEvent:
    """Return the webhook event of one piece of feedback; `suppressed` is the scope."""
    data = {
        "at": at,
        "report": report,
        "heard": heard,
        "stream": stream,
        "decision": decision,
        "suppressed": suppressed,
        "kept": kept,
    }
    return NewEvent(key.hex(), "feedback", data)


def wants_feedback(webhooks: Iterable[WebhookSettings]) -> bool:
    """Whether a webhook is to be told of feedback."""
    return any("feedback" in webhook.events for webhook in webhooks)


def _noted(one: Understood, news: Sequence[_Keyed]) -> ReadReport:
    report, arrived = one.report, one.arrived
    nothing = "auto_reply" if report.kind is Kind.AUTO_REPLY else "other"
    events = [
        HeardEvent(
            key,
            nothing if event is None else str(event.event_class),
            one.stream,
            lasting=event is not None and event.event_class is Class.UNSUBSCRIBE,
        )
        for event, key in news
    ]
    people = {event.address for event in report.events if event.address is not None}
    if report.sent is not None:
        people.add(report.sent.recipient)
    why = report.why
    if one.lacks is not None:
        why += f"; the record of message {one.lacks.id} is not found"
    return ReadReport(
        id=arrived.id,
        at=arrived.at,
        kind=str(report.kind),
        why=why,
        kept=one.kept and bool(news),
        people=tuple(people),
        events=tuple(events),
        hand_on=_hand_on_key(one),
        decision="" if one.path is None else one.path.id,
    )


def _hand_on_key(one: Understood) -> bytes:
    """The key for handing on, by the most serious kind only, because the writer of a report can
    combine kinds in many ways."""
    if one.path is None or not one.hands_on:
        return b""
    classes = {event.event_class for event in one.report.events}
    kind = next((each.value for each in Class if each in classes), "")
    about = b" ".join((one.path.id.encode(), one.path.person, kind.encode()))
    return sha256(b"hand on " + about).digest()[:16]


def log_done(done: Done) -> None:
    """Log what was done, without an address."""
    report = done.understood.report
    log.info(
        "feedback",
        report=done.understood.arrived.id,
        kind=str(report.kind),
        id=None if report.sent is None else report.sent.decision_id,
        heard=[str(event.event_class) for event in done.news],
        suppressed=[event.scope for event in done.news if event.scope],
        kept=done.kept,
    )
