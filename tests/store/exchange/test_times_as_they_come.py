"""Times in cells have a zone or take the one in the mapping; it is never guessed."""

from datetime import UTC, datetime, timedelta

import pytest

from smtpproxy.store.exchange.layouts import Wanted
from smtpproxy.store.exchange.mapping import FIELDS, SUPPRESSION_FIELDS, MappingFault, mapping_of
from tests.store.exchange.importing import Importing

ANNA = "anna@people.example"
TICK = timedelta(microseconds=1)


def at(*date: int) -> datetime:
    return datetime(*date, tzinfo=UTC)  # type: ignore[arg-type, misc]


def given(importing: Importing, text: str, **keys: str) -> datetime | str:
    """When a contact agreed, according to the cell; or why its row was rejected."""
    columns = {"Mail": "address", "Opt-in": "consent_given_at"}
    constants = {"consent_purpose": "offers"}
    mapping = mapping_of("m.toml", {"columns": columns, "constants": constants, **keys}, FIELDS)
    done = importing.contacts(f"Mail;Opt-in\n{ANNA};{text}\n".encode(), "csv", mapping)
    return importing.contact(ANNA).acts[-1].at if done.added else importing.rejected


def since(importing: Importing, text: str, **keys: str) -> datetime | str:
    columns = {"Mail": "address", "Le": "since"}
    constants = {"origin": "complaint"}
    document = {"columns": columns, "constants": constants, **keys}
    wanted = Wanted(mapping=mapping_of("m.toml", document, SUPPRESSION_FIELDS))
    done = importing.suppressions(f"Mail;Le\n{ANNA};{text}\n".encode(), wanted=wanted)
    return importing.suppressed(ANNA)[-1].since if not done.rejected else importing.rejected


PARIS = {"time_zone": "Europe/Paris"}
FRENCH = {"time_format": "%d/%m/%Y %H:%M|%d/%m/%Y"}


@pytest.mark.parametrize(
    ("text", "keys", "right"),
    [
        ("2026-01-05 10:00", PARIS, at(2026, 1, 5, 9)),
        ("2026-07-05T10:00:00", PARIS, at(2026, 7, 5, 8)),
        ("2026-01-05 10:00Z", PARIS, at(2026, 1, 5, 10)),
        ("05/01/2026 10:00", {**PARIS, **FRENCH}, at(2026, 1, 5, 9)),
        ("2026-01-05 10:00", {"time_zone": "UTC"}, at(2026, 1, 5, 10)),
        ("2026-01-05", {}, at(2026, 1, 5)),
        ("2026-01-05", PARIS, at(2026, 1, 4, 23)),
        ("05/01/2026", FRENCH, at(2026, 1, 5)),
        # An hour that occurs twice, and one that does not exist: the earlier is the stricter.
        ("2026-10-25 02:30", PARIS, at(2026, 10, 25, 0, 30)),
        ("2026-03-29 02:30", PARIS, at(2026, 3, 29, 0, 30)),
        # Excel's days since 1900, with a decimal point or comma
        ("46027,4166666667", {**PARIS, "time_format": "excel"}, at(2026, 1, 5, 9)),
        ("46027.5", {**PARIS, "time_format": "excel"}, at(2026, 1, 5, 11)),
        ("46027", {"time_format": "excel"}, at(2026, 1, 5)),
    ],
)
def test_consents(importing: Importing, text: str, keys: dict[str, str], right: datetime) -> None:
    assert given(importing, text, **keys) == right


@pytest.mark.parametrize(
    ("text", "keys", "right"),
    [
        ("2026-01-05 10:00", PARIS, at(2026, 1, 5, 9)),
        ("2026-01-05", PARIS, at(2026, 1, 5, 23) - TICK),
        ("05/01/2026", {**PARIS, **FRENCH}, at(2026, 1, 5, 23) - TICK),
        # Here the later is the stricter.
        ("2026-10-25 02:30", PARIS, at(2026, 10, 25, 1, 30)),
        ("2026-03-29 02:30", PARIS, at(2026, 3, 29, 1, 30)),
    ],
)
def test_suppressions(
    importing: Importing, text: str, keys: dict[str, str], right: datetime
) -> None:
    assert since(importing, text, **keys) == right


@pytest.mark.parametrize(
    ("text", "keys", "part"),
    [
        ("2026-01-05 10:00", {}, "has no time zone; set one in a mapping, like time_zone"),
        ("05/01/2026 10:00", FRENCH, "has no time zone; set one in a mapping, like time_zone"),
        ("46027,5", {"time_format": "excel"}, "has no time zone; set one in a mapping"),
        (
            "05/01/2026",
            {},
            "may be two different days; choose one in a mapping: "
            'time_format = "%d/%m/%Y" or "%m/%d/%Y"',
        ),
        ("25/01/2026", {}, 'is not a time; set time_format = "%d/%m/%Y" in a mapping'),
        ("01/25/26", {}, 'is not a time; set time_format = "%m/%d/%y" in a mapping'),
        ("25.01.2026 10:00", {}, 'is not a time; set time_format = "%d.%m.%Y %H:%M" in a mapping'),
        ("46027", {}, 'is not a time; in Excel it is 2026-01-05: set time_format = "excel"'),
        ("1767600000", {}, 'is not a time; for seconds since 1970 set time_format = "epoch"'),
        ("30/02/2026", FRENCH, "is not a time in the mapping's time_format"),
        (
            "45678,5",
            FRENCH,
            "is not a time in the mapping's time_format %d/%m/%Y %H:%M|%d/%m/%Y;"
            " in Excel it is 2025-01-21: add |excel to it",
        ),
        ("#VALUE!", {}, "is an error of the spreadsheet"),
    ],
)
def test_an_unreadable_time_is_rejected(
    importing: Importing, text: str, keys: dict[str, str], part: str
) -> None:
    for told, column in (
        (given(importing, text, **keys), '"Opt-in" (consent_given_at)'),
        (since(importing, text, **keys), '"Le" (since)'),
    ):
        assert isinstance(told, str)
        assert f"# line 2: {column}: {text!r} {part}" in told


@pytest.mark.parametrize("name", ["Europe/Atlantis", "../etc/passwd", "Europe", "", 2])
def test_an_unknown_zone_is_rejected(name: object) -> None:
    document = {"columns": {"a": "address"}, "time_zone": name}
    with pytest.raises(MappingFault, match=r'm.toml: time_zone: .* like "Europe/Paris"'):
        mapping_of("m.toml", document, FIELDS)


def test_a_misnamed_key_is_pointed_out() -> None:
    with pytest.raises(MappingFault, match="date_format: unknown key; it is called time_format"):
        mapping_of("m.toml", {"columns": {"a": "address"}, "date_format": "%d"}, FIELDS)


class TestColumnNames:
    COLUMNS = "Mail;Segment;Inscrit;Parti;Texte;Empreinte;Achat;Date achat;Vendeur;Nommé"
    MAPPING = mapping_of(
        "m.toml",
        {
            "columns": {
                "Mail": "address",
                "Segment": "audience",
                "Inscrit": "consent_given_at",
                "Parti": "consent_withdrawn_at",
                "Texte": "consent_wording",
                "Empreinte": "consent_document_hash",
                "Achat": "purchase_product",
                "Date achat": "purchase_at",
                "Vendeur": "supplier",
                "Nommé": "sender_disclosed",
            },
            "values": {"audience": {"B2X": "bzx"}, "consent_wording": {"NULL": ""}},
        },
        FIELDS,
    )

    @pytest.mark.parametrize(
        ("row", "part"),
        [
            ("anna;;;;;;;;;", '"Mail" (address): there is no @'),
            (f"{ANNA};B2C;;;;;;;;", "\"Segment\" (audience): 'B2C' is unknown; expected"),
            (f"{ANNA};B2C;;;;;;;;", "or give its meaning with [values.audience] in a mapping"),
            (f"{ANNA};B2X;;;;;;;;", "\"Segment\" (audience): 'bzx' is unknown"),
            (
                f"{ANNA};;2026-01-01;;;;;;;",
                'consent_purpose: missing, but the row has "Inscrit" (consent_given_at); '
                "map a column to it, or set it under [constants]",
            ),
            (
                f"{ANNA};;;;;;;2026-01-01;;",
                '"Achat" (purchase_product): is empty, but the row has "Date achat"',
            ),
            (f"{ANNA};;;;;;;;;peut-être", "\"Nommé\" (sender_disclosed): 'peut-être' is neither"),
            (f"{ANNA};;;;#N/A;;;;;", "\"Texte\" (consent_wording): '#N/A' is an error of the"),
            (f"{ANNA};;;;;;;;#NOM?;", "\"Vendeur\" (supplier): '#NOM?' is an error of the"),
        ],
    )
    def test_a_fault_names_the_column(self, importing: Importing, row: str, part: str) -> None:
        importing.contacts(f"{self.COLUMNS}\n{row}\n".encode(), "csv", self.MAPPING)
        assert part in importing.rejected
        assert "consents" not in importing.rejected
        assert "purchases" not in importing.rejected

    def test_a_withdrawal_before_its_consent(self, importing: Importing) -> None:
        columns = {"M": "address", "In": "consent_given_at", "Out": "consent_withdrawn_at"}
        document = {"columns": columns, "constants": {"consent_purpose": "offers"}}
        mapping = mapping_of("m.toml", document, FIELDS)
        content = f"M,In,Out\n{ANNA},2026-02-01,2026-01-01\n".encode()
        importing.contacts(content, "csv", mapping)
        assert '# line 2: "Out" (consent_withdrawn_at) is before "In" (consent_given_at)' in (
            importing.rejected
        )

    def test_a_fault_in_a_constant_is_named_as_such(self, importing: Importing) -> None:
        document = {"columns": {"M": "address"}, "constants": {"source": "mars"}}
        mapping = mapping_of("m.toml", document, FIELDS)
        importing.contacts(f"M\n{ANNA}\n".encode(), "csv", mapping)
        assert "source (under [constants] of the mapping): 'mars' is unknown" in importing.rejected

    def test_a_constant_fills_an_empty_cell(self, importing: Importing) -> None:
        columns = {"M": "address", "Q": "source"}
        document = {"columns": columns, "constants": {"source": "direct"}}
        mapping = mapping_of("m.toml", document, FIELDS)
        importing.contacts(f"M,Q\n{ANNA},\n".encode(), "csv", mapping)
        assert importing.contact(ANNA).source == "direct"

    def test_null_as_databases_write_it_gives_nothing(self, importing: Importing) -> None:
        row = f"{ANNA};NULL;\\N;(null);NULL;\\N;null;NULL;NaN;\n"
        importing.contacts(f"{self.COLUMNS}\n{row}".encode(), "csv", self.MAPPING)
        found = importing.contact(ANNA)
        assert (found.acts, found.purchases, found.provenance) == ((), (), None)

    def test_a_text_may_begin_like_a_spreadsheet_error(self, importing: Importing) -> None:
        content = f"address,source,supplier\n{ANNA},purchased,#1 lists!\n".encode()
        importing.contacts(content, "csv")
        provenance = importing.contact(ANNA).provenance
        assert provenance is not None
        assert provenance.supplier == "#1 lists!"

    def test_a_bad_note_does_not_lose_a_suppression(self, importing: Importing) -> None:
        content = f"address,scope,origin,since,note\n{ANNA},all,complaint,,#REF!\n".encode()
        assert importing.suppressions(content).added == 1
        assert importing.suppressed(ANNA)[0].note is None
