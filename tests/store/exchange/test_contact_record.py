"""Contacts as NDJSON: what is read, how faults are worded, what an export holds."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from smtpproxy.policy.model import (
    Audience,
    ConsentAct,
    Contact,
    Dealing,
    Evidence,
    Link,
    Provenance,
    Purchase,
    Source,
)
from smtpproxy.store.exchange.contact_ndjson import written_contact
from smtpproxy.store.exchange.contact_record import read_contact
from smtpproxy.store.merge import merge
from smtpproxy.store.records import PROFILE_FIELDS, ContactUpdate
from tests.store.contract import AGREEMENT, ANNA, T0, WHOLE
from tests.store.exchange.importing import FILE_TIME

EXAMPLE = """{"address":"jeanne@example.org","audience":"consumer","source":"direct",
"collected_at":"2025-03-01T10:00:00Z","informed_at":"2025-03-01T10:00:00Z",
"optout_offered":true,"last_activity_at":"2026-02-11T08:00:00Z","occupations":["finance"],
"tags":[],"language":"fr","provenance":{"supplier":"X","sender_disclosed":true},
"purchases":[{"product":"shoes","at":"2026-01-05T09:00:00Z"}],
"consents":[{"purpose":"offers","method":"unticked_box","given_at":"2025-03-01T10:00:00Z",
"withdrawn_at":null,"conditional":false,"channels":["email"],
"evidence":{"wording":"form v3","ip":"192.0.2.7"}}]}""".replace("\n", "")
COLLECTED = datetime(2025, 3, 1, 10, 0, tzinfo=UTC)


def read(**fields: Any) -> ContactUpdate:
    return read_contact(json.dumps({"address": ANNA, **fields}).encode(), FILE_TIME)


def test_invalid_utf_8_is_reported_with_its_position() -> None:
    with pytest.raises(ValueError, match=r"not UTF-8 \(octet 0xe9 at place 14\): save the file as"):
        read_contact(b'{"address":"l\xe9a@people.example"}', FILE_TIME)


def test_every_field_of_the_documented_example_is_read() -> None:
    assert read_contact(EXAMPLE.encode(), FILE_TIME) == ContactUpdate(
        Contact(
            "jeanne@example.org",
            Audience.CONSUMER,
            Source.DIRECT,
            COLLECTED,
            COLLECTED,
            True,
            datetime(2026, 2, 11, 8, 0, tzinfo=UTC),
            frozenset({"finance"}),
            frozenset(),
            Provenance("X", sender_disclosed=True),
            (Purchase("shoes", datetime(2026, 1, 5, 9, 0, tzinfo=UTC)),),
            (
                ConsentAct(
                    "offers",
                    COLLECTED,
                    method="unticked_box",
                    conditional=False,
                    evidence=Evidence("form v3", "192.0.2.7"),
                ),
            ),
            language="fr",
        ),
        PROFILE_FIELDS,
        FILE_TIME,
    )


def test_an_absent_field_gives_nothing() -> None:
    update = read(tags=["vip"], source=None)
    assert update.given == {"tags", "source"}
    assert update.contact == Contact(ANNA, tags=frozenset({"vip"}))


def test_the_address_is_made_canonical() -> None:
    line = json.dumps({"address": 'Anna."B"@EXAMPLE.org'.replace('"', "")})
    assert read_contact(line.encode(), FILE_TIME).contact.address == "anna.b@example.org"


def test_times_are_read_in_any_zone() -> None:
    found = read(collected_at="2025-03-01T12:00:00.5+02:00").contact.collected_at
    assert found == datetime(2025, 3, 1, 10, 0, 0, 500000, tzinfo=UTC)


def test_a_withdrawal_is_an_act() -> None:
    consent = {"purpose": "offers", "method": "signed_form", "given_at": "2025-03-01T10:00:00Z"}
    update = read(consents=[{**consent, "withdrawn_at": "2025-04-01T10:00:00Z"}])
    assert [(act.at.month, act.withdrawal, act.method) for act in update.contact.acts] == [
        (3, False, "signed_form"),
        (4, True, None),
    ]


def test_a_withdrawal_needs_no_agreement() -> None:
    update = read(consents=[{"purpose": "offers", "withdrawn_at": "2025-04-01T10:00:00Z"}])
    assert [act.withdrawal for act in update.contact.acts] == [True]


def test_a_double_opt_in_is_two_consents() -> None:
    request = {"purpose": "offers", "method": "double_opt_in", "given_at": "2025-03-01T10:00:00Z"}
    confirmation = {**request, "given_at": "2025-03-01T10:05:00Z"}
    update = read(consents=[{**request, "pending": True}, confirmation])
    assert [(act.at.minute, act.pending) for act in update.contact.acts] == [(0, True), (5, False)]


def test_all_evidence_of_an_act_is_read() -> None:
    evidence = {"version": "3", "form": "/join", "document_hash": "AB" * 32}
    consent = {"purpose": "offers", "given_at": "2025-03-01T10:00:00Z", "evidence": evidence}
    (act,) = read(consents=[consent]).contact.acts
    assert act.evidence == Evidence(version="3", form="/join", document_hash="ab" * 32)


def test_a_provenance_chain_and_an_inquiry_are_read() -> None:
    hands = [
        {"supplier": "Collector", "sender_disclosed": True, "at": "2025-03-01T12:00:00+02:00"},
        {"supplier": "Broker"},
    ]
    asked = {"product": "shoes", "at": "2025-03-01T10:00:00Z", "kind": "inquiry"}
    told = read(provenance={"chain": hands}, purchases=[asked]).contact
    assert told.provenance == Provenance(chain=(Link("Collector", True, COLLECTED), Link("Broker")))
    assert told.purchases == (Purchase("shoes", COLLECTED, Dealing.INQUIRY),)


def test_a_file_may_give_the_dates_of_first_mail_and_of_an_objection() -> None:
    for name in ("first_contacted_at", "profiling_objected_at"):
        update = read(**{name: "2025-03-01T10:00:00Z"})
        assert (getattr(update.contact, name), update.given) == (COLLECTED, frozenset())


def test_languages_are_normalised() -> None:
    for written in ("de-AT", "DE_at"):
        update = read(language=written)
        assert (update.contact.language, update.given) == ("de-at", {"language"})


def test_the_newest_frequency_counts_and_the_strictest_of_one_moment() -> None:
    def wish(frequency: str, at: str, **more: str) -> dict[str, str]:
        return {"purpose": "offers", "frequency": frequency, "at": at, **more}

    early, late = "2025-03-01T10:00:00Z", "2025-04-01T10:00:00Z"
    told = read(preferences=[wish("monthly", early), wish("all", late), wish("weekly", late)])
    known = merge(None, told).known
    older = read(preferences=[wish("monthly", early), wish("monthly", early, brand="boots")])
    preferences = merge(known, older).known.contact.preferences
    assert [(one.brand, one.frequency) for one in preferences] == [
        ("boots", "monthly"),
        ("default", "weekly"),
    ]


TIME = "a time with its zone, like 2025-03-01T10:00:00Z"


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"address": 1}, ["address: is not text"]),
        ({"address": "anna"}, ["address", "no @"]),
        ({"adress": "x"}, ["unknown field `adress`", "known: address, audience"]),
        ({"audience": "robots"}, ["audience", "'robots'", "consumer, professional, generic"]),
        ({"source": "bought"}, ["source", "'bought'", "purchased"]),
        ({"collected_at": "yesterday"}, ["collected_at", TIME]),
        ({"collected_at": "2025-03-01T10:00:00"}, ["collected_at: has no time zone", TIME]),
        ({"collected_at": 1740823200}, ["collected_at", TIME]),
        ({"collected_at": "0001-01-01T00:00:00+14:00"}, ["beyond the years"]),
        ({"optout_offered": "yes"}, ["optout_offered", "true or false"]),
        ({"optout_offered": 1}, ["optout_offered", "true or false"]),
        ({"tags": "vip"}, ["tags", "a list of words"]),
        ({"tags": [""]}, ["tags[0]: is empty", "a list of words"]),
        ({"tags": ["a\nb"]}, ["tags[0]: contains a line end or another control character"]),
        ({"tags": ["x" * 201]}, ["tags[0]: has more than 200 characters"]),
        ({"provenance": 7}, ["provenance: is not an object"]),
        ({"provenance": {"seller": "X"}}, ["provenance", "`seller`", "supplier"]),
        ({"purchases": [{"product": "shoes"}]}, ["purchases[0]", "`at`"]),
        ({"purchases": [{"product": "x", "at": "2025"}]}, ["purchases[0].at", TIME]),
        (
            {"purchases": [{"product": "x", "at": "2025-03-01T10:00:00Z", "kind": "gift"}]},
            ["purchases[0].kind", "'gift'", "sale, inquiry, account, donation"],
        ),
        ({"provenance": {"chain": "X"}}, ["provenance.chain: is not a list", "supplier"]),
        (
            {"consents": [{"purpose": "x", "evidence": {"document_hash": "12"}}]},
            ["document_hash: is not a SHA-256", "64 hexadecimal digits"],
        ),
        ({"first_contacted_at": "2025"}, ["first_contacted_at", TIME]),
        ({"language": "French, please"}, ["language: 'French, please'", '"de-AT"']),
        ({"preferences": [{"purpose": "x", "frequency": "daily"}]}, ["'daily'", "all, weekly"]),
        ({"consents": [{"method": "x"}]}, ["consents[0]", "`purpose`"]),
        ({"consents": [{"purpose": "offers"}]}, ["offers", "given_at", "withdrawn_at"]),
        ({"consents": [{"purpose": "a\nb", "given_at": "x"}]}, ["consents[0].purpose"]),
        (
            {"consents": [{"purpose": "offers", "evidence": {"browser": "x"}}]},
            ["consents[0].evidence", "`browser`", "wording, ip"],
        ),
        (
            {
                "consents": [
                    {
                        "purpose": "offers",
                        "given_at": "2025-03-01T10:00:00Z",
                        "withdrawn_at": "2025-02-01T10:00:00Z",
                    }
                ]
            },
            ["offers", "withdrawn_at before its given_at"],
        ),
    ],
)
def test_a_fault_names_the_field_and_what_is_expected(
    fields: dict[str, Any], parts: list[str]
) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        read(**fields)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'{"address":"anna@people.example"} x',
        b'{"address":"\\ud800@people.example"}',
        b'{"address":"anna@people.example","tags":["\xff"]}',
        b'{"address":' + b"[" * 100_000,
        b'{"address":"anna@people.example","other":' + b'{"a":' * 100_000,
        b"\x00" * 100,
    ],
)
def test_a_line_that_is_not_a_contact_is_rejected(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_contact(line, FILE_TIME)


def test_an_export_reads_back_unchanged() -> None:
    for contact in (WHOLE, Contact(ANNA)):
        assert (
            merge(None, read_contact(written_contact(contact), FILE_TIME)).known.contact == contact
        )


def test_an_export_pairs_a_withdrawal_with_its_consent() -> None:
    withdrawal = ConsentAct("offers", T0.replace(month=5), withdrawal=True)
    line = written_contact(Contact(ANNA, acts=(AGREEMENT, withdrawal)))
    (consent,) = json.loads(line)["consents"]
    assert (consent["given_at"], consent["withdrawn_at"]) == (
        "2026-03-01T10:00:00.123456Z",
        "2026-05-01T10:00:00.123456Z",
    )


MOMENTS = st.sampled_from([T0 + timedelta(hours=hours) for hours in range(4)])
ACTS = st.builds(
    ConsentAct,
    purpose=st.sampled_from(["offers", "news"]),
    at=MOMENTS,
    withdrawal=st.booleans(),
    method=st.sampled_from([None, "signed_form"]),
    evidence=st.builds(
        Evidence,
        wording=st.sampled_from([None, "v1", "v2"]),
        form=st.sampled_from([None, "/join"]),
    ),
    pending=st.booleans(),
).map(lambda act: replace(act, pending=False) if act.withdrawal else act)


@given(acts=st.lists(ACTS, max_size=6))
def test_any_history_survives_an_export(acts: list[ConsentAct]) -> None:
    """Invariant: exporting a contact and importing it elsewhere keeps every act."""
    kept = merge(None, ContactUpdate(Contact(ANNA, acts=tuple(acts)))).known.contact
    again = merge(None, read_contact(written_contact(kept), FILE_TIME)).known.contact
    assert set(again.acts) == set(kept.acts)
    assert replace(again, acts=()) == replace(kept, acts=())


def test_a_line_has_at_most_a_hundred_further_collections() -> None:
    assert len(read(collections=[{"source": "direct"}] * 100).contact.others) == 100
    with pytest.raises(ValueError, match="collections: has more than 100 entries"):
        read(collections=[{"source": "direct"}] * 101)


def test_a_line_gives_its_brand_and_how_each_entry_was_obtained() -> None:
    given = {"purpose": "offers", "given_at": "2025-03-01T10:00:00Z"}
    told = read(
        brand="shop",
        source="purchased",
        provenance={"supplier": "X"},
        consents=[given, {**given, "brand": "mill", "came_by": None}, {**given, "brand": None}],
        purchases=[{"product": "shoes", "at": "2025-03-01T10:00:00Z"}],
    ).contact
    said = [(one.brand, one.came_by) for one in (*told.acts, *told.purchases)]
    assert said == [
        *(("shop", "purchased: X"), ("mill", None), (None, "purchased: X")),
        ("shop", "purchased: X"),
    ]


@pytest.mark.parametrize("text", [r"a\u0000b", r"a\\\u0000", r"\u0000"])
def test_a_text_with_nul_is_rejected(text: str) -> None:
    line = f'{{"address": "anna@people.example", "provenance": {{"supplier": "{text}"}}}}'
    with pytest.raises(ValueError, match="NUL"):
        read_contact(line.encode(), datetime.now(UTC))


@pytest.mark.parametrize("text", [r"\ud800", r"a\uDC00b", r"\ud800\u0041", r"\\\udbff\ud800\udc00"])
def test_half_a_surrogate_pair_is_rejected_with_its_position(text: str) -> None:
    """msgspec calls the first of these truncated input."""
    line = f'{{"address": "anna@people.example", "provenance": {{"supplier": "{text}"}}}}'
    place = line.lower().index(r"\ud") + 1
    with pytest.raises(
        ValueError, match=f"at place {place} is one half of a character; write both"
    ):
        read_contact(line.encode(), datetime.now(UTC))


@pytest.mark.parametrize(
    ("text", "read"), [(r"\uD83D\uDE00", "\U0001f600"), (r"\\ud800", r"\ud800")]
)
def test_a_surrogate_pair_is_one_character(text: str, read: str) -> None:
    line = f'{{"address": "anna@people.example", "provenance": {{"supplier": "{text}"}}}}'
    told = read_contact(line.encode(), datetime.now(UTC)).contact.provenance
    assert told is not None
    assert told.supplier == read


def test_an_escaped_backslash_before_u0000_is_not_a_nul() -> None:
    line = rb'{"address": "anna@people.example", "provenance": {"supplier": "a\\u0000"}}'
    told = read_contact(line, datetime.now(UTC)).contact.provenance
    assert told is not None
    assert told.supplier == r"a\u0000"
