"""Canada: express consent, or implied by a purchase, an inquiry or a disclosed address."""

from msgspec.structs import replace

from smtpproxy.policy.model import Audience, Evidence, Origin, Provenance, Source
from tests.policy.rulebooks.people import (
    APPEAL,
    DAY,
    LONG_AGO,
    NOW,
    PERSON,
    RECEIPTS,
    SIX_MONTHS_AGO,
    SOUND,
    TICK,
    TWO_YEARS_AGO,
    Row,
    account,
    agreed,
    asked,
    at_work,
    bought,
    by,
    each,
    refused_since,
    seen,
    stopped,
    told,
)

GENERIC = replace(PERSON, audience=Audience.GENERIC)
BOTH = replace(
    PERSON,
    purchases=(*bought(at=TWO_YEARS_AGO - TICK).purchases, *asked(at=NOW - DAY).purchases),
)

TABLE = [
    Row("nobody known", None, "refuse no_record"),
    Row("transactional", None, "allow transactional", RECEIPTS),
    Row("restricted", replace(agreed(), tags=frozenset({"restricted"})),
        "refuse contact_restricted"),
    Row("generic by record", GENERIC, "refuse consent_missing"),
    Row("generic by name", None, "refuse no_record", address="info@example.org"),
    Row("supporter", PERSON, "refuse consent_missing", APPEAL),
    Row("consumer", PERSON, "refuse consent_missing"),
    Row("web", by(agreed(), Source.WEB), "refuse source_forbidden"),
    Row("rented, not disclosed", by(agreed(), Source.RENTED, Provenance("X")),
        "refuse source_undisclosed"),
    Row("partner, disclosed", by(agreed(), Source.PARTNER, SOUND), "allow consent"),
    Row("no source", by(bought(), None), "refuse source_unproven"),
    # express: until withdrawn
    Row("unticked box", agreed("unticked_box"), "allow consent"),
    Row("recorded call", agreed("verbal_recorded"), "allow consent"),
    Row("express of long ago", agreed(at=LONG_AGO), "allow consent"),
    Row("pre-ticked box", agreed("preticked_box"), "refuse consent_preticked"),
    Row("no wording", agreed(evidence=Evidence()), "refuse consent_unproven"),
    Row("conditional", agreed(conditional=True), "refuse consent_conditional"),
    Row("withdrawn", refused_since(), "refuse consent_withdrawn"),
    # implied by a purchase: two years, whatever the product, informed or not
    Row("customer at two years", bought(at=TWO_YEARS_AGO), "allow existing_customer"),
    Row("customer after two years", bought(at=TWO_YEARS_AGO - TICK), "refuse customer_stale"),
    Row("another product", bought("hats"), "allow existing_customer"),
    Row("customer not told", told(bought(), informed=False, free=False),
        "allow existing_customer"),
    # implied by an inquiry: six months
    Row("inquiry at six months", asked("hats", SIX_MONTHS_AGO), "allow existing_customer"),
    Row("inquiry after six months", asked(at=SIX_MONTHS_AGO - TICK), "refuse customer_stale"),
    Row("old purchase, new inquiry", BOTH, "allow existing_customer"),
    Row("an account is no sale", account(), "refuse consent_missing"),
    # implied by an address disclosed to the sender
    Row("professional of long ago", seen(at_work("retail"), LONG_AGO), "allow professional"),
    Row("not their business", at_work("mining"), "refuse topic_unrelated"),
    Row("professional by a partner", by(at_work("retail"), Source.PARTNER, SOUND),
        "refuse source_not_direct"),
    Row("professional not told", told(at_work("retail"), informed=False),
        "refuse notice_missing"),
    # suppressions
    Row("unsubscribed, agreed since", agreed(), "allow consent", suppression=stopped()),
    Row("unsubscribed, bought since", bought(), "refuse suppressed_unsubscribe",
        suppression=stopped()),
    Row("complained, agreed since", agreed(), "refuse suppressed_complaint",
        suppression=stopped(Origin.COMPLAINT)),
]  # fmt: skip


@each(TABLE)
def test_people(row: Row) -> None:
    assert row.answer("ca") == row.expected
