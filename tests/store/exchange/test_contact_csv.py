"""Contacts from CSV, with and without a mapping file."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from smtpproxy.policy.model import (
    Audience,
    ConsentAct,
    Contact,
    Dealing,
    Evidence,
    Provenance,
    Purchase,
    Source,
)
from smtpproxy.store.exchange.lines import ImportFault
from smtpproxy.store.exchange.mapping import MappingFault, read_mapping
from tests.store.exchange.importing import FILE_TIME, Importing

MAPPING = """
delimiter = ";"
separator = "/"
time_format = "%d/%m/%Y"

[columns]
"E-mail" = "address"
Segment = "audience"
"Inscrit le" = "consent_given_at"
"Désinscrit le" = "consent_withdrawn_at"
"Métiers" = "occupations"
"Accord" = "optout_offered"
"Achat" = "purchase_product"
"Date achat" = "purchase_at"

[constants]
source = "direct"
consent_purpose = "offers"
consent_method = "unticked_box"
consent_wording = "form v3"

[values.audience]
B2C = "consumer"
B2B = "professional"
"""
FRENCH = """E-mail;Segment;Inscrit le;Désinscrit le;Métiers;Accord;Achat;Date achat;Autre
Anna@people.example;B2C;01/03/2025;02/03/2025;finance / art;oui;shoes;05/01/2026;x
bert@people.example;B2B;;;;non;boots;;
carl@people.example;;3.3.2025;;;;;;
dora@people.example;;;;;peut-être;;;
""".encode()


def at(*date: int) -> datetime:
    return datetime(*date, tzinfo=UTC)  # type: ignore[arg-type, misc]


def write(folder: Path, text: str) -> Path:
    path = folder / "mapping.toml"
    path.write_text(text)
    return path


def test_a_mapping_turns_columns_into_fields(importing: Importing, tmp_path: Path) -> None:
    done = importing.contacts(FRENCH, "csv", read_mapping(write(tmp_path, MAPPING)))
    assert (done.added, done.rejected) == (2, 2)
    end = at(2025, 3, 3) - timedelta(microseconds=1)
    assert importing.contact("anna@people.example") == Contact(
        "anna@people.example",
        audience=Audience.CONSUMER,
        source=Source.DIRECT,
        optout_offered=True,
        occupations=frozenset({"finance", "art"}),
        purchases=(Purchase("shoes", at(2026, 1, 5)),),
        acts=(
            ConsentAct(
                "offers",
                at(2025, 3, 1),
                method="unticked_box",
                conditional=None,
                evidence=Evidence("form v3"),
            ),
            ConsentAct("offers", end, withdrawal=True),
        ),
    )
    # Without a time, a purchase or a consent is not recorded.
    assert importing.contact("bert@people.example") == Contact(
        "bert@people.example",
        audience=Audience.PROFESSIONAL,
        source=Source.DIRECT,
        optout_offered=False,
    )
    assert "\"Inscrit le\" (consent_given_at): '3.3.2025' is not a time in the mapping's" in (
        importing.rejected
    )
    assert (
        "\"Accord\" (optout_offered): 'peut-être' is neither true nor false" in importing.rejected
    )


def test_without_a_mapping_columns_have_the_names_of_fields(importing: Importing) -> None:
    content = (
        b"address,audience,supplier,sender_disclosed,consent_purpose,consent_given_at,"
        b"consent_channels,consent_conditional,consent_ip\n"
        b"anna@people.example,generic,Lists Ltd,1,news,2025-03-01T10:00:00+01:00,email|sms,yes,"
        b"192.0.2.7\n"
    )
    assert importing.contacts(content, "csv").added == 1
    assert importing.contact("anna@people.example") == Contact(
        "anna@people.example",
        audience=Audience.GENERIC,
        provenance=Provenance("Lists Ltd", sender_disclosed=True),
        acts=(
            ConsentAct(
                "news",
                at(2025, 3, 1, 9),
                conditional=True,
                channels=frozenset({"email", "sms"}),
                evidence=Evidence(ip="192.0.2.7"),
            ),
        ),
    )


def test_columns_can_hold_a_double_opt_in_and_its_evidence(importing: Importing) -> None:
    content = (
        b"address,consent_purpose,consent_method,consent_given_at,consent_pending,"
        b"consent_version,consent_form,consent_document_hash\n"
        b"anna@people.example,news,double_opt_in,2025-03-01,oui,3,/join,\n"
        b"anna@people.example,news,double_opt_in,2025-03-02,non,,," + b"0A" * 32 + b"\n"
    )
    assert importing.contacts(content, "csv").rejected == 0
    request, confirmation = importing.contact("anna@people.example").acts
    assert (request.pending, request.evidence) == (True, Evidence(version="3", form="/join"))
    assert (confirmation.pending, confirmation.evidence) == (
        False,
        Evidence(document_hash="0a" * 32),
    )


def test_columns_can_hold_inquiries_and_marks(importing: Importing) -> None:
    content = (
        b"address,purchase_product,purchase_at,purchase_kind,first_contacted_at,"
        b"profiling_objected_at\n"
        b"anna@people.example,shoes,2025-03-01,inquiry,2025-03-02,2025-03-03\n"
    )
    assert importing.contacts(content, "csv").added == 1
    assert importing.contact("anna@people.example") == Contact(
        "anna@people.example",
        purchases=(Purchase("shoes", at(2025, 3, 1), Dealing.INQUIRY),),
        first_contacted_at=at(2025, 3, 2),
        profiling_objected_at=at(2025, 3, 3),
    )


def test_an_empty_cell_gives_nothing(importing: Importing) -> None:
    importing.contacts(b"address,audience,tags\nanna@people.example,consumer,vip|old\n", "csv")
    later = FILE_TIME + timedelta(days=1)
    content = b"address,audience,tags\nanna@people.example,professional,\n"
    assert importing.contacts(content, "csv", as_of=later).changed == 1
    found = importing.contact("anna@people.example")
    assert (found.audience, found.tags) == (Audience.PROFESSIONAL, frozenset({"vip", "old"}))


def test_several_lines_for_one_address_are_merged(importing: Importing) -> None:
    content = (
        b"address,source,purchase_product,purchase_at\n"
        b"anna@people.example,direct,shoes,2026-01-01\n"
        b"anna@people.example,direct,boots,2026-01-02\n"
    )
    done = importing.contacts(content, "csv")
    assert (done.added, done.changed) == (1, 1)
    assert [one.product for one in importing.contact("anna@people.example").purchases] == [
        "shoes",
        "boots",
    ]
    assert importing.contacts(content, "csv").unchanged == 2


def test_a_header_without_an_address_says_what_to_do(importing: Importing) -> None:
    with pytest.raises(ImportFault, match=r"no column 'address'.*only mail.*--mapping"):
        importing.contacts(b"mail,audience\nanna@people.example,consumer\n", "csv")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("columns = ", "line 1, column 11: not TOML"),
        ("", 'columns: no address; add "COLUMN" = "address"'),
        ("column = 1", "column: unknown key; did you mean columns?"),
        ("[columns]\nMail = 'adress'", "columns: no field 'adress'; they are address, audience"),
        ("[columns]\nA = 'address'\nB = 'address'", "columns: address has several columns"),
        ("[columns]\nA = 1", "columns.A: must be text in double quotes, not the number 1"),
        ("columns = 1", "columns: must be a table"),
        ("[columns]\nA = 'address'\n[constants]\nplace = 'x'", "constants: no field 'place'"),
        (
            "[columns]\nA = 'address'\n[values.audience]\nB = 1",
            "values.audience.B: must be text",
        ),
        ("values = 1\n[columns]\nA = 'address'", "values: must be a table, not the number 1"),
        ("delimiter = ';;'\n[columns]\nA = 'address'", "delimiter: must be one character"),
        ("time_format = 1\n[columns]\nA = 'address'", "time_format: must be text"),
    ],
)
def test_a_wrong_mapping_names_the_key(tmp_path: Path, text: str, part: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(MappingFault) as caught:
        read_mapping(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert part in str(caught.value)
