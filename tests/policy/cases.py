"""Contacts, streams and shorthands to ask the decision core, at one fixed moment."""

from datetime import UTC, datetime, timedelta

from msgspec.structs import replace

from smtpproxy.policy.decide import judge
from smtpproxy.policy.model import (
    Audience,
    ConsentAct,
    Contact,
    Evidence,
    MessageFeatures,
    Nature,
    Origin,
    Provenance,
    Purchase,
    RecipientFacts,
    Rulebook,
    Source,
    Stream,
    StreamClass,
    Suppression,
    Transaction,
    Verdict,
)

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
TICK = timedelta(microseconds=1)
DAY = timedelta(days=1)
THREE_YEARS_AGO = datetime(2023, 6, 1, 12, tzinfo=UTC)
COLLECTED = datetime(2025, 3, 1, 10, tzinfo=UTC)

BOOK = Rulebook(
    "fr",
    role_local_parts=frozenset({"contact", "info"}),
    consumer_domains=frozenset({"gmail.com", "free.fr"}),
)
OFFERS = Stream(
    "offers",
    purpose="offers",
    products=frozenset({"shoes"}),
    topics=frozenset({"retail"}),
    from_domains=frozenset({"example.com"}),
)
APPEAL = replace(OFFERS, name="appeal", nature=Nature.CHARITY)
RECEIPTS = Stream("receipts", StreamClass.TRANSACTIONAL)

ADDRESS = "jeanne@example.org"
AGREED = ConsentAct("offers", COLLECTED, method="unticked_box", evidence=Evidence("form v3"))
WITHDRAWN = ConsentAct("offers", COLLECTED + DAY, withdrawal=True)
BOUGHT = Purchase("shoes", COLLECTED)
DISCLOSED = Provenance("List Ltd", sender_disclosed=True)

# Known, informed, free to refuse and active, but without any basis yet.
PERSON = Contact(
    ADDRESS,
    audience=Audience.CONSUMER,
    source=Source.DIRECT,
    collected_at=COLLECTED,
    informed_at=COLLECTED,
    optout_offered=True,
)
SUBSCRIBER = replace(PERSON, acts=(AGREED,))
CUSTOMER = replace(PERSON, purchases=(BOUGHT,))
BUYER = replace(
    PERSON, audience=Audience.PROFESSIONAL, occupations=frozenset({"retail", "finance"})
)

GOOD_MESSAGE = MessageFeatures(
    from_domains=("example.com",),
    unsubscribe_fields=1,
    unsubscribe_https=("https://example.com/u",),
    one_click=True,
)


def verdict(
    contact: Contact | None,
    *suppressions: Suppression,
    stream: Stream = OFFERS,
    address: str = ADDRESS,
    now: datetime = NOW,
) -> Verdict:
    """Judge one recipient on one stream."""
    transaction = Transaction((stream,), (address,))
    facts = {address: RecipientFacts(suppressions, contact)}
    return judge(transaction, facts, BOOK, now).recipients[0]


def said(verdict: Verdict) -> str:
    """Return a verdict in brief: `allow consent`, `refuse no_record`."""
    return f"{verdict.action} {verdict.basis or verdict.reason}"


def suppression(
    scope: str = "all",
    origin: Origin = Origin.UNSUBSCRIBE,
    since: datetime = COLLECTED + DAY,
    *,
    widened: bool = False,
) -> Suppression:
    return Suppression(scope, origin, since, widened)
