"""Suppressions from any CSV through a mapping file."""

import io
from datetime import UTC, datetime
from pathlib import Path

import pytest

from smtpproxy.store.exchange.layouts import Wanted
from smtpproxy.store.exchange.lines import ImportFault, Rejected
from smtpproxy.store.exchange.mapping import SUPPRESSION_FIELDS, MappingFault, read_mapping
from smtpproxy.store.exchange.suppression_file import read_csv
from smtpproxy.store.exchange.suppression_record import Defaults
from smtpproxy.store.exchange.tables import read_table
from tests.store.exchange.importing import FILE_TIME, Importing

MAPPING = """
delimiter = ";"
time_format = "%d/%m/%Y %H:%M|%d/%m/%Y"
time_zone = "UTC"

[columns]
"E-mail" = "address"
"Motif" = "origin"
"Date" = "since"
"Liste" = "list"

[constants]
note = "old CRM"

[values.origin]
"Désinscrit" = "unsubscribe"
"Plainte" = "complaint"
"Actif" = "none"

[values.list]
"Soldes" = "offers"
"""
CONTENT = """E-mail;Motif;Date;Liste;Ville
anna@people.example;DÉSINSCRIT;01/03/2024 12:00;Soldes;Lyon
bert@people.example;Plainte;02/03/2024;Soldes;
carl@people.example;Actif;;;
dora@people.example;Désinscrit;01/03/2024;Autre;
emma@people.example;Fatigue;01/03/2024;;
""".encode()


@pytest.fixture
def wanted(tmp_path: Path) -> Wanted:
    path = tmp_path / "mapping.toml"
    path.write_text(MAPPING)
    return Wanted(mapping=read_mapping(path, SUPPRESSION_FIELDS))


def test_an_empty_cell_may_be_no_suppression(importing: Importing, tmp_path: Path) -> None:
    """`--origin`, which the fault names first, would suppress whoever did not unsubscribe."""
    content = b"Email;Out\nanna@people.example;true\nbert@people.example;\n"
    path = tmp_path / "mapping.toml"
    text = '[columns]\nEmail = "address"\nOut = "origin"\n[values.origin]\ntrue = "unsubscribe"\n'
    path.write_text(text)
    wanted = Wanted(mapping=read_mapping(path, SUPPRESSION_FIELDS))
    assert importing.suppressions(content, wanted=wanted).rejected == 1
    assert (
        'where an empty cell is no suppression: [constants] origin = "none"' in importing.rejected
    )
    path.write_text(f'{text}[constants]\norigin = "none"\n')
    wanted = Wanted(mapping=read_mapping(path, SUPPRESSION_FIELDS))
    done = importing.suppressions(content, wanted=wanted)
    assert (done.rejected, done.passed) == (0, 1)


def test_columns_values_and_times_are_mapped(importing: Importing, wanted: Wanted) -> None:
    done = importing.suppressions(CONTENT, wanted=wanted)
    assert (done.added, done.passed, done.rejected) == (3, 1, 1)
    assert "\"Motif\" (origin): 'Fatigue' is not one of" in importing.rejected
    assert "; or give its meaning with [values.origin] in a mapping" in importing.rejected
    (anna,) = importing.suppressed("anna@people.example")
    assert (anna.scope, anna.origin, anna.note) == ("purpose:offers", "unsubscribe", "old CRM")
    assert anna.since == datetime(2024, 3, 1, 12, 0, tzinfo=UTC)
    (bert,) = importing.suppressed("bert@people.example")
    assert (bert.scope, bert.origin) == ("all", "complaint")
    assert bert.since == datetime(2024, 3, 2, 23, 59, 59, 999999, tzinfo=UTC)
    (dora,) = importing.suppressed("dora@people.example")
    assert dora.scope == "marketing"  # of a list with no scope given


def test_a_brand_narrows_what_would_otherwise_hold_for_all_marketing(
    importing: Importing, tmp_path: Path
) -> None:
    path = tmp_path / "mapping.toml"
    path.write_text(MAPPING.replace('note = "old CRM"', 'brand = "shop"'))
    wanted = Wanted(mapping=read_mapping(path, SUPPRESSION_FIELDS))
    importing.suppressions(CONTENT, wanted=wanted)
    names = ("anna", "bert", "dora")
    scopes = [importing.suppressed(f"{name}@people.example")[0].scope for name in names]
    assert scopes == ["purpose:offers", "all", "brand:shop"]


def test_a_requested_scope_is_used(importing: Importing, wanted: Wanted) -> None:
    importing.suppressions(CONTENT, wanted=wanted, scope="all")
    assert importing.suppressed("anna@people.example")[0].scope == "all"


@pytest.mark.parametrize(
    ("origin", "scope"),
    [
        ("bounce", "all"),
        ("complaint", "all"),
        ("manual", "all"),
        ("external", "all"),
        ("erasure", "marketing"),
        ("unsubscribe", "purpose:news"),
        ("objection", "purpose:news"),
    ],
)
def test_the_origin_decides_the_scope_of_a_row_without_one(
    importing: Importing, wanted: Wanted, origin: str, scope: str
) -> None:
    row = f"anna@people.example;{origin};;Autre;\nbert@people.example;{origin};;;\n"
    importing.suppressions(
        CONTENT.split(b"\n")[0] + b"\n" + row.encode(), wanted=wanted, purpose="news"
    )
    assert importing.suppressed("anna@people.example")[0].scope == scope
    assert importing.suppressed("bert@people.example")[0].scope == scope.replace(
        "purpose:news", "marketing"
    )


def test_an_address_spoilt_by_half_a_surrogate_pair_is_rejected(wanted: Wanted) -> None:
    rows = b'{"e-mail":"a%s@x.example","motif":"%s"}\n'
    content = rows % (b"\\ud83d", b"Plainte") + rows % (b"", b'Plainte","date":"\\ud83d')
    lines = read_table(io.BufferedReader(io.BytesIO(content)), wanted.mapping)
    found = [*read_csv(lines, Defaults(FILE_TIME), wanted).items]
    refusals = [one.refusal for one in found if isinstance(one, Rejected)]
    assert [one and (one.address, one.scope) for one in refusals] == [None, ("a@x.example", "all")]


def test_a_missing_column_is_named(importing: Importing, wanted: Wanted) -> None:
    with pytest.raises(ImportFault, match="no column 'e-mail' for the address, only Courriel"):
        importing.suppressions(b"Courriel;Motif\nx;y\n", wanted=wanted)


def test_fields_of_contacts_are_rejected_for_suppressions(tmp_path: Path) -> None:
    path = tmp_path / "mapping.toml"
    path.write_text('[columns]\n"E-mail" = "address"\n"Segment" = "audience"\n')
    with pytest.raises(MappingFault, match="no field 'audience'; they are address, scope, origin"):
        read_mapping(path, SUPPRESSION_FIELDS)
