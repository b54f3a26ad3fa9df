"""A yes to one brand allows nothing to another; a no without a brand counts for all."""

import pytest
from msgspec.structs import replace

from smtpproxy.policy.as_of import known_at
from smtpproxy.policy.model import (
    Audience,
    Collection,
    Contact,
    Origin,
    Reading,
    RecipientFacts,
    Source,
    Stream,
    StreamClass,
    Suppression,
    Transaction,
    collections,
)
from smtpproxy.policy.rules.brands import concerns
from smtpproxy.policy.rules.recipient import covers
from tests.policy import cases
from tests.policy.cases import (
    ADDRESS,
    AGREED,
    BOOK,
    BOUGHT,
    BUYER,
    COLLECTED,
    CUSTOMER,
    DAY,
    DISCLOSED,
    NOW,
    OFFERS,
    PERSON,
    SUBSCRIBER,
    THREE_YEARS_AGO,
    WITHDRAWN,
    said,
    suppression,
    verdict,
)

ALONE = replace(OFFERS, brand="shop")
SHOP = replace(ALONE, many_brands=True)
MILL = replace(SHOP, name="mill-offers", brand="mill")
NOBODYS = replace(OFFERS, many_brands=True)


def of(brand: str | None, contact: Contact = SUBSCRIBER) -> Contact:
    """The contact, with everything about it said to one brand."""
    return replace(
        contact,
        brand=brand,
        acts=tuple(replace(act, brand=brand) for act in contact.acts),
        purchases=tuple(replace(one, brand=brand) for one in contact.purchases),
    )


BASES = [(SUBSCRIBER, "allow consent"), (CUSTOMER, "allow existing_customer"),
         (BUYER, "allow professional")]  # fmt: skip


@pytest.mark.parametrize(("contact", "allowed"), BASES)
@pytest.mark.parametrize(
    ("stream", "brand", "counts"),
    [
        (OFFERS, None, True),
        (OFFERS, "shop", False),
        (ALONE, None, True),
        (ALONE, "shop", True),
        (ALONE, "mill", False),
        (SHOP, None, False),
        (SHOP, "shop", True),
        (SHOP, "mill", False),
        (MILL, "mill", True),
        (NOBODYS, None, False),
        (NOBODYS, "shop", False),
    ],
)
def test_only_permission_given_to_the_brand_allows(
    contact: Contact, allowed: str, stream: Stream, brand: str | None, counts: bool
) -> None:
    expected = allowed if counts else "refuse brand_unproven"
    assert said(verdict(of(brand, contact), stream=stream)) == expected


@pytest.mark.parametrize(
    ("contact", "refused"),
    [
        (SUBSCRIBER, "refuse consent_missing"),
        (CUSTOMER, "refuse consent_missing"),
    ],
)
def test_a_customer_of_one_brand_who_is_on_record_with_another(
    contact: Contact, refused: str
) -> None:

    known = replace(of("mill", contact), brand="shop")
    assert said(verdict(known, stream=SHOP)) == refused


@pytest.mark.parametrize(
    ("brand", "refused"), [(None, {"shop", "mill"}), ("shop", {"shop"}), ("mill", {"mill"})]
)
def test_a_withdrawal_without_a_brand_counts_against_all(
    brand: str | None, refused: set[str]
) -> None:
    withdrawal = replace(WITHDRAWN, brand=brand)
    found = {
        stream.brand
        for stream in (SHOP, MILL)
        if said(verdict(_with(of(stream.brand), withdrawal), stream=stream))
        == "refuse consent_withdrawn"
    }
    assert found == refused


def test_every_withdrawal_counts_when_the_brand_is_unknown() -> None:
    withdrawn = _with(SUBSCRIBER, replace(WITHDRAWN, brand="shop"))
    assert said(verdict(withdrawn)) == "refuse consent_withdrawn"


def test_consent_to_another_brand_undoes_no_withdrawal() -> None:
    later = replace(AGREED, at=NOW - DAY, brand="mill")
    known = _with(of("shop"), replace(WITHDRAWN, brand="shop"), later)
    assert said(verdict(known, stream=SHOP)) == "refuse consent_withdrawn"
    own = replace(later, brand="shop")
    assert said(verdict(_with(known, own), stream=SHOP)) == "allow consent"


def test_consent_to_another_brand_lifts_no_suppression() -> None:
    unsubscribed = suppression("marketing", Origin.UNSUBSCRIBE)
    later = replace(AGREED, at=NOW - DAY, brand="mill")
    known = _with(of("shop"), later)
    assert said(verdict(known, unsubscribed, stream=SHOP)) == "refuse suppressed_unsubscribe"
    own = _with(of("shop"), replace(later, brand="shop"))
    assert said(verdict(own, unsubscribed, stream=SHOP)) == "allow consent"


def test_a_withdrawal_under_another_reading_counts_for_its_brand() -> None:
    for brand, expected in (("mill", "allow consent"), ("shop", "refuse consent_withdrawn")):
        reading = Reading("jeanne@example.net", (replace(WITHDRAWN, brand=brand),))
        facts = {ADDRESS: RecipientFacts(contact=of("shop"), readings=(reading,))}
        found = cases.judge(Transaction((SHOP,), (ADDRESS,)), facts, BOOK, NOW).recipients[0]
        assert said(found) == expected


def _with(contact: Contact, *acts: object) -> Contact:
    return replace(contact, acts=(*contact.acts, *acts))  # type: ignore[arg-type]


# Within one brand: how an address was obtained, and what came by it.
DIRECT = Collection(None, Source.DIRECT, COLLECTED, COLLECTED, optout_offered=True)
WEB = Collection(source=Source.WEB)
BOUGHT_LIST = Collection(source=Source.PURCHASED)
GOOD_LIST = Collection(source=Source.PURCHASED, provenance=DISCLOSED)


def test_buying_an_address_again_revives_no_consent() -> None:
    """The person was silent for three years; a list on sale is no sign of life."""
    old = THREE_YEARS_AGO - DAY
    silent = replace(PERSON, collected_at=old, informed_at=old, acts=(replace(AGREED, at=old),))
    assert said(verdict(silent)) == "refuse consent_expired"
    bought = replace(
        silent,
        source=Source.PURCHASED,
        collected_at=COLLECTED,
        provenance=DISCLOSED,
        others=(Collection(None, Source.DIRECT, old, old),),
    )
    assert said(verdict(bought)) == "refuse consent_expired"
    clicked = replace(bought, last_activity_at=COLLECTED)
    assert said(verdict(clicked)) == "allow consent"


def test_a_bad_source_taints_only_what_came_from_it() -> None:
    for bad in (WEB, BOUGHT_LIST):
        assert said(verdict(replace(SUBSCRIBER, others=(bad,)))) == "allow consent"
        first = replace(SUBSCRIBER, source=bad.source, others=(DIRECT,))
        assert said(verdict(first)) == "allow consent"
        tainted = replace(AGREED, came_by=bad.name)
        known = replace(PERSON, acts=(tainted,), others=(bad,))
        assert said(verdict(known)) == "refuse consent_missing"
        alone = replace(PERSON, acts=(tainted,), source=bad.source)
        assert said(verdict(alone)) in ("refuse source_forbidden", "refuse source_undisclosed")
        bought = replace(PERSON, purchases=(replace(BOUGHT, came_by=bad.name),))
        for others in ((bad,), ()):
            assert said(verdict(replace(bought, others=others))) == "refuse consent_missing"


def test_what_came_from_a_good_source_counts() -> None:
    acts = (replace(AGREED, came_by=GOOD_LIST.name),)
    known = replace(PERSON, acts=acts, source=Source.WEB, others=(GOOD_LIST,))
    assert said(verdict(known)) == "allow consent"
    long_ago = replace(known, acts=(replace(acts[0], at=THREE_YEARS_AGO - DAY),))
    assert said(verdict(long_ago)) == "refuse source_forbidden"
    customer = replace(long_ago, purchases=(replace(BOUGHT, came_by=GOOD_LIST.name),))
    assert said(verdict(customer)) == "allow consent"  # a purchase is a sign of life


def test_a_notice_at_one_collection_does_not_serve_another() -> None:
    """Neither collection alone has both things an existing customer needs."""
    told = Collection(None, Source.DIRECT, COLLECTED, COLLECTED)
    asked = replace(CUSTOMER, informed_at=None)
    assert said(verdict(replace(asked, others=(told,)))) == "refuse notice_missing"
    assert said(verdict(replace(asked, others=(DIRECT,)))) == "allow existing_customer"


def test_a_quality_from_one_collection_does_not_carry_over() -> None:
    for brand, expected in (("shop", "allow professional"), ("mill", "refuse consent_missing")):
        buyer = collections(of(brand, BUYER))[0]
        consumer = replace(of("shop", PERSON), audience=Audience.CONSUMER, others=(buyer,))
        assert said(verdict(consumer, stream=replace(SHOP, topics=BUYER.occupations))) == expected
    generic = replace(PERSON, audience=Audience.GENERIC)
    assert said(verdict(of("shop", generic), stream=SHOP)) == "allow generic_address"
    mill = replace(of("shop", PERSON), others=collections(of("mill", generic)))
    assert said(verdict(mill, stream=SHOP)) == "refuse consent_missing"


def test_a_click_keeps_consent_alive_only_for_its_brand() -> None:
    old = replace(AGREED, at=COLLECTED - 1000 * DAY)
    clicked = replace(PERSON, collected_at=old.at, last_activity_at=old.at)
    silent = of("shop", replace(clicked, acts=(old,)))
    assert said(verdict(silent, stream=SHOP)) == "refuse consent_expired"
    for brand, expected in (("mill", "refuse consent_expired"), ("shop", "allow consent")):
        click = Collection(brand, Source.WEB, last_activity_at=NOW - DAY)
        assert said(verdict(replace(silent, others=(click,)), stream=SHOP)) == expected


def test_a_later_collection_was_not_known_at_an_earlier_moment() -> None:
    later = replace(WEB, collected_at=NOW)
    facts = RecipientFacts(contact=replace(SUBSCRIBER, others=(later,)))
    assert known_at(facts, NOW - DAY).contact == SUBSCRIBER
    newest = replace(SUBSCRIBER, collected_at=NOW, source=Source.WEB, others=(DIRECT,))
    before = known_at(RecipientFacts(contact=newest), NOW - DAY).contact
    assert before is not None
    assert (before.source, before.others) == (Source.DIRECT, ())


def test_a_purchase_makes_a_customer_of_its_seller_only() -> None:
    both = replace(CUSTOMER, brand="shop", purchases=(replace(BOUGHT, brand="shop"),
                                                      replace(BOUGHT, brand="mill")))  # fmt: skip
    assert said(verdict(both, stream=SHOP)) == "allow existing_customer"
    assert said(verdict(both, stream=MILL)) == "refuse brand_unproven"


def test_an_objection_to_a_former_brand_holds_for_all() -> None:
    """It may only have been renamed, which must not undo the objection."""
    now_called = replace(SHOP, all_brands=frozenset({"shop", "mill"}))
    gone = (Suppression("brand:boutique", Origin.OBJECTION, COLLECTED),)
    other = (Suppression("brand:mill", Origin.OBJECTION, COLLECTED),)
    for stream, entries, holds in (
        (now_called, gone, True),
        (now_called, other, False),
        (SHOP, gone, False),
        (replace(now_called, stream_class=StreamClass.TRANSACTIONAL), gone, False),
    ):
        assert [covers(one.scope, stream) for one in entries] == [holds]
    assert concerns("boutique", now_called)
    assert not concerns("mill", now_called)
