"""Open tracking: it has its own consent, required where the stream says so."""

from random import Random

import pytest
from msgspec.structs import replace

from smtpproxy.explain.trace import trace
from smtpproxy.policy.decide import judge, needs
from smtpproxy.policy.model import (
    ConsentAct,
    ContentFeatures,
    Evidence,
    MessageFeatures,
    Pixel,
    PixelSign,
    RecipientFacts,
    Stream,
    TrackingPixels,
    Transaction,
    Verdict,
)
from tests.kit.soak import times
from tests.policy import strategies
from tests.policy.cases import (
    ADDRESS,
    BOOK,
    COLLECTED,
    DAY,
    GOOD_MESSAGE,
    NOW,
    OFFERS,
    RECEIPTS,
    SUBSCRIBER,
    said,
)
from tests.policy.oracle import expected, marked

PIXEL = (Pixel("t.example", PixelSign.TINY),)
TRACKED = replace(GOOD_MESSAGE, content=ContentFeatures(pixels=PIXEL))
FIXED = replace(GOOD_MESSAGE, content=ContentFeatures(pixels=PIXEL, pixels_fixed=True))

YES = ConsentAct("tracking", COLLECTED, method="unticked_box", evidence=Evidence("form v4"))
AGREED = replace(SUBSCRIBER, acts=(*SUBSCRIBER.acts, YES))
WITHDRAWN = replace(AGREED, acts=(*AGREED.acts, ConsentAct("tracking", NOW - DAY, withdrawal=True)))
TICKED = replace(SUBSCRIBER, acts=(*SUBSCRIBER.acts, replace(YES, method="preticked_box")))


def verdict(stream: Stream, fate: str, message: MessageFeatures, facts: RecipientFacts) -> Verdict:
    stream = replace(stream, tracking_pixels=TrackingPixels(fate))
    return judge(
        Transaction((stream,), (ADDRESS,), message), {ADDRESS: facts}, BOOK, NOW
    ).recipients[0]


REFUSED = "refuse tracking_unconsented"
CASES = [
    ("refuse", TRACKED, REFUSED, False),
    ("refuse", GOOD_MESSAGE, "allow consent", False),
    ("strip", TRACKED, "allow consent", True),
    ("strip", FIXED, REFUSED, False),
    ("observe", TRACKED, "allow consent", True),
    ("allow", TRACKED, "allow consent", False),
]


@pytest.mark.parametrize(("fate", "message", "answer", "unconsented"), CASES)
def test_people_without_consent_to_tracking(
    fate: str, message: MessageFeatures, answer: str, unconsented: bool
) -> None:
    for contact in (SUBSCRIBER, WITHDRAWN, TICKED):
        found = verdict(OFFERS, fate, message, RecipientFacts(contact=contact))
        assert (said(found), found.unconsented_pixels) == (answer, unconsented)


@pytest.mark.parametrize("fate", TrackingPixels)
@pytest.mark.parametrize("message", [TRACKED, FIXED])
def test_people_with_consent_to_tracking(fate: str, message: MessageFeatures) -> None:
    found = verdict(OFFERS, fate, message, RecipientFacts(contact=AGREED))
    assert (said(found), found.unconsented_pixels) == ("allow consent", False)


def test_receipts_may_not_track_either_where_the_stream_says_so() -> None:
    assert said(verdict(RECEIPTS, "refuse", TRACKED, RecipientFacts())) == REFUSED
    assert said(verdict(RECEIPTS, "refuse", TRACKED, RecipientFacts(contact=AGREED))) == (
        "allow transactional"
    )
    asking = replace(RECEIPTS, tracking_pixels=TrackingPixels.REFUSE)
    assert needs(Transaction((asking,), (ADDRESS,)), BOOK).contacts
    observed = replace(RECEIPTS, tracking_pixels=TrackingPixels.OBSERVE)
    assert not needs(Transaction((observed,), (ADDRESS,)), BOOK).contacts


def test_consent_to_tracking_allows_nothing_else() -> None:
    only = replace(SUBSCRIBER, acts=(YES,))
    found = verdict(OFFERS, "refuse", TRACKED, RecipientFacts(contact=only))
    assert said(found) == "refuse consent_missing"


@pytest.mark.soak
def test_the_rules_say_what_the_design_says() -> None:
    random = Random(20260714)
    purposes = [*strategies.PURPOSES, "tracking"]
    seen = set()
    for _ in range(times(3_000, 100_000)):
        address, stream, facts = strategies.random_case(random)
        if len({(e.scope, e.since) for e in facts.suppressions}) != len(facts.suppressions):
            continue
        if facts.contact is not None:
            acts = tuple(replace(a, purpose=random.choice(purposes)) for a in facts.contact.acts)
            facts = replace(facts, contact=replace(facts.contact, acts=acts))
        stream = replace(stream, tracking_pixels=random.choice(list(TrackingPixels)))
        pixels = random.choice(["none", "found", "fixed"])
        message = {"none": GOOD_MESSAGE, "found": TRACKED, "fixed": FIXED}[pixels]
        transaction = Transaction((stream,), (address,), message)
        found = judge(transaction, {address: facts}, BOOK, NOW).recipients[0]
        answer = expected(address, stream, facts, BOOK, NOW, pixels)
        assert said(found) == answer
        assert found.unconsented_pixels == (
            answer.startswith("allow") and marked(address, stream, facts, BOOK, NOW, pixels)
        )
        seen.add((answer == REFUSED, found.unconsented_pixels))
        steps = trace(transaction, 0, {address: facts}, BOOK, NOW)
        decided = [step for step in steps if step.outcome != "passed"]
        assert (decided[-1].rule, decided[-1].outcome) == (found.rule, found.action)
        assert not any("{" in step.text for step in steps)
    assert len(seen) == 3


def test_the_explanation_names_the_pixel_and_its_treatment() -> None:
    told = {}
    for fate in TrackingPixels:
        stream = replace(OFFERS, tracking_pixels=fate)
        facts = {ADDRESS: RecipientFacts(contact=SUBSCRIBER)}
        steps = trace(Transaction((stream,), (ADDRESS,), TRACKED), 0, facts, BOOK, NOW)
        told[str(fate)] = [step.text for step in steps if step.rule == "tracking"]
    assert [len(texts) for texts in told.values()] == [1, 1, 1, 1]
    assert all("t.example" in text for texts in told.values() for text in texts)
    assert "removed" in told["strip"][0]
