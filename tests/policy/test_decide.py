"""What the store is asked, uncertain streams, and the choice of the stream."""

import pytest
from msgspec.structs import replace

from smtpproxy.policy.decide import choose_stream, judge, needs
from smtpproxy.policy.model import (
    CONFIRMATION_STREAM,
    DEFAULT_STREAM,
    Decision,
    Facts,
    RecipientFacts,
    Stream,
    TrackingPixels,
    Transaction,
    UndeclaredBulk,
    Verdict,
)
from smtpproxy.policy.periods import parse_cap
from tests.policy.cases import (
    ADDRESS,
    BOOK,
    GOOD_MESSAGE,
    NOW,
    OFFERS,
    RECEIPTS,
    SUBSCRIBER,
    said,
    suppression,
)

NEWS = replace(OFFERS, name="news", purpose="news")
PAUSED = replace(OFFERS, name="paused", paused=True)
OTHER = "paul@example.org"


def _judge(streams: tuple[Stream, ...], facts: Facts, *recipients: str) -> Decision:
    return judge(Transaction(streams, recipients or (ADDRESS,)), facts, BOOK, NOW)


def test_facts_requested_from_the_store() -> None:
    asked = needs(Transaction((OFFERS,), (ADDRESS, OTHER, ADDRESS)), BOOK)
    assert asked.addresses == (ADDRESS, OTHER)
    assert needs(Transaction((OFFERS,), (), GOOD_MESSAGE), BOOK).addresses == ()


MARKETING_IF_BULK = replace(RECEIPTS, undeclared_bulk=UndeclaredBulk.MARKETING)
CAPPED = replace(OFFERS, frequency_cap=parse_cap("1/1d"))
SCREENED = replace(OFFERS, max_snapshot_age=86_400.0)

NEEDED = [
    ((RECEIPTS,), set()),
    ((replace(RECEIPTS, purpose="offers"),), {"contacts"}),  # consent lifts an unsubscribe
    ((replace(RECEIPTS, tracking_pixels=TrackingPixels.OBSERVE),), set()),
    ((replace(RECEIPTS, tracking_pixels=TrackingPixels.REFUSE),), {"contacts"}),
    ((replace(RECEIPTS, tracking_pixels=TrackingPixels.STRIP),), {"contacts"}),
    ((MARKETING_IF_BULK,), {"contacts", "mailings", "pauses"}),
    ((CONFIRMATION_STREAM,), {"pauses"}),
    ((OFFERS,), {"contacts", "pauses"}),
    ((CAPPED,), {"contacts", "mailings", "pauses"}),
    ((SCREENED,), {"contacts", "snapshots", "pauses"}),
    # the stream is still uncertain
    ((RECEIPTS, CAPPED, SCREENED), {"contacts", "mailings", "snapshots", "pauses"}),
]


@pytest.mark.parametrize(("streams", "expected"), NEEDED)
def test_every_fact_that_could_decide_is_requested(
    streams: tuple[Stream, ...], expected: set[str]
) -> None:
    asked = needs(Transaction(streams, (ADDRESS,)), BOOK)
    kinds = ("contacts", "mailings", "snapshots", "pauses")
    assert {kind for kind in kinds if getattr(asked, kind)} == expected


def test_verdicts_come_in_the_order_of_the_recipients() -> None:
    facts = {ADDRESS: RecipientFacts(contact=SUBSCRIBER)}
    decision = _judge((OFFERS,), facts, OTHER, ADDRESS, OTHER)
    assert [said(verdict) for verdict in decision.recipients] == [
        "refuse no_record",
        "allow consent",
        "refuse no_record",
    ]
    assert decision.stream is OFFERS
    assert decision.rulebook == "fr"
    assert decision.message is None


KNOWN = {ADDRESS: RecipientFacts(contact=SUBSCRIBER)}
GONE = {ADDRESS: RecipientFacts((suppression(),), SUBSCRIBER)}
NO_OFFERS = {ADDRESS: RecipientFacts((suppression("purpose:offers"),), SUBSCRIBER)}

UNCERTAIN = [
    ((OFFERS, NEWS), KNOWN, "allow none"),
    ((NEWS, OFFERS), KNOWN, "allow none"),
    ((NEWS, PAUSED), KNOWN, "allow none"),  # a deferral is not a refusal
    ((NEWS, RECEIPTS), {}, "allow none"),
    ((NEWS, OFFERS), {}, "refuse no_record"),
    ((NEWS, RECEIPTS), GONE, "refuse suppressed_unsubscribe"),
    # all refuse: the first verdict is given
    ((NEWS, replace(OFFERS, purpose="x")), KNOWN, "refuse consent_missing"),
    ((NEWS, OFFERS), NO_OFFERS, "refuse consent_missing"),
    ((OFFERS, NEWS), NO_OFFERS, "refuse suppressed_unsubscribe"),
]


@pytest.mark.parametrize(("streams", "facts", "expected"), UNCERTAIN)
def test_only_what_every_candidate_stream_refuses_is_refused_at_rcpt(
    streams: tuple[Stream, ...], facts: Facts, expected: str
) -> None:
    decision = _judge(streams, facts)
    assert said(decision.recipients[0]) == expected
    assert decision.recipients[0].basis is None
    assert decision.stream is streams[0]


def test_with_a_single_stream_a_deferral_is_given_at_rcpt() -> None:
    assert said(_judge((PAUSED,), KNOWN).recipients[0]) == "defer stream_paused"


@pytest.mark.parametrize("streams", [(), (OFFERS, NEWS)])
def test_a_message_is_on_exactly_one_stream(streams: tuple[Stream, ...]) -> None:
    with pytest.raises(ValueError, match="exactly one stream"):
        judge(Transaction(streams, (ADDRESS,), GOOD_MESSAGE), {}, BOOK, NOW)


def test_message_and_recipients_are_judged_separately() -> None:
    transaction = Transaction((OFFERS,), (ADDRESS,), replace(GOOD_MESSAGE, one_click=False))
    decision = judge(transaction, KNOWN, BOOK, NOW)
    assert decision.message is not None
    assert said(decision.message) == "refuse one_click_missing"
    assert said(decision.recipients[0]) == "allow consent"


CHOICES = [
    ((OFFERS, NEWS), NEWS, (), "news"),
    ((OFFERS, NEWS), None, (), "default"),
    ((), None, (), "default"),
    ((OFFERS, NEWS), NEWS, ("offers",), "offers"),
    ((OFFERS, NEWS), None, ("news",), "news"),
    ((OFFERS, NEWS), NEWS, ("offers", "offers"), "offers"),
    ((OFFERS, NEWS), NEWS, ("receipts",), None),
    ((OFFERS, NEWS), NEWS, ("offers", "news"), None),
    ((OFFERS, NEWS), NEWS, ("offers", ""), None),
    ((OFFERS, NEWS), NEWS, ("",), None),
    ((OFFERS, NEWS), NEWS, ("Offers",), None),
    ((OFFERS, NEWS), NEWS, ("offers news",), None),
    ((), None, ("offers",), None),
    ((), None, ("default",), None),
]


@pytest.mark.parametrize(("permitted", "default", "values", "name"), CHOICES)
def test_choice_of_the_stream(
    permitted: tuple[Stream, ...],
    default: Stream | None,
    values: tuple[str, ...],
    name: str | None,
) -> None:
    chosen = choose_stream(permitted, default, values)
    if isinstance(chosen, Verdict):
        assert name is None
        assert said(chosen) == "refuse stream_not_permitted"
    else:
        assert chosen.name == name


def test_undeclared_mail_is_judged_by_the_strict_rules() -> None:
    stream = choose_stream((), None, ())
    assert stream is DEFAULT_STREAM
    assert (stream.purpose, stream.check_dkim) == ("marketing", True)
    assert stream.tracking_pixels is TrackingPixels.OBSERVE
    decision = _judge((DEFAULT_STREAM,), KNOWN)
    assert said(decision.recipients[0]) == "refuse consent_missing"
