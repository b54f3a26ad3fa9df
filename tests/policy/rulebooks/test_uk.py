"""United Kingdom: corporate subscribers opt out, inquiries count, nothing expires."""

from datetime import UTC, datetime

from msgspec.structs import replace

from smtpproxy.policy.model import Audience, Dealing, Evidence, Origin, Provenance, Purchase, Source
from tests.policy.rulebooks.people import (
    APPEAL,
    LONG_AGO,
    NOW,
    OFFERS,
    PERSON,
    RECEIPTS,
    SOUND,
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

GENERIC = replace(PERSON, audience=Audience.GENERIC)
SINCE = datetime(2026, 2, 5, tzinfo=UTC)
SUPPORTER = seen(replace(PERSON, purchases=(Purchase("appeal", SINCE, Dealing.DONATION),)), SINCE)

TABLE = [
    Row("nobody known", None, "refuse no_record"),
    Row("transactional", None, "allow transactional", RECEIPTS),
    Row("generic by record", GENERIC, "allow generic_address"),
    Row("generic by name", None, "allow generic_address", address="enquiries@example.org"),
    Row("French role", None, "refuse no_record", address="accueil@example.org"),
    Row("initials, no role", None, "refuse no_record", address="rh@example.org"),
    Row("role at a provider", None, "refuse no_record", address="contact@btinternet.com"),
    Row("restricted", replace(agreed(), tags=frozenset({"restricted"})),
        "refuse contact_restricted"),
    Row("web", by(agreed(), Source.WEB), "refuse source_forbidden"),
    Row("rented, not disclosed", by(agreed(), Source.RENTED, Provenance("X")),
        "refuse source_undisclosed"),
    Row("partner, disclosed", by(agreed(), Source.PARTNER, SOUND), "allow consent"),
    Row("no source", by(agreed(), None), "refuse source_unproven"),
    # consent: while it lasts
    Row("unticked box", agreed("unticked_box"), "allow consent"),
    Row("consent of long ago", agreed(at=LONG_AGO), "allow consent"),
    Row("pre-ticked box", agreed("preticked_box"), "refuse consent_preticked"),
    Row("unknown method", agreed("pigeon"), "refuse consent_unproven"),
    Row("no wording", agreed(evidence=Evidence()), "refuse consent_unproven"),
    Row("conditional", agreed(conditional=True), "refuse consent_conditional"),
    Row("withdrawn", refused_since(), "refuse consent_withdrawn"),
    # a sale or negotiations for one
    Row("customer of long ago", bought(at=LONG_AGO), "allow existing_customer"),
    Row("negotiated", asked(at=LONG_AGO), "allow existing_customer"),
    Row("another product", bought("hats"), "refuse product_not_similar"),
    Row("negotiated another product", asked("hats"), "refuse product_not_similar"),
    Row("customer by a partner", by(bought(), Source.PARTNER, SOUND),
        "refuse source_not_direct"),
    Row("customer not told", told(bought(), informed=False), "refuse notice_missing"),
    Row("customer not free", told(bought(), free=False), "refuse optout_not_offered"),
    Row("an account is no sale", account(), "refuse consent_missing"),
    # charities: contacts collected since 5 February 2026
    Row("supporter of that day", SUPPORTER, "allow charity", APPEAL),
    Row("supporter of before", seen(PERSON, SINCE - TICK), "refuse consent_missing", APPEAL),
    Row("supporter of no known day", replace(PERSON, collected_at=None),
        "refuse consent_missing", APPEAL),
    Row("supporter by a partner", by(SUPPORTER, Source.PARTNER, SOUND),
        "refuse source_not_direct", APPEAL),
    Row("interested", replace(SUPPORTER, purchases=(Purchase("appeal", SINCE, Dealing.INQUIRY),)),
        "refuse product_not_similar", OFFERS),
    Row("who only left an address", seen(PERSON, SINCE), "refuse consent_missing", APPEAL),
    Row("who is to give next year", replace(SUPPORTER, purchases=(
        Purchase("appeal", NOW + TICK, Dealing.DONATION),)), "refuse consent_missing", APPEAL),
    Row("who bought a card", replace(SUPPORTER, purchases=(Purchase("card", SINCE),)),
        "refuse product_not_similar", APPEAL),
    Row("supporter not told", told(SUPPORTER, informed=False), "refuse notice_missing", APPEAL),
    Row("supporter not free", told(SUPPORTER, free=False), "refuse optout_not_offered", APPEAL),
    # corporate subscribers, whatever the topic, however long ago
    Row("professional", at_work("mining"), "allow professional"),
    Row("professional not told", told(at_work("retail"), informed=False),
        "refuse notice_missing"),
    Row("consumer", PERSON, "refuse consent_missing"),
    # suppressions
    Row("unsubscribed, agreed since", agreed(), "allow consent", suppression=stopped()),
    Row("complained, agreed since", agreed(), "refuse suppressed_complaint",
        suppression=stopped(Origin.COMPLAINT)),
    Row("unsubscribed customer", bought(), "refuse suppressed_unsubscribe",
        suppression=stopped()),
]  # fmt: skip


@each(TABLE)
def test_people(row: Row) -> None:
    assert row.answer("uk") == row.expected
