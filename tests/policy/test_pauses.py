"""Pauses set by a person or the breaker: whose mail they hold back, and for how long."""

from datetime import timedelta

import pytest
from msgspec.structs import replace

from smtpproxy.policy.as_of import known_at
from smtpproxy.policy.decide import judge, needs
from smtpproxy.policy.model import Contact, Pause, RecipientFacts, Stream, Transaction
from tests.policy.cases import ADDRESS, BOOK, DAY, NOW, OFFERS, RECEIPTS, SUBSCRIBER, said

SECOND = timedelta(seconds=1)
BRANDED = replace(OFFERS, brand="shoes")
PAUSE = Pause("stream:offers", NOW - DAY, "complaint")
RESTORED = Pause("marketing", NOW - DAY, "restore")
ASKING = replace(RECEIPTS, confirmation=True, purpose=OFFERS.purpose)
PAUSED, ALLOWED = "defer stream_paused", "allow consent"


def judged(stream: Stream, *pauses: Pause, contact: Contact | None = SUBSCRIBER) -> str:
    facts = {ADDRESS: RecipientFacts(contact=contact, pauses=pauses)}
    return said(judge(Transaction((stream,), (ADDRESS,)), facts, BOOK, NOW).recipients[0])


@pytest.mark.parametrize(
    ("pauses", "expected"),
    [
        ((), ALLOWED),
        ((PAUSE,), PAUSED),
        ((replace(PAUSE, subject="stream:news"),), ALLOWED),
        ((replace(PAUSE, subject="brand:shoes"),), PAUSED),
        ((replace(PAUSE, subject="brand:hats"),), ALLOWED),
        ((replace(PAUSE, subject="stream:shoes"),), ALLOWED),
        # after a restore, before any other pause
        ((RESTORED,), "defer restore_pending"),
        ((PAUSE, RESTORED), "defer restore_pending"),
        # until its end, which is the first moment without it
        ((replace(PAUSE, until=NOW + SECOND),), PAUSED),
        ((replace(PAUSE, until=NOW),), ALLOWED),
        ((replace(PAUSE, until=NOW), replace(PAUSE, subject="brand:shoes")), PAUSED),
    ],
)
def test_whose_mail_a_pause_holds_back(pauses: tuple[Pause, ...], expected: str) -> None:
    assert judged(BRANDED, *pauses) == expected


def test_refusals_come_first_and_transactional_mail_goes_on() -> None:
    assert judged(OFFERS, PAUSE, contact=None) == "refuse no_record"
    receipts = replace(RECEIPTS, brand="shoes")
    own = replace(PAUSE, subject="stream:receipts")
    assert judged(receipts, own, replace(PAUSE, subject="brand:shoes")) == "allow transactional"


def test_a_deferral_names_the_pause_and_its_end() -> None:
    facts = {ADDRESS: RecipientFacts(contact=SUBSCRIBER, pauses=(replace(PAUSE, until=NOW + DAY),))}
    verdict = judge(Transaction((OFFERS,), (ADDRESS,)), facts, BOOK, NOW).recipients[0]
    since, until = (f"{at:%Y-%m-%dT%H:%M:%SZ}" for at in (NOW - DAY, NOW + DAY))
    assert verdict.detail == f"stream:offers, complaint, since {since}; until {until}"


def test_a_later_pause_is_ignored_at_an_earlier_moment() -> None:
    facts = RecipientFacts(pauses=(PAUSE,))
    assert known_at(facts, NOW).pauses == (PAUSE,)
    assert known_at(facts, NOW - 2 * DAY).pauses == ()


def test_pauses_are_requested_only_where_they_count() -> None:
    assert needs(Transaction((RECEIPTS, OFFERS), (ADDRESS,)), BOOK).pauses
    assert needs(Transaction((ASKING,), (ADDRESS,)), BOOK).pauses
    assert not needs(Transaction((RECEIPTS,), (ADDRESS,)), BOOK).pauses


def test_nobody_is_asked_to_confirm_after_a_restore() -> None:
    """Somebody may have complained or objected since the backup, and must not be asked."""
    asked = replace(SUBSCRIBER, acts=(replace(SUBSCRIBER.acts[0], pending=True),))
    assert judged(ASKING, contact=asked).startswith("allow")
    assert judged(ASKING, RESTORED, contact=asked) == "defer restore_pending"
    assert judged(ASKING, PAUSE, contact=asked).startswith("allow")
    assert judged(RECEIPTS, RESTORED) == "allow transactional"
