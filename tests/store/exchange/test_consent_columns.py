"""`[[consent]]` in a mapping: one yes-or-no column for each purpose."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from smtpproxy.store.exchange.layouts import Wanted
from smtpproxy.store.exchange.lines import ImportFault
from smtpproxy.store.exchange.mapping import SUPPRESSION_FIELDS, MappingFault, read_mapping
from tests.store.exchange.importing import FILE_TIME, Importing

HEAD = """
time_format = "%d/%m/%Y"
true = ["oui", "X"]
false = ["non"]
[columns]
"Adresse e-mail" = "address"
"""
NEWS = """
[[consent]]
purpose = "news"
column = "Opt-in newsletter"
no = "withdrawal"
given_at = "Date d'inscription"
method = "unticked_box"
wording = "Je veux la lettre"
"""
SHOP = """
[[consent]]
purpose = "offers"
column = "Offres"
true = ["1"]
false = ["0"]
nothing = ["?"]
no = "nothing"
given_at = "Date d'inscription"
withdrawn_at = "Désinscrit le"
"""
DATED = NEWS + 'withdrawn_at = "Désinscrit le"\n'
NEW_YEAR = datetime(2025, 1, 1, 23, 59, 59, 999999, tzinfo=UTC)
HEADER = "Adresse e-mail,Opt-in newsletter,Offres,Date d'inscription,Désinscrit le\n"


class Mapped:
    def __init__(self, importing: Importing, path: Path) -> None:
        self.importing = importing
        self.path = path

    def acts(self, row: str, mapping: str = HEAD + NEWS + SHOP) -> list[tuple[str, bool, datetime]]:
        """Purpose, whether it is a withdrawal, and time of each act in a row."""
        self.path.write_text(mapping)
        content = HEADER + f"anna@people.example,{row}\n"
        done = self.importing.contacts(content.encode(), "csv", read_mapping(self.path))
        assert done.rejected == 0, self.importing.rejected
        acts = self.importing.contact("anna@people.example").acts
        return sorted((act.purpose, act.withdrawal, act.at) for act in acts)

    def rejected(self, row: str, mapping: str = HEAD + NEWS + SHOP) -> str:
        self.path.write_text(mapping)
        content = HEADER + f"anna@people.example,{row}\n"
        done = self.importing.contacts(content.encode(), "csv", read_mapping(self.path))
        assert done.rejected == 1
        return self.importing.rejected

    def fault(self, mapping: str) -> str:
        self.path.write_text(mapping)
        with pytest.raises(MappingFault) as caught:
            read_mapping(self.path)
        return str(caught.value).removeprefix(f"{self.path}: ")


@pytest.fixture
def mapped(importing: Importing, tmp_path: Path) -> Mapped:
    return Mapped(importing, tmp_path / "mapping.toml")


DAY = datetime(2024, 12, 31, tzinfo=UTC)


def test_each_purpose_has_its_column(mapped: Mapped) -> None:
    assert mapped.acts("oui,1,31/12/2024,") == [("news", False, DAY), ("offers", False, DAY)]
    news, offers = mapped.importing.contact("anna@people.example").acts
    assert {news.purpose: news.evidence.wording, offers.purpose: offers.evidence.wording} == {
        "news": "Je veux la lettre",
        "offers": None,
    }


@pytest.mark.parametrize("yes", ["oui", "OUI", " Oui ", "x"])
def test_the_words_for_yes_ignore_case(mapped: Mapped, yes: str) -> None:
    assert mapped.acts(f"{yes},,31/12/2024,") == [("news", False, DAY)]


def test_a_no_is_a_withdrawal_dated_like_the_file_or_nothing(mapped: Mapped) -> None:
    """Never a consent, even if the row has a date."""
    assert mapped.acts("non,0,31/12/2024,") == [("news", True, FILE_TIME)]


def test_a_no_takes_the_date_from_its_column(mapped: Mapped) -> None:
    assert mapped.acts(",0,31/12/2024,01/01/2025") == [("offers", True, NEW_YEAR)]


def test_a_yes_after_a_refusal_records_both_and_counts(mapped: Mapped) -> None:
    old = datetime(2024, 1, 1, 23, 59, 59, 999999, tzinfo=UTC)
    acts = [("news", False, DAY), ("news", True, old)]
    assert mapped.acts("oui,,31/12/2024,01/01/2024", HEAD + DATED) == acts


def test_dates_alone_do_not_prove_a_new_consent(mapped: Mapped) -> None:
    table = (
        "[[consent]]\npurpose = 'news'\ngiven_at = \"Date d'inscription\"\n"
        "withdrawn_at = 'Désinscrit le'\n"
    )
    fault = mapped.rejected(",,31/12/2024,01/01/2024", HEAD + table)
    assert '"Désinscrit le" (consent to news) is before "Date d\'inscription"' in fault


REFUSED = """
[[consent]]
purpose = "news"
column = "Offres"
true = []
false = ["1"]
no = "withdrawal"
withdrawn_at = "Désinscrit le"
"""


@pytest.mark.parametrize(
    ("row", "tables", "at"),
    [
        ("non,,31/12/2024,01/01/2024", DATED, FILE_TIME),
        ("non,,31/12/2026,01/01/2024", DATED, datetime(2026, 12, 31, tzinfo=UTC)),
        ("non,,31/12/2026,", DATED, datetime(2026, 12, 31, tzinfo=UTC)),
        ("non,,31/12/2024,01/01/2025", DATED, NEW_YEAR),
        ("non,,,01/01/2025", DATED, NEW_YEAR),
        ("non,,99/99/2024,01/01/2025", DATED, NEW_YEAR),
        ("oui,1,31/12/2024,01/01/2024", NEWS + REFUSED, FILE_TIME),  # another column says no
        ("oui,1,31/12/2024,01/01/2025", NEWS + REFUSED, NEW_YEAR),
    ],
)
def test_a_no_outweighs_the_yes_beside_it_even_with_an_older_date(
    mapped: Mapped, row: str, tables: str, at: datetime
) -> None:
    """The date is that of an earlier refusal; they agreed again, but the file says no."""
    assert [act for act in mapped.acts(row, HEAD + tables) if act[1]] == [("news", True, at)]


def test_so_does_a_no_to_everything(mapped: Mapped) -> None:
    table = REFUSED.replace('"news"', '"*"')
    acts = mapped.acts("oui,1,31/12/2024,01/01/2024", HEAD + NEWS + table)
    assert acts == [("*", True, FILE_TIME), ("news", False, DAY)]


def test_so_does_the_no_of_a_rejected_row(mapped: Mapped) -> None:
    mapped.path.write_text(HEAD.replace("[columns]", "[columns]\nOffres = 'audience'") + DATED)
    content = HEADER + "anna@people.example,non,?,31/12/2024,01/01/2024\n"
    done = mapped.importing.contacts(content.encode(), "csv", read_mapping(mapped.path))
    assert (done.rejected, done.refusals) == (1, 1)
    (act,) = mapped.importing.contact("anna@people.example").acts
    assert (act.withdrawal, act.at) == (True, FILE_TIME)


def test_a_placeholder_beside_a_yes_refuses_nothing_in_a_rejected_row(mapped: Mapped) -> None:
    head = HEAD.replace("[columns]", "[columns]\nOffres = 'audience'")
    table = '[[consent]]\npurpose = "*"\nwithdrawn_at = "Désinscrit le"\n'
    mapped.path.write_text(head + NEWS + table)
    for row, refusals in (("oui,?,31/12/2024,01/01/1970", 0), (",?,,01/01/1970", 1)):
        content = f"{HEADER}anna@people.example,{row}\n"
        done = mapped.importing.contacts(content.encode(), "csv", read_mapping(mapped.path))
        assert (done.rejected, done.refusals) == (1, refusals)


def test_a_yes_withdrawn_later_records_both(mapped: Mapped) -> None:
    acts = mapped.acts(",1,31/12/2024,01/01/2025")
    assert [(purpose, gone) for purpose, gone, _ in acts] == [("offers", False), ("offers", True)]


@pytest.mark.parametrize("nothing", ["?", "", " ", "NULL"])
def test_a_cell_that_means_nothing_records_nothing(mapped: Mapped, nothing: str) -> None:
    assert mapped.acts(f",{nothing},31/12/2024,") == []


@pytest.mark.parametrize(
    ("row", "column", "value"),
    [
        ("peut-être,,31/12/2024,", "Opt-in newsletter", "peut-être"),
        ("1,,31/12/2024,", "Opt-in newsletter", "1"),  # a value of the other column
        (",oui,31/12/2024,", "Offres", "oui"),
    ],
)
def test_any_other_value_is_rejected_with_its_line_and_value(
    mapped: Mapped, row: str, column: str, value: str
) -> None:
    rejected = mapped.rejected(row)
    assert "# line 2: " in rejected
    assert f'"{column}"' in rejected
    assert f"{value!r} is neither true nor false" in rejected


def test_a_consent_without_a_date_is_rejected(mapped: Mapped) -> None:
    assert (
        '"Opt-in newsletter" (consent to news) says yes, but "Date d\'inscription" is empty: '
        "a consent needs its date"
    ) in mapped.rejected("oui,,,")


@pytest.mark.parametrize("name", ["consent_purpose", "consent_method"])
def test_so_is_one_given_in_its_own_columns(importing: Importing, name: str) -> None:
    done = importing.contacts(f"address,{name}\nanna@people.example,x\n".encode(), "csv")
    assert done.rejected == 1
    assert "has no date: a consent needs its date" in importing.rejected


def test_one_date_for_all_rows_is_a_constant(mapped: Mapped) -> None:
    dated = NEWS.replace("given_at", "# given_at")
    constants = '[constants]\nconsent_given_at = "2024-12-31"\n'
    assert mapped.acts("oui,,,", HEAD + constants + dated) == [("news", False, DAY)]


def test_without_a_yes_or_no_column_the_date_means_yes(mapped: Mapped) -> None:
    table = "[[consent]]\npurpose = 'news'\ngiven_at = \"Date d'inscription\"\n"
    assert mapped.acts("non,,31/12/2024,", HEAD + table) == [("news", False, DAY)]


def test_a_column_of_refusals_never_gives_a_consent(mapped: Mapped) -> None:
    table = (
        "[[consent]]\npurpose = 'news'\ncolumn = 'Offres'\n"
        "true = []\nfalse = ['1']\nnothing = ['0']\nno = 'withdrawal'\n"
    )
    assert mapped.acts(",1,,", HEAD + table) == [("news", True, FILE_TIME)]
    assert "neither true nor false" in mapped.rejected(",oui,,", HEAD + table)


def test_constants_on_the_command_line_override_those_of_the_mapping(
    importing: Importing, tmp_path: Path
) -> None:
    path = tmp_path / "mapping.toml"
    path.write_text(HEAD + '[constants]\nsource = "partner"\n' + NEWS)
    wanted = Wanted(constants={"source": "direct", "consent_wording": "w", "consent_form": "f"})
    content = (HEADER + "anna@people.example,oui,,31/12/2024,\n").encode()
    importing.contacts(content, "csv", read_mapping(path), wanted=wanted)
    found = importing.contact("anna@people.example")
    assert found.source == "direct"
    assert (found.acts[0].evidence.wording, found.acts[0].evidence.form) == ("w", "f")


def test_a_missing_column_is_named(mapped: Mapped) -> None:
    mapped.path.write_text(HEAD + NEWS)
    mapping = read_mapping(mapped.path)
    with pytest.raises(ImportFault) as caught:
        mapped.importing.contacts(b"Adresse e-mail\nanna@people.example\n", "csv", mapping)
    assert "no column 'Opt-in newsletter' of [[consent]] news, " in str(caught.value)


def test_constants_about_consent_need_a_date(importing: Importing) -> None:
    wanted = Wanted(constants={"consent_method": "unticked_box"})
    with pytest.raises(ImportFault) as caught:
        importing.contacts(b"address\nanna@people.example\n", "csv", None, wanted=wanted)
    assert "--set consent_method: no column says when anybody agreed" in str(caught.value)


@pytest.mark.parametrize(
    ("mapping", "fault"),
    [
        (HEAD + NEWS.replace("no = ", "# no = "), 'consent "news": no: missing'),
        (HEAD + NEWS.replace("given_at", "# given_at"), 'consent "news": given_at: missing'),
        (HEAD + NEWS.replace("column", "# column"), 'consent "news": column: missing; true'),
        (HEAD + "[[consent]]\npurpose = 'x'\n", 'consent "x": column: missing; name'),
        (HEAD.replace('"X"', '"non"') + NEWS, "true, false: 'non' would mean two things"),
        (HEAD.replace('"X"', '""') + NEWS, "true, false: true: an empty cell cannot mean yes"),
        (
            HEAD + "'D' = 'consent_given_at'\n" + NEWS,
            "consent_given_at: is in a [[consent]] already",
        ),
        (
            HEAD + "[constants]\nconsent_purpose = 'x'\n" + NEWS,
            "consent_purpose: is in a [[consent",
        ),
        (HEAD + NEWS.replace('"withdrawal"', '"yes"'), 'consent[0].no: "yes" is not one of'),
    ],
)
def test_faults_in_a_mapping_are_named(mapped: Mapped, mapping: str, fault: str) -> None:
    assert mapped.fault(mapping).startswith(fault)


def test_suppressions_have_no_consents(mapped: Mapped) -> None:
    mapped.path.write_text(HEAD + NEWS)
    with pytest.raises(MappingFault) as caught:
        read_mapping(mapped.path, SUPPRESSION_FIELDS)
    assert "is for contacts" in str(caught.value)


@pytest.mark.parametrize(
    ("row", "refused"),
    [
        ("non,1,31/02/2024,", ["news"]),  # the date of the other one is invalid
        ("peut-être,0,31/12/2024,01/01/2025", ["offers"]),
        ("peut-être,1,31/12/2024,31/02/2025", ["offers"]),  # meant as a date
        ("non,0,,32/13/2025", ["news", "offers"]),
        ("peut-être,1,31/12/2024,00/00/0000", []),
        ("peut-être,1,31/12/2024,non", []),
        ("oui,,,", []),
    ],
)
def test_a_refusal_in_a_rejected_row_counts(mapped: Mapped, row: str, refused: list[str]) -> None:
    agreed = HEADER + "anna@people.example,oui,1,30/12/2024,\n"
    mapped.path.write_text(HEAD + NEWS + SHOP)
    content = agreed + f"anna@people.example,{row}\n"
    done = mapped.importing.contacts(content.encode(), "csv", read_mapping(mapped.path))
    assert (done.lines, done.rejected, done.refusals) == (2, 1, int(bool(refused)))
    acts = mapped.importing.contact("anna@people.example").acts
    assert sorted(act.purpose for act in acts if act.withdrawal) == refused
    assert sorted(act.purpose for act in acts if not act.withdrawal) == ["news", "offers"]


@pytest.mark.parametrize(("cell", "at"), [("31/02/2025", FILE_TIME), ("no", None)])
def test_so_does_an_objection_to_profiling(
    importing: Importing, cell: str, at: datetime | None
) -> None:
    content = f"address,profiling_objected_at\nanna@people.example,{cell}\n"
    done = importing.contacts(content.encode(), "csv")
    assert (done.rejected, done.refusals) == (1, int(at is not None))
    if at:
        assert importing.contact("anna@people.example").profiling_objected_at == at


def test_so_does_the_withdrawal_of_a_plain_file(importing: Importing) -> None:
    header = "address,consent_purpose,consent_given_at,consent_withdrawn_at\n"
    said = "news,2024-02-31,2025-01-01\n"
    rows = f"anna@people.example,{said}not an address,{said}"
    done = importing.contacts((header + rows).encode(), "csv")
    assert (done.rejected, done.refusals) == (2, 1)
    (act,) = importing.contact("anna@people.example").acts
    assert (act.purpose, act.withdrawal) == ("news", True)
