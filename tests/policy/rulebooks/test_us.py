"""United States: lawful until the person objects."""

from msgspec.structs import replace

from smtpproxy.policy.model import Audience, Contact, Evidence, Origin, Source
from tests.policy.rulebooks.people import (
    APPEAL,
    LONG_AGO,
    NOW,
    PERSON,
    RECEIPTS,
    Row,
    agreed,
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
    Row("nobody known", None, "allow opt_out"),
    Row("nobody known, at a provider", None, "allow opt_out", address="contact@gmail.com"),
    Row("transactional", None, "allow transactional", RECEIPTS),
    Row("no more than the address", Contact("jeanne@example.org"), "allow opt_out"),
    Row("consumer", PERSON, "allow opt_out"),
    Row("not told", told(PERSON, informed=False, free=False), "allow opt_out"),
    Row("professional", at_work("mining"), "allow opt_out"),
    Row("generic", GENERIC, "allow opt_out"),
    Row("supporter", PERSON, "allow opt_out", APPEAL),
    Row("customer of long ago", bought("hats", LONG_AGO), "allow opt_out"),
    # consent, if there is any, is recorded as the basis
    Row("agreed", agreed("unticked_box"), "allow consent"),
    Row("agreed long ago", agreed(at=LONG_AGO), "allow consent"),
    Row("agreed as a condition", agreed(conditional=True), "allow consent"),
    Row("pre-ticked box", agreed("preticked_box"), "allow opt_out"),
    Row("no wording", agreed(evidence=Evidence()), "allow opt_out"),
    # sources: harvesting and dictionary attacks only
    Row("harvested", by(PERSON, Source.HARVESTED), "refuse source_forbidden"),
    Row("guessed", by(agreed(), Source.GUESSED), "refuse source_forbidden"),
    Row("web", by(PERSON, Source.WEB), "allow opt_out"),
    Row("purchased", by(PERSON, Source.PURCHASED), "allow opt_out"),
    Row("rented", by(PERSON, Source.RENTED), "allow opt_out"),
    Row("exchanged", by(PERSON, Source.EXCHANGED), "allow opt_out"),
    Row("partner", by(PERSON, Source.PARTNER), "allow opt_out"),
    Row("unknown", by(PERSON, Source.UNKNOWN), "allow opt_out"),
    Row("no source", by(PERSON, None), "allow opt_out"),
    Row("restricted", replace(PERSON, tags=frozenset({"restricted"})),
        "refuse contact_restricted"),
    # objections
    Row("withdrawn", refused_since(), "refuse consent_withdrawn"),
    Row("unsubscribed", None, "refuse suppressed_unsubscribe", suppression=stopped()),
    Row("unsubscribed, agreed since", agreed("unticked_box"), "allow consent",
        suppression=stopped()),
    Row("unsubscribed since", agreed(), "refuse suppressed_unsubscribe",
        suppression=stopped(at=NOW)),
    Row("unsubscribed, bought since", bought(), "refuse suppressed_unsubscribe",
        suppression=stopped()),
    Row("complained", PERSON, "refuse suppressed_complaint",
        suppression=stopped(Origin.COMPLAINT)),
    Row("bounced", PERSON, "refuse suppressed_bounce", suppression=stopped(Origin.BOUNCE)),
]  # fmt: skip


@each(TABLE)
def test_people(row: Row) -> None:
    assert row.answer("us") == row.expected
