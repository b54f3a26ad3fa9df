"""Rule 0: standing orders not to mail, their scopes and order, and what lifts them."""

from typing import Any

import pytest
from msgspec.structs import replace

from smtpproxy.policy.model import Evidence, Origin, Reason, Suppression
from tests.policy.cases import (
    AGREED,
    COLLECTED,
    DAY,
    NOW,
    OFFERS,
    PERSON,
    RECEIPTS,
    SUBSCRIBER,
    TICK,
    WITHDRAWN,
    said,
    suppression,
    verdict,
)

NOTES = replace(RECEIPTS, name="notes", purpose="offers")

SCOPES = [
    ("all", {"offers", "receipts", "notes", "nobodys"}),
    ("marketing", {"offers", "nobodys"}),
    ("brand:shop", {"offers", "nobodys"}),
    ("brand:mill", {"nobodys"}),
    ("purpose:offers", {"offers", "notes", "nobodys"}),
    ("purpose:news", set()),
    ("purpose:", set()),
    # an unknown scope cannot be decided, so it holds
    ("ALL", {"offers", "receipts", "notes", "nobodys"}),
    ("", {"offers", "receipts", "notes", "nobodys"}),
]


@pytest.mark.parametrize(("scope", "refused"), SCOPES)
def test_scopes(scope: str, refused: set[str]) -> None:
    entry = suppression(scope, Origin.OBJECTION)
    streams = [replace(stream, brand="shop") for stream in (OFFERS, RECEIPTS, NOTES)]
    answers = {
        stream.name: said(verdict(SUBSCRIBER, entry, stream=stream))
        for stream in (*streams, replace(OFFERS, name="nobodys"))
    }
    names = {name for name, answer in answers.items() if answer.startswith("refuse")}
    assert names == refused
    assert {answers[name] for name in names} <= {"refuse suppressed_objection"}


@pytest.mark.parametrize("origin", Origin)
def test_every_origin_has_its_reason(origin: Origin) -> None:
    contact = replace(PERSON, acts=())
    expected = f"refuse suppressed_{origin}"
    assert said(verdict(contact, suppression(origin=origin))) == expected
    assert said(verdict(None, suppression(origin=origin), stream=RECEIPTS)) == expected


@pytest.mark.parametrize("origin", Origin)
def test_an_entry_for_the_widened_key_holds_unless_it_is_about_one_mailbox(origin: Origin) -> None:
    answer = said(verdict(SUBSCRIBER, suppression(origin=origin, widened=True)))
    if origin in (Origin.BOUNCE, Origin.MANUAL):
        assert answer == "allow consent"
    else:
        assert answer == f"refuse suppressed_{origin}"


def test_the_oldest_entry_of_the_widest_scope_is_named() -> None:
    narrow = suppression("purpose:offers", Origin.COMPLAINT, COLLECTED - 9 * DAY)
    middle = suppression("marketing", Origin.MANUAL, COLLECTED - 8 * DAY)
    newer = suppression("all", Origin.BOUNCE, COLLECTED)
    older = suppression("all", Origin.EXTERNAL, COLLECTED - TICK)
    assert said(verdict(None, narrow, middle, newer, older)) == "refuse suppressed_external"
    assert said(verdict(None, narrow, middle, newer)) == "refuse suppressed_bounce"
    assert said(verdict(None, narrow, middle)) == "refuse suppressed_manual"
    assert said(verdict(None, narrow)) == "refuse suppressed_complaint"
    of_the_brand = suppression("brand:shop", Origin.OBJECTION, COLLECTED)
    assert said(verdict(None, narrow, of_the_brand)) == "refuse suppressed_objection"
    # an entry that does not hold on the stream does not count, however wide
    assert said(verdict(None, narrow, middle, stream=NOTES)) == "refuse suppressed_complaint"


def test_the_verdict_says_which_suppression_it_was() -> None:
    refusal = verdict(None, suppression("marketing", Origin.COMPLAINT, COLLECTED, widened=True))
    assert refusal.detail == (
        "scope marketing since 2025-03-01, of another spelling of the address"
    )
    entry = suppression(origin=Origin.MANUAL, since=COLLECTED)
    of_a_domain = verdict(None, replace(entry, domain="*.example.org"))
    assert of_a_domain.detail == ("scope all since 2025-03-01, of the whole domain *.example.org")
    of_a_reading = verdict(None, replace(entry, read_as="jeanne@example.net"))
    assert of_a_reading.detail == (
        "scope all since 2025-03-01, of jeanne@example.net, which an MTA may take the address for"
    )


def test_a_suppression_dated_in_the_future_holds() -> None:
    entry = suppression(since=NOW + DAY)
    assert said(verdict(SUBSCRIBER, entry)) == "refuse suppressed_unsubscribe"


BEFORE = COLLECTED - TICK


def test_later_consent_lifts_an_unsubscribe_and_this_is_recorded() -> None:
    allowed = verdict(SUBSCRIBER, suppression(since=BEFORE))
    assert said(allowed) == "allow consent"
    assert allowed.detail == (
        "the unsubscribe of 2025-03-01 yields to the consent given on 2025-03-01"
    )
    assert verdict(SUBSCRIBER).detail is None


@pytest.mark.parametrize("scope", ["all", "marketing", "purpose:offers"])
@pytest.mark.parametrize("widened", [False, True])
def test_consent_lifts_an_unsubscribe_of_any_scope(scope: str, widened: bool) -> None:
    entry = suppression(scope, since=BEFORE, widened=widened)
    assert said(verdict(SUBSCRIBER, entry)) == "allow consent"


def test_consent_at_the_same_moment_lifts_nothing() -> None:
    entry = suppression(since=COLLECTED)
    assert said(verdict(SUBSCRIBER, entry)) == "refuse suppressed_unsubscribe"


@pytest.mark.parametrize("origin", sorted(set(Origin) - {Origin.UNSUBSCRIBE, Origin.ERASURE}))
def test_nothing_but_an_unsubscribe_or_an_erasure_yields(origin: Origin) -> None:
    entry = suppression(origin=origin, since=BEFORE)
    assert said(verdict(SUBSCRIBER, entry)) == f"refuse suppressed_{origin}"


def test_consent_lifts_only_the_unsubscribes_among_several() -> None:
    unsubscribe = suppression("all", since=BEFORE - DAY)
    complaint = suppression("purpose:offers", Origin.COMPLAINT, BEFORE)
    answer = verdict(SUBSCRIBER, unsubscribe, complaint)
    assert said(answer) == "refuse suppressed_complaint"
    again = suppression("purpose:offers", since=COLLECTED + DAY)
    assert said(verdict(SUBSCRIBER, unsubscribe, again)) == "refuse suppressed_unsubscribe"


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "preticked_box"},
        {"conditional": True},
        {"evidence": Evidence()},
        {"channels": frozenset({"sms"})},
        {"purpose": "news"},
        {"at": NOW + TICK},
    ],
)
def test_invalid_consent_lifts_nothing(changes: dict[str, Any]) -> None:
    contact = replace(PERSON, acts=(replace(AGREED, **changes),))
    assert verdict(contact, suppression(since=BEFORE)).reason is Reason.SUPPRESSED_UNSUBSCRIBE


def test_withdrawn_consent_lifts_nothing() -> None:
    contact = replace(SUBSCRIBER, acts=(AGREED, WITHDRAWN))
    assert said(verdict(contact, suppression(since=BEFORE))) == "refuse suppressed_unsubscribe"


def test_a_lifted_suppression_leaves_the_other_rules_in_force() -> None:
    contact = replace(SUBSCRIBER, tags=frozenset({"restricted"}))
    assert said(verdict(contact, suppression(since=BEFORE))) == "refuse contact_restricted"
    paused = replace(OFFERS, paused=True)
    answer = verdict(SUBSCRIBER, suppression(since=BEFORE), stream=paused)
    assert said(answer) == "defer stream_paused"


def test_consent_for_its_purpose_opens_a_transactional_stream_too() -> None:
    entry = suppression("all", since=BEFORE)
    assert said(verdict(SUBSCRIBER, entry, stream=NOTES)) == "allow transactional"
    assert said(verdict(SUBSCRIBER, entry, stream=RECEIPTS)) == "refuse suppressed_unsubscribe"


def test_a_suppression_that_did_not_apply_is_not_reported_as_lifted() -> None:
    other: Suppression = suppression("purpose:news", since=BEFORE)
    assert verdict(SUBSCRIBER, other).detail is None


ASKING = replace(RECEIPTS, confirmation=True)
ASKING_OFFERS = replace(ASKING, purpose="offers")


@pytest.mark.parametrize("origin", Origin)
@pytest.mark.parametrize(
    "scope", ["all", "marketing", "brand:shop", "brand:mill", "purpose:offers", "purpose:news"]
)
def test_who_is_asked_to_confirm(scope: str, origin: Origin) -> None:
    """Nobody who objected, and nobody whose yes would make no difference."""
    entry = suppression(scope, origin)
    anew = origin in (Origin.UNSUBSCRIBE, Origin.ERASURE) and scope != "all"
    objected = origin in (Origin.COMPLAINT, Origin.OBJECTION)
    shop = replace(ASKING_OFFERS, brand="shop")
    for stream, own in (
        (ASKING, {"brand:shop", "brand:mill"}),
        (ASKING_OFFERS, {"brand:shop", "brand:mill", "purpose:offers"}),
        (shop, {"brand:shop", "purpose:offers"}),
    ):
        covered = objected or scope in {"all", "marketing", *own}
        expected = "allow transactional" if anew or not covered else f"refuse suppressed_{origin}"
        assert said(verdict(None, entry, stream=stream)) == expected


@pytest.mark.parametrize("mark", [{"domain": "@example.org"}, {"read_as": "jeanne@example.net"}])
def test_consent_does_not_lift_an_order_that_is_not_the_persons_own(mark: dict[str, str]) -> None:
    entry = replace(suppression("marketing", Origin.UNSUBSCRIBE), **mark)
    assert said(verdict(None, entry, stream=ASKING)) == "refuse suppressed_unsubscribe"
