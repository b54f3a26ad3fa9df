"""The one message that asks whether to go on: when, to whom, how often, with which link."""

from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec.structs import replace

from smtpproxy.policy.decide import judge, judge_message
from smtpproxy.policy.model import (
    Collection,
    ConfirmLink,
    ConsentAct,
    Contact,
    ContentFeatures,
    Mailing,
    Origin,
    Provenance,
    Purchase,
    Reason,
    RecipientFacts,
    Source,
    Transaction,
    collected,
)
from tests.policy.cases import (
    ADDRESS,
    AGREED,
    APPEAL,
    BOOK,
    BOUGHT,
    BUYER,
    DAY,
    GOOD_MESSAGE,
    NOW,
    OFFERS,
    PERSON,
    THREE_YEARS_AGO,
    TICK,
    said,
    suppression,
)

ASKING = replace(OFFERS, name="renewal", permission=True)
# 30 days before NOW and 3 years earlier: the last moment that the window reaches back to.
WINDOW = datetime(2023, 5, 2, 12, tzinfo=UTC)
LATELY = THREE_YEARS_AGO - 7 * DAY


def silent(contact: Contact, since: datetime) -> Contact:
    """A contact silent since that moment."""
    return replace(
        contact,
        collected_at=since,
        informed_at=since,
        acts=tuple(replace(act, at=since) for act in contact.acts),
        purchases=tuple(replace(one, at=since) for one in contact.purchases),
    )


AGREED_ONCE = replace(PERSON, acts=(AGREED,))
BOUGHT_ONCE = replace(PERSON, purchases=(BOUGHT,))
LAPSED = silent(AGREED_ONCE, LATELY)


def answer(contact: Contact | None, *, stream: Any = ASKING, **facts: Any) -> str:
    known = RecipientFacts(contact=contact, **facts)
    asked = Transaction((stream,), (ADDRESS,))
    return said(judge(asked, {ADDRESS: known}, BOOK, NOW).recipients[0])


@pytest.mark.parametrize(
    ("since", "expected"),
    [
        (NOW - DAY, "refuse permission_not_due"),
        (THREE_YEARS_AGO, "refuse permission_not_due"),  # the basis holds up to this moment
        (THREE_YEARS_AGO - TICK, "allow permission"),
        (WINDOW, "allow permission"),
        (WINDOW - TICK, "refuse permission_not_due"),
    ],
)
@pytest.mark.parametrize(
    ("contact", "stream"),
    [
        (AGREED_ONCE, ASKING),
        (BOUGHT_ONCE, ASKING),
        (BUYER, ASKING),
        (PERSON, replace(APPEAL, permission=True)),
    ],
    ids=["consent", "customer", "professional", "charity"],
)
def test_every_clock(contact: Contact, stream: Any, since: datetime, expected: str) -> None:
    assert answer(silent(contact, since), stream=stream) == expected


@pytest.mark.parametrize(
    ("contact", "expected"),
    [
        (None, "refuse no_record"),
        (silent(PERSON, LATELY), "refuse consent_missing"),
        (replace(LAPSED, source=Source.WEB), "refuse source_forbidden"),
        (replace(LAPSED, tags=frozenset({"restricted"})), "refuse contact_restricted"),
        (replace(LAPSED, last_activity_at=NOW - DAY), "refuse permission_not_due"),
        (replace(LAPSED, acts=(replace(AGREED, at=LATELY, method="silence"),)),
         "refuse consent_preticked"),
        (replace(LAPSED, acts=(*LAPSED.acts, ConsentAct("offers", LATELY + DAY, withdrawal=True))),
         "refuse consent_withdrawn"),
        # an unconfirmed request is not a sign of life
        (replace(LAPSED, acts=(*LAPSED.acts, replace(AGREED, at=NOW - DAY, pending=True,
                                                     method="double_opt_in"))),
         "allow permission"),
        # time has run out for one purchase but not for another
        (replace(silent(BOUGHT_ONCE, LATELY), purchases=(replace(BOUGHT, at=LATELY),
                                                        Purchase("hats", NOW - DAY))),
         "refuse product_not_similar"),
        (replace(LAPSED, purchases=(Purchase("shoes", NOW - DAY),)), "refuse permission_not_due"),
    ],
)  # fmt: skip
def test_who_is_asked(contact: Contact | None, expected: str) -> None:
    assert answer(contact) == expected


@pytest.mark.parametrize("origin", Origin)
@pytest.mark.parametrize("scope", ["all", "marketing", "purpose:offers", "brand:default"])
def test_suppressed_people_are_not_asked(scope: str, origin: Origin) -> None:
    entry = suppression(scope, origin, THREE_YEARS_AGO - 9 * DAY)
    newest = suppression(scope, origin, NOW - DAY)
    for entries in ((newest,), (newest, entry)):
        assert answer(LAPSED, suppressions=entries) == f"refuse suppressed_{origin}"


@pytest.mark.parametrize(
    ("mailing", "expected"),
    [
        (Mailing("permission:default", NOW - TICK), "refuse permission_repeated"),
        (Mailing("permission:default", NOW - 30 * DAY), "refuse permission_repeated"),
        (Mailing("permission:default", NOW - 30 * DAY - TICK), "allow permission"),
        (Mailing("permission:shoes", NOW - TICK), "allow permission"),
        (Mailing("renewal", NOW - TICK), "allow permission"),  # not a request then
    ],
)
def test_permission_is_asked_once(mailing: Mailing, expected: str) -> None:
    assert answer(LAPSED, mailings=(mailing,)) == expected


def test_a_window_missed_by_one_collection_may_be_open_by_another() -> None:
    lists = [
        Collection(source=Source.PURCHASED, collected_at=at, provenance=Provenance(name, True))
        for name, at in (("One Ltd", WINDOW - DAY), ("Two Ltd", LATELY))
    ]
    acts = [replace(AGREED, at=each.collected_at, came_by=each.name) for each in lists]
    for ways in (lists, lists[::-1]):
        person = replace(collected(PERSON, tuple(ways)), acts=tuple(acts))
        assert answer(person) == "allow permission"
        assert answer(collected(person, (lists[0],))) == "refuse permission_not_due"


def test_a_brands_streams_share_a_key_that_no_stream_can_have() -> None:
    assert ASKING.counted_as == replace(ASKING, name="other").counted_as == "permission:default"
    assert OFFERS.counted_as == "offers"


@pytest.mark.parametrize("origin", [Origin.COMPLAINT, Origin.OBJECTION])
@pytest.mark.parametrize("scope", ["purpose:letters", "brand:another"])
def test_people_who_complained_or_objected_are_not_asked(origin: Origin, scope: str) -> None:
    mine = replace(ASKING, brand="shop")
    assert answer(LAPSED, stream=mine, suppressions=(suppression(scope, origin),)) == (
        f"refuse suppressed_{origin}"
    )
    facts = {"suppressions": (suppression("purpose:letters", origin),)}
    assert answer(LAPSED, **facts) == f"refuse suppressed_{origin}"
    assert answer(AGREED_ONCE, stream=OFFERS, **facts) == "allow consent"
    left = suppression("purpose:letters", Origin.UNSUBSCRIBE)
    assert answer(LAPSED, suppressions=(left,)) == "allow permission"


def test_a_request_is_deferred_like_all_marketing() -> None:
    assert answer(LAPSED, stream=replace(ASKING, paused=True)) == "defer stream_paused"


@pytest.mark.parametrize("found", [None, *ConfirmLink])
def test_the_link_of_a_request(found: ConfirmLink | None) -> None:
    content = None if found is None else ContentFeatures(confirm_link=found)
    message = replace(GOOD_MESSAGE, content=content)
    expected = Reason.NONE if found is ConfirmLink.VALID else Reason.CONFIRM_LINK_MISSING
    assert judge_message(ASKING, message).reason is expected
    assert judge_message(OFFERS, message).reason is Reason.NONE


def test_nothing_is_asked_where_mail_needs_no_consent() -> None:
    book = replace(BOOK, bases=(*BOOK.bases, "opt_out"))
    asked = Transaction((ASKING,), (ADDRESS,))
    facts = {ADDRESS: RecipientFacts(contact=LAPSED)}
    assert said(judge(asked, facts, book, NOW).recipients[0]) == "refuse permission_not_due"
