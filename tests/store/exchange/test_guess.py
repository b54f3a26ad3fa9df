"""What `contact map` takes columns for, by their names in four languages and their content."""

from pathlib import Path

import pytest

from smtpproxy.store.exchange.guess import propose
from smtpproxy.store.exchange.look import TableLook, look_at, plain_words, words
from smtpproxy.store.exchange.mapping import FIELDS
from smtpproxy.store.exchange.proposal import Answers, Known, Proposal, is_title

ONE = Known(("offers",), (), ("unticked_box",))
TWO = Known(("newsletter", "offers"), (), ("unticked_box",))


class Table:
    def __init__(self, path: Path) -> None:
        self.path = path

    def look(self, *rows: str) -> TableLook:
        self.path.write_text("\n".join(rows) + "\n")
        return look_at(self.path, lambda _, __: None)

    def proposal(self, *rows: str, known: Known = ONE, answers: Answers | None = None) -> Proposal:
        return propose(self.look(*rows), known, answers or Answers())

    def flag(self, name: str, cell: str = "oui") -> tuple[tuple[str, ...] | None, ...]:
        """Whether a column with this name and cell is taken for a consent, and for a refusal."""
        rows = f"email;{name};opt-in date", f"a@b.example;{cell};2024-01-01"
        (table,) = [one for one in self.proposal(*rows).consents if one.column]
        return table.yes, table.false


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return Table(tmp_path / "people.csv")


def options(proposal: Proposal) -> list[str]:
    return [one.option.split("=")[0].split(" ")[0] for one in proposal.questions]


@pytest.mark.parametrize(
    ("header", "given", "refused"),
    [
        ("Adresse e-mail;Opt-in newsletter;Date d'inscription;Désinscrit le", 2, 3),
        ("Email;Newsletter;Subscribed at;Unsubscribed at", 2, 3),
        ("E-Mail-Adresse;Einwilligung;Anmeldedatum;Abgemeldet am", 2, 3),
        ("Correo electrónico;Suscripción;Fecha de alta;Fecha de baja", 2, 3),
        ("emailAddress;optIn;optInDate;optOutDate", 2, 3),
    ],
)
def test_column_names_are_recognised_in_four_languages(
    table: Table, header: str, given: int, refused: int
) -> None:
    names = header.split(";")
    found = table.proposal(header, "anna@x.example;1;2024-01-01;", "bert@x.example;0;;2024-02-01")
    assert found.columns[names[0]] == "address"
    consent, refusal = found.consents
    assert (refusal.purpose, refusal.columns) == ("*", (names[refused],))
    assert consent.column == names[1]
    assert (consent.given_at, consent.withdrawn_at) == (names[given], names[refused])
    assert (consent.yes, consent.false) == (("1",), ("0",))


@pytest.mark.parametrize(
    "name",
    [
        *("Opt-out", "Unsubscribed", "Opted out of email: Newsletter", "Désinscrit", "BLACKLISTED"),
        *("Ne pas contacter", "Pas de newsletter", "Kein Newsletter", "Baja", "Werbesperre"),
        *("No newsletter", "Opt-in / opt-out", "doNotEmail", "Ne plus contacter", "Liste noire"),
        *("Pas de publicité", "Stop emailing", "No emails", "Nicht mehr kontaktieren"),
        *("Refuse la prospection", "No enviar correos", "Disiscritto", "Uitgeschreven"),
    ],
)
def test_a_column_of_refusals_is_never_taken_for_consents(table: Table, name: str) -> None:
    assert table.flag(name) == ((), ("oui",))


def test_a_column_that_may_hold_refusals_is_named(table: Table) -> None:
    found = table.proposal("email;Bloqué;Client VIP", "a@b.example;oui;oui")
    (note,) = found.notes
    assert note.startswith("'Bloqué' is not read; if a yes in it is a refusal")
    assert table.proposal("email;Refus le", "a@b.example;2024-01-01").consents[0].withdrawn_at


def test_not_refusing_is_not_consent(table: Table) -> None:
    (found,) = table.proposal("email;opt-out", "a@b.example;non", "c@b.example;oui").consents
    assert (found.yes, found.false, found.nothing) == ((), ("oui",), ("non",))


@pytest.mark.parametrize("cell", ["désinscrit", "Unsubscribed", "opt-out", "nein"])
def test_a_cell_alone_may_mean_no(table: Table, cell: str) -> None:
    assert table.flag("Newsletter", cell) == ((), (cell.casefold(),))


def test_refusals_with_unreadable_dates_are_not_lost(table: Table) -> None:
    days = [f"Mar {day}, 2024 {day}:00" for day in range(1, 30)]
    rows = ["email;Opt-in;Opt-in date;Unsubscribed at"]
    rows += [f"{n}@x.example;yes;2024-01-01;{day}" for n, day in enumerate(days)]
    (question,) = [one for one in table.proposal(*rows).questions if " seems to " in one.text]
    assert question.text.startswith("'Unsubscribed at' seems to say who refused, with cells like")
    assert (
        question.option == "--withdrawn-at 'Unsubscribed at', or --consent 'Unsubscribed at=none'"
    )
    for answer, columns in (("yes", ["Unsubscribed at"] * 2), ("no", [None])):
        found = table.proposal(*rows, answers=question.answered(answer))
        assert [one.withdrawn_at for one in found.consents] == columns
        assert not [one for one in found.questions if " seems to " in one.text]
        assert ("'Unsubscribed at': 29 cells are not dates" in found.notes) is (answer == "yes")


@pytest.mark.parametrize(
    ("column", "cells", "asked"),
    [
        ("Statut", ("Abonné", "Désabonné"), None),
        ("Email status", ("subscribed", "unsubscribed"), None),
        ("Status", ("Active", "Unsubscribed"), "'Status' says 'active' in 1 row: does that mean"),
        ("State", ("", "Opt-out"), None),
        ("Segment", ("B2B", "blacklisted"), "'Segment' says 'blacklisted' in 1 row"),
    ],
)
def test_a_cell_may_refuse_whatever_the_column_name(
    table: Table, column: str, cells: tuple[str, str], asked: str | None
) -> None:
    rows = [
        f"{name}@x.example;yes;2024-01-01;{cell}" for name, cell in zip("ab", cells, strict=True)
    ]
    found = table.proposal(f"email;Opt-in;Opt-in date;{column}", *rows)
    agreed, refused = found.consents
    assert (agreed.column, refused.column, refused.yes) == ("Opt-in", column, ())
    questions = [one.text for one in found.questions if " says " in one.text]
    if asked is None:
        assert (questions, refused.false) == ([], (cells[1].casefold(),))
    else:
        assert any(text.startswith(asked) for text in questions)
    answers = Answers(consents={column.casefold(): "none"})
    assert (
        len(table.proposal(f"email;Opt-in;Opt-in date;{column}", *rows, answers=answers).consents)
        == 1
    )


def test_unclear_cells_are_asked_about(table: Table) -> None:
    rows = ("email,newsletter,opt-in date", "a@b.example,peut-être,2024-01-01")
    (asked, *_) = table.proposal(*rows).questions
    assert "'newsletter' says 'peut-être' in 1 row:" in asked.text
    (found,) = table.proposal(*rows, answers=asked.answered("nothing")).consents
    assert (found.yes, found.nothing) == ((), ("peut-être",))


def test_an_ambiguous_date_is_asked_about(table: Table) -> None:
    rows = ("email,newsletter,opt-in date", "a@b.example,yes,03/04/2024")
    found = table.proposal(*rows)
    (asked,) = [one for one in found.questions if one.option.startswith("--time-format")]
    assert asked.choices == ("%d/%m/%Y", "%m/%d/%Y")
    answered = asked.answered("%m/%d/%Y")
    assert table.proposal(*rows, answers=answered).time_format == "%m/%d/%Y"


def test_one_unambiguous_date_settles_the_order_and_is_shown(table: Table) -> None:
    found = table.proposal("email,created", "a@b.example,03/04/2024", "b@b.example,31/12/2024")
    assert found.time_format == "%d/%m/%Y"
    assert "dates are day first: '31/12/2024' can be nothing else" in found.notes


def test_dates_in_both_orders_are_asked_about(table: Table) -> None:
    found = table.proposal("email,created", "a@b.example,12/31/2024", "b@b.example,31/12/2024")
    assert "--time-format" in options(found)


def test_each_purpose_has_its_own_columns_and_dates(table: Table) -> None:
    found = table.proposal(
        "email,newsletter,offers opt-in,date opt-in newsletter,date opt-in offers,unsubscribed at",
        "a@b.example,yes,no,2024-01-01,2024-01-02,2024-03-01",
        known=TWO,
    )
    assert [
        (one.purpose, one.column, one.given_at, one.withdrawn_at) for one in found.consents
    ] == [
        ("newsletter", "newsletter", "date opt-in newsletter", "unsubscribed at"),
        ("offers", "offers opt-in", "date opt-in offers", "unsubscribed at"),
        ("*", None, None, "unsubscribed at"),
    ]


def test_refusals_in_two_columns_all_count(table: Table) -> None:
    found = table.proposal(
        "email,unsubscribed at,opt-out date", "a@b.example,2024-03-01,2024-04-01"
    )
    assert [one.withdrawn_at for one in found.consents] == ["unsubscribed at", "opt-out date"]
    assert all(one.given_at is None for one in found.consents)


def test_two_columns_for_one_purpose_are_asked_about(table: Table) -> None:
    rows = ("email,opt-in,double opt-in,opt-in date", "a@b.example,yes,no,2024-01-01")
    (asked,) = [one for one in table.proposal(*rows).questions if "Which of" in one.text]
    (found,) = table.proposal(*rows, answers=asked.answered("double opt-in")).consents
    assert found.column == "double opt-in"


def test_the_date_of_an_undated_consent_is_asked_for(table: Table) -> None:
    rows = ("email,newsletter,created", "a@b.example,yes,2024-01-01")
    (asked,) = [one for one in table.proposal(*rows).questions if "when they agreed" in one.text]
    assert asked.choices == ("created",)
    (found,) = table.proposal(*rows, answers=asked.answered("created")).consents
    assert found.given_at == "created"
    one_day = asked.answered("2024-05-01")
    assert one_day.constants["consent_given_at"] == "2024-05-01"
    assert asked.check is not None
    with pytest.raises(ValueError, match="not a time"):
        asked.check("once")


@pytest.mark.parametrize(
    ("columns", "given_at", "expected"),
    [
        ("Opt-in date;Created", None, "Opt-in date"),
        ("Opt-in date;Created", "Created", "Created"),
        ("Opt-in;Created", "opt-in", "Opt-in"),
        ("Opt-in;Created", None, None),
    ],
)
def test_a_date_of_consent_alone_is_a_consent(
    table: Table, columns: str, given_at: str | None, expected: str | None
) -> None:
    rows = (f"email;{columns};Opt-out date", "a@x.example;2024-01-01;2024-01-02;2024-02-01")
    *found, refusal = table.proposal(*rows, answers=Answers(given_at=given_at)).consents
    assert (refusal.purpose, refusal.columns) == ("*", ("Opt-out date",))
    dated = [(one.purpose, one.column, one.given_at, one.withdrawn_at) for one in found]
    assert dated == ([("offers", None, expected, "Opt-out date")] if expected else [])


def test_a_sign_up_alone_is_not_consent(table: Table) -> None:
    found = table.proposal("email,date d'inscription", "a@b.example,2024-01-01")
    assert found.consents == ()
    assert found.columns["date d'inscription"] == "collected_at"


@pytest.mark.parametrize(
    "name",
    [
        "Désabonnement", "désabonnement newsletter", "Désinscriptions newsletter", "Unsub",
        "newsletter unsub", "Newsletter refusée", "Consent revoked", "consent withdrawn",
        "Retrait du consentement", "Einwilligung verweigert", "Newsletter Abmeldung",
        "Newsletter gesperrt", "subscription cancelled", "ancien abonné", "former subscriber",
        "hors newsletter", "boletín cancelado", "permission denied", "DoNotEmail", "ex-abonné",
        "IsExcludedFromCampaigns", "Exclu des campagnes",
    ],
)  # fmt: skip
def test_a_yes_in_a_column_that_says_no_is_a_refusal(table: Table, name: str) -> None:
    assert table.flag(name) == ((), ("oui",))


def test_the_date_of_a_withdrawn_consent_is_not_consent(table: Table) -> None:
    rows = "email;Date de consentement retiré", "a@b.example;2024-01-01"
    (consent,) = table.proposal(*rows).consents
    assert (consent.given_at, consent.withdrawn_at) == (None, "Date de consentement retiré")


@pytest.mark.parametrize("name", ["Newsletter reçue", "consent pending", "newsletter sent"])
def test_a_column_that_says_more_than_yes_is_asked_about(table: Table, name: str) -> None:
    rows = f"email;{name};opt-in date", "a@b.example;oui;2024-01-01"
    found = table.proposal(*rows)
    assert "--consent" in options(found)
    assert not any(one.column for one in found.consents)
    answers = Answers(consents={name.casefold(): "offers"})
    (consent,) = table.proposal(*rows, answers=answers).consents
    assert consent.yes == ("oui",)


def test_an_ip_address_or_a_text_is_not_a_flag(table: Table) -> None:
    found = table.proposal(
        "email,OPTIN_IP,Newsletter comments", "a@b.example,192.0.2.1,x", *["c@b.example,,y"] * 3
    )
    assert found.columns["OPTIN_IP"] == "consent_ip"


def test_numbers_are_dates_only_where_the_header_says_so(table: Table) -> None:
    found = table.proposal("email,code postal,created", "a@b.example,45000,45657")
    assert found.columns == {"email": "address", "created": "collected_at"}
    assert found.time_format == "excel"


def test_the_address_column_is_asked_for_if_several_could_be_it(table: Table) -> None:
    found = table.proposal("contact,backup", "a@b.example,b@b.example")
    assert found.questions[0].choices == ("contact", "backup")
    assert table.proposal("email,backup", "a@b.example,b@b.example").columns == {"email": "address"}


def test_a_cell_with_the_name_of_a_column_does_not_make_the_header_a_title(table: Table) -> None:
    assert is_title(table.look("Export;Channel", "Mail;Channel", "anna@x.example;mail"))
    assert not is_title(table.look("Mail;Channel", ";mail", "anna@x.example;phone"))
    assert not is_title(table.look("Login;Channel", "anna@x.example;mail", ";mail"))


def test_columns_sharing_a_name_are_left_out_and_named(table: Table) -> None:
    found = table.proposal("email,created,Created", "a@b.example,2024-01-01,2024-01-02")
    assert found.columns == {"email": "address"}
    assert "'created', 'Created': several columns have this name" in found.notes[0]


def test_the_brand_is_asked_for_if_there_are_several(table: Table) -> None:
    known = Known(("offers",), ("a", "b"), ())
    assert table.proposal("email", "a@b.example", known=known).questions[0].choices == ("a", "b")
    assert options(table.proposal("email", "a@b.example")) == ["--set"]  # the source


def test_cells_tell_consumers_from_professionals(table: Table) -> None:
    found = table.proposal(
        "email;Segment", "a@b.example;Particulier", "b@b.example;B2B", "c@b.example;?"
    )
    assert found.values["audience"] == {
        "Particulier": "consumer", "B2B": "professional", "?": "unknown",
    }  # fmt: skip


def test_memory_is_bounded_by_the_number_of_columns(table: Table) -> None:
    look = table.look("email,id", *(f"p{n}@b.example,{n}" for n in range(1_000)))
    assert (look.rows, look.columns[1].values, len(look.columns[1].examples)) == (1_000, None, 3)


def test_the_words_are_spelt_as_they_are_compared() -> None:
    for name in ("names", "cells", "words"):
        for texts in words(name).values():
            assert [text for text in texts if plain_words(text) != text] == []
    guessed = {"given_at", "signed_up_at", "withdrawn_at", "opt_in", "opt_out", "not", "others"}
    assert set(words("names")) - guessed <= set(FIELDS)
