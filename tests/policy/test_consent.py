"""Section 5 of the design: when consent is valid, and which failure is named if not."""

from typing import Any

import pytest
from msgspec.structs import replace

from smtpproxy.policy.model import ConsentAct, Evidence, Purchase
from tests.policy.cases import (
    AGREED,
    COLLECTED,
    DAY,
    NOW,
    PERSON,
    SUBSCRIBER,
    THREE_YEARS_AGO,
    TICK,
    WITHDRAWN,
    said,
    verdict,
)

LATER = COLLECTED + 2 * DAY

SINGLE = [
    ({}, "allow consent"),
    ({"method": "double_opt_in"}, "allow consent"),
    ({"method": "signed_form"}, "allow consent"),
    ({"method": "verbal_recorded"}, "allow consent"),
    ({"method": "preticked_box"}, "refuse consent_preticked"),
    ({"method": "implied"}, "refuse consent_preticked"),
    ({"method": "silence"}, "refuse consent_preticked"),
    ({"method": "carrier_pigeon"}, "refuse consent_unproven"),
    ({"method": None}, "refuse consent_unproven"),
    ({"conditional": True}, "refuse consent_conditional"),
    ({"evidence": Evidence()}, "refuse consent_unproven"),
    ({"evidence": Evidence(wording="")}, "refuse consent_unproven"),
    ({"evidence": Evidence(wording=" \t")}, "refuse consent_unproven"),
    ({"evidence": Evidence(wording="\u200b\u00a0\u3164")}, "refuse consent_unproven"),
    ({"evidence": Evidence(wording="form v3", ip=None)}, "allow consent"),
    (
        {"evidence": Evidence(wording="J’accepte vos offres par e-mail, à tout moment")},
        "allow consent",
    ),
    ({"evidence": Evidence(wording="同意")}, "allow consent"),
    ({"at": NOW}, "allow consent"),
    ({"at": NOW + TICK}, "refuse consent_unproven"),
    ({"channels": frozenset({"sms", "phone"})}, "refuse consent_channel"),
    ({"channels": frozenset()}, "refuse consent_channel"),
    ({"channels": frozenset({"sms", "email"})}, "allow consent"),
    ({"purpose": "news"}, "refuse consent_missing"),
    ({"purpose": "Offers"}, "refuse consent_missing"),
]


@pytest.mark.parametrize(("changes", "expected"), SINGLE)
def test_one_act_of_consent(changes: dict[str, Any], expected: str) -> None:
    contact = replace(PERSON, acts=(replace(AGREED, **changes),))
    assert said(verdict(contact)) == expected


def test_failures_are_named_in_their_order() -> None:
    """Start with everything wrong; each correction reveals the next failure."""
    past = THREE_YEARS_AGO - DAY
    act = ConsentAct("offers", past, method="silence", conditional=True, channels=frozenset())
    contact = replace(PERSON, collected_at=past, informed_at=past)
    withdrawn = replace(contact, acts=(act, replace(WITHDRAWN, at=past)))
    assert said(verdict(withdrawn)) == "refuse consent_withdrawn"
    fixes: list[tuple[str, dict[str, Any]]] = [
        ("refuse consent_preticked", {"method": "signed_form"}),
        ("refuse consent_conditional", {"conditional": False}),
        ("refuse consent_unproven", {"evidence": Evidence("form v3")}),
        ("refuse consent_channel", {"channels": frozenset({"email"})}),
    ]
    for expected, fix in fixes:
        assert said(verdict(replace(contact, acts=(act,)))) == expected
        act = replace(act, **fix)
    assert said(verdict(replace(contact, acts=(act,)))) == "refuse consent_expired"
    active = replace(contact, acts=(act,), last_activity_at=NOW)
    assert said(verdict(active)) == "allow consent"


HISTORIES = [
    ((AGREED, WITHDRAWN), "refuse consent_withdrawn"),
    ((WITHDRAWN, AGREED), "refuse consent_withdrawn"),  # only the times count
    ((AGREED, WITHDRAWN, replace(AGREED, at=LATER)), "allow consent"),
    ((AGREED, replace(AGREED, at=LATER, method="silence")), "refuse consent_preticked"),
    ((replace(AGREED, method="silence"), replace(AGREED, at=LATER)), "allow consent"),
    # a withdrawal wins a tie, whichever comes first
    ((AGREED, replace(WITHDRAWN, at=AGREED.at)), "refuse consent_withdrawn"),
    ((replace(WITHDRAWN, at=AGREED.at), AGREED), "refuse consent_withdrawn"),
    # of two simultaneous agreements, the stricter counts
    ((replace(AGREED, method="silence"), AGREED), "refuse consent_preticked"),
    ((AGREED, replace(AGREED, method="silence")), "refuse consent_preticked"),
    # acts in the future never help the sender
    ((AGREED, replace(AGREED, at=NOW + DAY)), "refuse consent_unproven"),
    ((WITHDRAWN, replace(AGREED, at=NOW + DAY)), "refuse consent_withdrawn"),
    ((AGREED, replace(WITHDRAWN, at=NOW + DAY)), "refuse consent_withdrawn"),
    (
        (replace(WITHDRAWN, at=NOW + DAY), replace(AGREED, at=NOW + 2 * DAY)),
        "refuse consent_withdrawn",
    ),
    # other purposes need their own consent
    ((AGREED, replace(WITHDRAWN, purpose="news")), "allow consent"),
    ((replace(AGREED, purpose="news"), WITHDRAWN), "refuse consent_withdrawn"),
    # a refusal of everything is of this purpose too, but nobody can agree to everything
    ((AGREED, replace(WITHDRAWN, purpose="*")), "refuse consent_withdrawn"),
    ((replace(WITHDRAWN, purpose="*"), replace(AGREED, at=LATER)), "allow consent"),
    (
        (replace(WITHDRAWN, purpose="*"), replace(AGREED, at=LATER, purpose="news")),
        "refuse consent_withdrawn",
    ),
    ((replace(AGREED, purpose="*"),), "refuse consent_missing"),
]


@pytest.mark.parametrize(("acts", "expected"), HISTORIES)
def test_the_newest_act_for_the_purpose_counts(acts: tuple[ConsentAct, ...], expected: str) -> None:
    assert said(verdict(replace(PERSON, acts=acts))) == expected


def test_a_future_agreement_hides_no_withdrawal_from_another_basis() -> None:
    contact = replace(
        PERSON,
        purchases=(Purchase("shoes", NOW),),
        acts=(WITHDRAWN, replace(AGREED, at=NOW + DAY)),
    )
    assert said(verdict(contact)) == "refuse consent_withdrawn"


OLD = THREE_YEARS_AGO - DAY
ACTIVITIES = [
    ({}, "refuse consent_expired"),
    ({"last_activity_at": THREE_YEARS_AGO}, "allow consent"),
    ({"last_activity_at": THREE_YEARS_AGO - TICK}, "refuse consent_expired"),
    ({"last_activity_at": NOW + TICK}, "refuse consent_expired"),
    ({"collected_at": THREE_YEARS_AGO}, "allow consent"),
    ({"purchases": (Purchase("hats", THREE_YEARS_AGO),)}, "allow consent"),
    ({"purchases": (Purchase("hats", NOW + TICK),)}, "refuse consent_expired"),
    # consent to something else is a sign of life; silence and a withdrawal are not
    ({"acts": (replace(AGREED, purpose="news", at=NOW),)}, "allow consent"),
    (
        {"acts": (replace(AGREED, purpose="news", at=NOW, method="silence"),)},
        "refuse consent_expired",
    ),
    ({"acts": (replace(WITHDRAWN, purpose="news", at=NOW),)}, "refuse consent_expired"),
    ({"informed_at": NOW}, "refuse consent_expired"),
]


@pytest.mark.parametrize(("changes", "expected"), ACTIVITIES)
def test_consent_lasts_as_long_as_there_are_signs_of_life(
    changes: dict[str, Any], expected: str
) -> None:
    act = replace(AGREED, at=OLD)
    contact = replace(SUBSCRIBER, collected_at=OLD, informed_at=OLD, acts=(act,))
    contact = replace(contact, **changes)
    if act not in contact.acts:
        contact = replace(contact, acts=(act, *contact.acts))
    assert said(verdict(contact)) == expected


def test_a_failed_consent_is_named_before_other_failures() -> None:
    contact = replace(
        PERSON, acts=(replace(AGREED, conditional=True),), purchases=(Purchase("hats", NOW),)
    )
    assert said(verdict(contact)) == "refuse consent_conditional"
