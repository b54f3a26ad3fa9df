"""The strictest reading in the European Union is at least as strict as any other."""

from random import Random

import pytest
from msgspec.structs import replace

from smtpproxy.policy.decide import judge
from smtpproxy.policy.model import (
    Action,
    Audience,
    Evidence,
    Link,
    Origin,
    Provenance,
    Source,
    Transaction,
)
from smtpproxy.policy.rulebooks import builtin
from tests.kit.soak import times
from tests.policy import cases
from tests.policy.rulebooks.people import (
    APPEAL,
    LONG_AGO,
    NOW,
    PERSON,
    RECEIPTS,
    SOUND,
    THREE_YEARS_AGO,
    TICK,
    Row,
    account,
    agreed,
    asked,
    at_work,
    bought,
    by,
    each,
    refused_since,
    stopped,
    told,
)
from tests.policy.strategies import random_case

PAST = THREE_YEARS_AGO - TICK
GENERIC = replace(PERSON, audience=Audience.GENERIC)
TWO_HANDS = Provenance(chain=(Link("Collector", True), Link("Broker", True)))
OLD_AGREEMENT = agreed(at=PAST)

TABLE = [
    Row("nobody known", None, "refuse no_record"),
    Row("transactional", None, "allow transactional", RECEIPTS),
    Row("restricted", replace(agreed(), tags=frozenset({"restricted"})),
        "refuse contact_restricted"),
    Row("generic by record", GENERIC, "refuse consent_missing"),
    Row("generic by name", None, "refuse no_record", address="info@example.org"),
    Row("professional", at_work("retail"), "refuse consent_missing"),
    Row("supporter", PERSON, "refuse consent_missing", APPEAL),
    # sources: direct, or one named partner
    Row("web", by(agreed(), Source.WEB), "refuse source_forbidden"),
    Row("purchased", by(agreed(), Source.PURCHASED, SOUND), "refuse source_forbidden"),
    Row("rented", by(agreed(), Source.RENTED, SOUND), "refuse source_forbidden"),
    Row("exchanged", by(agreed(), Source.EXCHANGED, SOUND), "refuse source_forbidden"),
    Row("partner, disclosed", by(agreed(), Source.PARTNER, SOUND), "allow consent"),
    Row("partner, not disclosed", by(agreed(), Source.PARTNER, Provenance("X")),
        "refuse source_undisclosed"),
    Row("through two hands", by(agreed(), Source.PARTNER, TWO_HANDS),
        "refuse source_undisclosed"),
    Row("no source", by(agreed(), None), "refuse source_unproven"),
    # consent
    Row("double opt-in", agreed("double_opt_in"), "allow consent"),
    Row("signed form", agreed("signed_form"), "allow consent"),
    Row("recorded call", agreed("verbal_recorded"), "refuse consent_unproven"),
    Row("unticked box", agreed("unticked_box"), "refuse consent_unproven"),
    Row("pre-ticked box", agreed("preticked_box"), "refuse consent_preticked"),
    Row("no form", agreed(evidence=Evidence("form v3")), "refuse consent_unproven"),
    Row("no wording", agreed(evidence=Evidence(form="page")), "refuse consent_unproven"),
    Row("conditional", agreed(conditional=True), "refuse consent_conditional"),
    Row("withdrawn", refused_since(), "refuse consent_withdrawn"),
    Row("consent at three years", agreed(at=THREE_YEARS_AGO), "allow consent"),
    Row("consent after three years", OLD_AGREEMENT, "refuse consent_expired"),
    Row("collected again since", replace(OLD_AGREEMENT, collected_at=NOW),
        "refuse consent_expired"),
    Row("clicked since", replace(OLD_AGREEMENT, last_activity_at=NOW), "allow consent"),
    # customers
    Row("customer at three years", bought(at=THREE_YEARS_AGO), "allow existing_customer"),
    Row("customer after three years", bought(at=PAST), "refuse customer_stale"),
    Row("another product", bought("hats"), "refuse product_not_similar"),
    Row("customer by a partner", by(bought(), Source.PARTNER, SOUND),
        "refuse source_not_direct"),
    Row("customer not told", told(bought(), informed=False), "refuse notice_missing"),
    Row("customer not free", told(bought(), free=False), "refuse optout_not_offered"),
    Row("an inquiry is no sale", asked(), "refuse consent_missing"),
    Row("an account is no sale", account(), "refuse consent_missing"),
    # only a person lifts a suppression
    Row("unsubscribed, agreed since", agreed(), "refuse suppressed_unsubscribe",
        suppression=stopped(at=LONG_AGO)),
    Row("complained, agreed since", agreed(), "refuse suppressed_complaint",
        suppression=stopped(Origin.COMPLAINT)),
]  # fmt: skip


@each(TABLE)
def test_people(row: Row) -> None:
    assert row.answer("eu-strict") == row.expected


@pytest.mark.soak
def test_whatever_eu_strict_allows_the_others_allow() -> None:
    """As its file claims; checked on random people, some of whom must pass."""
    here, there = builtin("eu-strict"), [builtin(name) for name in ("fr", "de")]
    random = Random(20261129)
    passed = set()
    for _ in range(times(6_000, 100_000)):
        address, stream, facts = random_case(random)
        contact = facts.contact
        if contact is not None:  # only methods and proofs that can pass at all
            acts = tuple(
                replace(act, method="signed_form", evidence=Evidence("v3", form="page"))
                if act.method == "unticked_box" and act.evidence.wording
                else act
                for act in contact.acts
            )
            facts = replace(facts, contact=replace(contact, acts=acts))
        asked_here = Transaction((replace(stream, paused=False),), (address,))
        (verdict,) = judge(asked_here, {address: facts}, here, cases.NOW).recipients
        if verdict.action is Action.ALLOW:
            for book in there:
                (other,) = judge(asked_here, {address: facts}, book, cases.NOW).recipients
                assert other.action is Action.ALLOW, (book, address, stream, facts)
            passed.add(verdict.basis)
    assert passed == {"consent", "existing_customer", "transactional"}
