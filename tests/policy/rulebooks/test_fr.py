"""France, the default: the tables of the other rulebooks say what differs from it."""

from msgspec.structs import replace

from smtpproxy.policy.model import Audience, Evidence, Origin, Provenance, Source
from tests.policy.rulebooks.people import (
    APPEAL,
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
    seen,
    stopped,
    told,
)

PAST = THREE_YEARS_AGO - TICK
GENERIC = replace(PERSON, audience=Audience.GENERIC)

TABLE = [
    Row("nobody known", None, "refuse no_record"),
    Row("transactional", None, "allow transactional", RECEIPTS),
    Row("generic by record", GENERIC, "allow generic_address"),
    Row("generic by name", None, "allow generic_address", address="contact@example.org"),
    Row("French role", None, "allow generic_address", address="accueil@example.org"),
    Row("role at a provider", None, "refuse no_record", address="contact@orange.fr"),
    Row("restricted", replace(agreed(), tags=frozenset({"restricted"})),
        "refuse contact_restricted"),
    # sources
    Row("web", by(agreed(), Source.WEB), "refuse source_forbidden"),
    Row("harvested", by(agreed(), Source.HARVESTED), "refuse source_forbidden"),
    Row("guessed", by(agreed(), Source.GUESSED), "refuse source_forbidden"),
    Row("purchased, disclosed", by(agreed(), Source.PURCHASED, SOUND), "allow consent"),
    Row("rented, not disclosed", by(agreed(), Source.RENTED, Provenance("X")),
        "refuse source_undisclosed"),
    Row("exchanged, no supplier", by(agreed(), Source.EXCHANGED), "refuse source_undisclosed"),
    Row("partner, disclosed", by(agreed(), Source.PARTNER, SOUND), "allow consent"),
    Row("unknown source", by(agreed(), Source.UNKNOWN), "refuse source_unproven"),
    Row("no source", by(agreed(), None), "refuse source_unproven"),
    # consent
    Row("unticked box", agreed("unticked_box"), "allow consent"),
    Row("double opt-in", agreed("double_opt_in"), "allow consent"),
    Row("signed form", agreed("signed_form"), "allow consent"),
    Row("recorded call", agreed("verbal_recorded"), "allow consent"),
    Row("pre-ticked box", agreed("preticked_box"), "refuse consent_preticked"),
    Row("implied", agreed("implied"), "refuse consent_preticked"),
    Row("silence", agreed("silence"), "refuse consent_preticked"),
    Row("unknown method", agreed("pigeon"), "refuse consent_unproven"),
    Row("wording alone", agreed(evidence=Evidence("form v3")), "allow consent"),
    Row("no wording", agreed(evidence=Evidence(ip="192.0.2.7")), "refuse consent_unproven"),
    Row("conditional", agreed(conditional=True), "refuse consent_conditional"),
    Row("withdrawn", refused_since(), "refuse consent_withdrawn"),
    Row("consent at three years", seen(agreed(at=THREE_YEARS_AGO), THREE_YEARS_AGO),
        "allow consent"),
    Row("consent after three years", seen(agreed(at=PAST), PAST), "refuse consent_expired"),
    # customers
    Row("customer", bought(), "allow existing_customer"),
    Row("customer at three years", bought(at=THREE_YEARS_AGO), "allow existing_customer"),
    Row("customer after three years", bought(at=PAST), "refuse customer_stale"),
    Row("another product", bought("hats"), "refuse product_not_similar"),
    Row("customer by a partner", by(bought(), Source.PARTNER, SOUND),
        "refuse source_not_direct"),
    Row("customer not told", told(bought(), informed=False), "refuse notice_missing"),
    Row("customer not free", told(bought(), free=False), "refuse optout_not_offered"),
    Row("an inquiry is no sale", asked(), "refuse consent_missing"),
    Row("an account is no sale", account(), "refuse consent_missing"),
    # charities
    Row("supporter at three years", seen(PERSON, THREE_YEARS_AGO), "allow charity", APPEAL),
    Row("supporter after three years", seen(PERSON, PAST), "refuse inactive", APPEAL),
    Row("supporter not told", told(PERSON, informed=False), "refuse notice_missing", APPEAL),
    Row("supporter not free", told(PERSON, free=False), "refuse optout_not_offered", APPEAL),
    # professionals
    Row("professional at three years", seen(at_work("retail"), THREE_YEARS_AGO),
        "allow professional"),
    Row("professional after three years", seen(at_work("retail"), PAST), "refuse inactive"),
    Row("not their business", at_work("mining"), "refuse topic_unrelated"),
    Row("professional not told", told(at_work("retail"), informed=False),
        "refuse notice_missing"),
    Row("professional not free", told(at_work("retail"), free=False),
        "refuse optout_not_offered"),
    Row("consumer", PERSON, "refuse consent_missing"),
    # suppressions
    Row("unsubscribed, agreed since", agreed(), "allow consent", suppression=stopped()),
    Row("unsubscribed since", agreed(), "refuse suppressed_unsubscribe",
        suppression=stopped(at=NOW)),
    Row("complained, agreed since", agreed(), "refuse suppressed_complaint",
        suppression=stopped(Origin.COMPLAINT)),
    Row("objected, agreed since", agreed(), "refuse suppressed_objection",
        suppression=stopped(Origin.OBJECTION)),
]  # fmt: skip


@each(TABLE)
def test_people(row: Row) -> None:
    assert row.answer("fr") == row.expected
