"""People as the rulebooks see them, and a way to ask how each is judged.

All were collected long before any period ends, so that only what a row changes can make a
difference.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import pytest
from msgspec.structs import replace

from smtpproxy.policy.decide import judge
from smtpproxy.policy.model import (
    Audience,
    ConsentAct,
    Contact,
    Dealing,
    Evidence,
    Nature,
    Origin,
    Provenance,
    Purchase,
    RecipientFacts,
    Source,
    Stream,
    StreamClass,
    Suppression,
    Transaction,
)
from smtpproxy.policy.rulebooks import builtin
from tests.policy.cases import said

NOW = datetime(2026, 8, 28, 12, tzinfo=UTC)
TICK = timedelta(microseconds=1)
DAY = timedelta(days=1)
LONG_AGO = datetime(2010, 1, 1, tzinfo=UTC)
THREE_YEARS_AGO = datetime(2023, 8, 28, 12, tzinfo=UTC)
TWO_YEARS_AGO = datetime(2024, 8, 28, 12, tzinfo=UTC)
SIX_MONTHS_AGO = datetime(2026, 2, 28, 12, tzinfo=UTC)

ADDRESS = "jeanne@example.org"
OFFERS = Stream(
    "offers",
    purpose="offers",
    products=frozenset({"shoes"}),
    topics=frozenset({"retail"}),
)
APPEAL = replace(OFFERS, name="appeal", nature=Nature.CHARITY)
RECEIPTS = Stream("receipts", StreamClass.TRANSACTIONAL)

PERSON = Contact(
    ADDRESS,
    Audience.CONSUMER,
    Source.DIRECT,
    collected_at=LONG_AGO,
    informed_at=LONG_AGO,
    optout_offered=True,
)
PROVEN = Evidence("form v3", "192.0.2.7", "3", "https://shop.example/join")
SOUND = Provenance("Lists Ltd", sender_disclosed=True)


def agreed(
    method: str | None = "double_opt_in",
    at: datetime = NOW - DAY,
    evidence: Evidence = PROVEN,
    *,
    conditional: bool = False,
) -> Contact:
    """Somebody who agreed to offers."""
    act = ConsentAct("offers", at, method=method, conditional=conditional, evidence=evidence)
    return replace(PERSON, acts=(act,))


def refused_since() -> Contact:
    """Somebody who agreed and then withdrew."""
    contact = agreed(at=NOW - 2 * DAY)
    return replace(contact, acts=(*contact.acts, ConsentAct("offers", NOW - DAY, withdrawal=True)))


def agreed_since(*, conditional: bool) -> Contact:
    """Somebody who withdrew and then agreed again."""
    withdrawal = ConsentAct("offers", NOW - 2 * DAY, withdrawal=True)
    contact = agreed(conditional=conditional)
    return replace(contact, acts=(withdrawal, *contact.acts))


def bought(product: str = "shoes", at: datetime = NOW - DAY) -> Contact:
    return replace(PERSON, purchases=(Purchase(product, at),))


def asked(product: str = "shoes", at: datetime = NOW - DAY) -> Contact:
    return replace(PERSON, purchases=(Purchase(product, at, Dealing.INQUIRY),))


def account() -> Contact:
    return replace(PERSON, purchases=(Purchase("shoes", NOW - DAY, Dealing.ACCOUNT),))


def at_work(*occupations: str) -> Contact:
    return replace(PERSON, audience=Audience.PROFESSIONAL, occupations=frozenset(occupations))


def seen(contact: Contact, at: datetime) -> Contact:
    """Somebody whose last sign of life was at that time."""
    return replace(contact, collected_at=at, informed_at=at)


def told(contact: Contact, *, informed: bool = True, free: bool = True) -> Contact:
    """Somebody who was or was not informed at collection and free to refuse."""
    return replace(
        contact,
        informed_at=contact.informed_at if informed else None,
        optout_offered=free,
    )


def by(contact: Contact, source: Source | None, provenance: Provenance | None = None) -> Contact:
    return replace(contact, source=source, provenance=provenance)


def stopped(origin: Origin = Origin.UNSUBSCRIBE, at: datetime = NOW - 2 * DAY) -> Suppression:
    return Suppression("all", origin, at)


class Row(NamedTuple):
    """One line of a rulebook's table: who is asked about, and the verdict."""

    who: str
    contact: Contact | None
    expected: str  # `allow BASIS` or `refuse REASON`
    stream: Stream = OFFERS
    suppression: Suppression | None = None
    address: str = ADDRESS

    def answer(self, rulebook: str) -> str:
        """Return the verdict under a built-in rulebook."""
        orders = () if self.suppression is None else (self.suppression,)
        facts = {self.address: RecipientFacts(orders, self.contact)}
        asked = Transaction((self.stream,), (self.address,))
        return said(judge(asked, facts, builtin(rulebook), NOW).recipients[0])


def each(table: Sequence[Row]) -> pytest.MarkDecorator:
    """Run a test for every row."""
    return pytest.mark.parametrize("row", table, ids=[row.who for row in table])
