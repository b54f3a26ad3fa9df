"""Germany: express, provable consent, even from businesses; customers after a sale."""

from msgspec.structs import replace

from smtpproxy.policy.model import Audience, Evidence, Origin, Provenance, Source
from tests.policy.rulebooks.people import (
    APPEAL,
    LONG_AGO,
    PERSON,
    RECEIPTS,
    SOUND,
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

GENERIC = replace(PERSON, audience=Audience.GENERIC)

TABLE = [
    Row("nobody known", None, "refuse no_record"),
    Row("transactional", None, "allow transactional", RECEIPTS),
    Row("restricted", replace(agreed(), tags=frozenset({"restricted"})),
        "refuse contact_restricted"),
    # businesses, generic addresses and charities need consent like everybody
    Row("generic by record", GENERIC, "refuse consent_missing"),
    Row("generic by record, agreed", replace(agreed(), audience=Audience.GENERIC),
        "allow consent"),
    Row("generic by name", None, "refuse no_record", address="info@example.org"),
    Row("professional", at_work("retail"), "refuse consent_missing"),
    Row("professional, agreed", replace(agreed(), audience=Audience.PROFESSIONAL),
        "allow consent"),
    Row("supporter", PERSON, "refuse consent_missing", APPEAL),
    Row("web", by(agreed(), Source.WEB), "refuse source_forbidden"),
    Row("rented, not disclosed", by(agreed(), Source.RENTED, Provenance("X")),
        "refuse source_undisclosed"),
    Row("partner, disclosed", by(agreed(), Source.PARTNER, SOUND), "allow consent"),
    Row("no source", by(agreed(), None), "refuse source_unproven"),
    # a ticked box proves nothing about the mailbox's owner
    Row("double opt-in", agreed("double_opt_in"), "allow consent"),
    Row("signed form", agreed("signed_form"), "allow consent"),
    Row("recorded call", agreed("verbal_recorded"), "allow consent"),
    Row("unticked box", agreed("unticked_box"), "refuse consent_unproven"),
    Row("pre-ticked box", agreed("preticked_box"), "refuse consent_preticked"),
    Row("no wording", agreed(evidence=Evidence()), "refuse consent_unproven"),
    Row("conditional", agreed(conditional=True), "refuse consent_conditional"),
    Row("withdrawn", refused_since(), "refuse consent_withdrawn"),
    Row("consent of long ago", agreed(at=LONG_AGO), "allow consent"),
    # § 7(3)
    Row("customer of long ago", bought(at=LONG_AGO), "allow existing_customer"),
    Row("negotiated only", asked(), "refuse consent_missing"),
    Row("an account is no sale", account(), "refuse consent_missing"),
    Row("another product", bought("hats"), "refuse product_not_similar"),
    Row("customer by a partner", by(bought(), Source.PARTNER, SOUND),
        "refuse source_not_direct"),
    Row("customer not told", told(bought(), informed=False), "refuse notice_missing"),
    Row("customer not free", told(bought(), free=False), "refuse optout_not_offered"),
    # only consent proven by mail or by hand lifts an unsubscribe
    Row("unsubscribed, opted in twice since", agreed("double_opt_in"), "allow consent",
        suppression=stopped()),
    Row("unsubscribed, said yes since", agreed("verbal_recorded"),
        "refuse suppressed_unsubscribe", suppression=stopped()),
    Row("complained, agreed since", agreed(), "refuse suppressed_complaint",
        suppression=stopped(Origin.COMPLAINT)),
]  # fmt: skip


@each(TABLE)
def test_people(row: Row) -> None:
    assert row.answer("de") == row.expected
