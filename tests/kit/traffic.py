"""Invented events like those of a relay in use."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from smtpproxy.events import (
    STAGES,
    Client,
    ConnectionClosed,
    ConnectionOpened,
    ConnectionRefused,
    Decided,
    Event,
    Failed,
    JudgedRecipient,
    Relayed,
    TransactionEnded,
)
from smtpproxy.policy.model import (
    DEFAULT_STREAM,
    Action,
    Basis,
    Decision,
    MessageFeatures,
    Mode,
    Reason,
    Stream,
    StreamClass,
    Verdict,
)
from smtpproxy.settings import (
    FeedbackSettings,
    ListenerSettings,
    ServerSettings,
    Settings,
    StoreSettings,
    TcpAddress,
    TokenSettings,
    UpstreamSettings,
    WebhookSettings,
)

OFFERS = Stream(name="offers", purpose="offers")
RECEIPTS = Stream(name="receipts", stream_class=StreamClass.TRANSACTIONAL)
TRIAL = Stream(name="trial", purpose="trial", mode=Mode.OBSERVE)

ALLOWED = Verdict(Action.ALLOW, basis=Basis.CONSENT)
RECEIPT = Verdict(Action.ALLOW, basis=Basis.TRANSACTIONAL)
PASSED = Verdict(Action.ALLOW)
NO_CONSENT = Verdict(Action.REFUSE, Reason.CONSENT_MISSING)
COMPLAINED = Verdict(Action.REFUSE, Reason.SUPPRESSED_COMPLAINT)
NO_UNSUBSCRIBE = Verdict(Action.REFUSE, Reason.UNSUBSCRIBE_MISSING)

LISTENERS = (
    ListenerSettings(
        "apps", TcpAddress("127.0.0.1", 2525), "smtp", ("offers", "receipts", "trial"), "offers"
    ),
    ListenerSettings("legacy", TcpAddress("127.0.0.1", 2526)),
)


def settings(workers: int = 2) -> Settings:
    """Two listeners and four streams, one of them observed, one transactional."""
    streams = (DEFAULT_STREAM, OFFERS, RECEIPTS, TRIAL)
    return Settings(
        server=ServerSettings("relay.example", Path("state"), workers=workers),
        listeners=LISTENERS,
        upstream=UpstreamSettings(TcpAddress("127.0.0.1", 10025)),
        store=StoreSettings("sqlite:///smtpproxy.db"),
        streams={stream.name: stream for stream in streams},
        tokens=(TokenSettings("crm", "0" * 64, frozenset({"changes"})),),
        webhooks=(
            WebhookSettings("crm", "https://crm.example/hook", Path("secret"), deadline=172_800.0),
        ),
        feedback=FeedbackSettings("bounces.example"),
        hash="0123456789ab",
    )


def decided(
    stream: Stream,
    *recipients: Verdict,
    message: Verdict | None = PASSED,
    listener: str = "apps",
    stage: Literal["rcpt", "data"] = "data",
    undecided: bool = False,
    encoded: bool = False,
) -> Decided:
    """A decision, observed if the stream is."""
    return Decided(
        id="01J9ZZZZZZZZZZZZZZZZZZZZZZ",
        at=datetime(2026, 3, 1, tzinfo=UTC),
        stage=stage,
        client=Client(listener, "192.0.2.1", "app.example"),
        reverse_path="news@shop.example",
        decision=Decision(stream, "fr", recipients, message),
        recipients=tuple(
            JudgedRecipient("a@b.example", "a@b.example", each) for each in recipients
        ),
        facts={},
        features=MessageFeatures(unsubscribe_encoded=encoded) if stage == "data" else None,
        observed=stream.mode is Mode.OBSERVE,
        undecided=undecided,
        size=4096,
        relayed=stage == "data" and (message is None or message.action is Action.ALLOW),
    )


def delivery(
    stream: Stream, verdict: Verdict, *, seconds: float = 0.0004, code: int = 250
) -> Iterator[Event]:
    """All events of one accepted message to one recipient."""
    yield decided(stream, verdict)
    yield Relayed("01J9", "apps", stream.name, code, f"{code} answer", 4096, 1)
    yield TransactionEnded("apps", seconds, dict.fromkeys(STAGES, seconds / 5))


def busy_minute() -> Iterator[Event]:
    """A bit of everything that a relay sees."""
    yield ConnectionOpened("apps", "192.0.2.1")
    yield ConnectionOpened("legacy", "192.0.2.2")
    yield ConnectionOpened("legacy", "192.0.2.3")
    yield ConnectionClosed("legacy", "192.0.2.3", 1.5, "quit")
    yield ConnectionRefused("legacy", "192.0.2.4", "address_limit")
    for seconds in (0.0003, 0.0004, 0.0008, 0.002, 0.02, 1.0):
        yield from delivery(OFFERS, ALLOWED, seconds=seconds)
        yield from delivery(RECEIPTS, RECEIPT, seconds=seconds)
    yield from delivery(OFFERS, ALLOWED, code=451)
    yield decided(OFFERS, NO_CONSENT, stage="rcpt", message=None)
    yield decided(OFFERS, COMPLAINED, stage="rcpt", message=None)
    yield decided(OFFERS, ALLOWED, message=NO_UNSUBSCRIBE)
    yield decided(DEFAULT_STREAM, NO_CONSENT, stage="rcpt", message=None, listener="legacy")
    yield decided(TRIAL, NO_CONSENT, encoded=True)
    yield decided(TRIAL, Verdict(Action.DEFER, Reason.TEMPORARY_FAILURE), undecided=True)
    for part in ("store", "audit", "upstream"):
        yield Failed("apps", part, "OperationalError('database is locked')")
