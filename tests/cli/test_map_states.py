"""`contact map` and columns that say how things stand with a subscriber: who bounced, who
complained, who never confirmed, in words, codes and dates."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from smtpproxy.cli import main
from tests.cli.stored import Stored
from tests.cli.test_contact_map import KNOWN, mapped, stored

__all__ = ["stored"]

PEOPLE = [f"{name}@people.example" for name in ("anna", "bert", "carl", "dora", "emil")]


def table(header: str, *rows: str) -> str:
    """Return a table whose rows begin with the addresses of people."""
    lines = (f"{who},{row}" for who, row in zip(PEOPLE, rows, strict=False))
    return "\n".join([header, *lines, ""])


def allowed(stored: Stored, path: str, mapping: Path) -> list[str]:
    """Import a file, and return the names of those who may be mailed offers."""
    stored.run("contact", "import", path, "--mapping", str(mapping))
    list_path, kept = stored.file("list", "\n".join(PEOPLE)), stored.folder / "kept"
    stored.run("scrub", list_path, "--stream", "offers", "--output", str(kept), code=None)
    rows = [line.split(",") for line in kept.read_text().splitlines()]
    return [address.partition("@")[0] for address, verdict, *_ in rows if verdict == "allow"]


WORDS = table(
    "Email Address,Date Subscribed,State",
    *(f"2026-03-02,{state}" for state in ("Active", "Bounced", "Deleted", "Unconfirmed", "Spam")),
)
CODES = table("email,created,status", *(f"2026-03-02,{code}" for code in "CUBSP"))
DATES = table(
    "email,opted_in_at,marked_as_spam_at,hard_bounced_at,CLEAN_TIME",
    *("2026-03-02,,,", "2026-03-02,2026-04-02,,", "2026-03-02,,2026-04-02,"),
    "2026-03-02,,,2026-04-02",
)
TOGETHER = table("EMAIL,OPTIN,OPTINDATE,HASOPTEDOUTOFEMAIL,ISBOUNCED",
                 *("1,2026-03-02,false,false", "1,2026-03-02,true,false", "1,2026-03-02,false,true")
                 )  # fmt: skip
REASONS = table(
    "email,Opt-in,Opt-in date,List status",
    *(f"yes,2026-03-02,{one}" for one in ("Subscribed", "Pending", "Not confirmed", "NPAI")),
)


@pytest.mark.parametrize(
    ("content", "options"),
    [
        (WORDS, ["--nothing", "active"]),
        (
            CODES,
            [
                *("--consent", "created=offers", "--true", "u", "--true", "b", "--true", "s"),
                *("--true", "p", "--nothing", "c"),
            ],
        ),
        (DATES, ["--given-at", "opted_in_at"]),
        (TOGETHER, ["--consent", "OPTIN=offers", "--given-at", "OPTINDATE"]),
        (REASONS, []),
    ],
)
def test_whoever_bounced_complained_or_never_confirmed_is_not_mailed(
    stored: Stored, content: str, options: list[str]
) -> None:
    path = stored.file("export.csv", content)
    assert allowed(stored, path, mapped(stored, path, *options)) == ["anna"]


def test_codes_of_a_state_are_asked_about_at_once_and_never_taken_for_yes_and_no(
    stored: Stored,
) -> None:
    path = stored.file("export.csv", CODES)
    command = ["contact", "map", path, *KNOWN, "--consent", "created=offers"]
    error = stored.run(*command, "--yes", code=2).stderr
    assert "Which cells of 'status' mean that somebody must not be mailed" in error
    assert "b, c, p, s, u? Give them with commas" in error
    assert "--nothing CELL for each other one, or --consent 'status=none'" in error
    config = ["--config", str(stored.config_path)]
    done = CliRunner().invoke(main, [*command, *config], input="y\nx\nU, b,s,p\n\n")
    assert done.exit_code == 0, done.stderr
    assert "'x' is not one of b, c, p, s, u" in done.stderr
    assert allowed(stored, path, stored.folder / "export.mapping.toml") == ["anna"]


def test_one_letter_is_no_yes_among_other_letters(stored: Stored) -> None:
    path = stored.file("export.csv", CODES)
    said = ("--consent", "status=offers", "--given-at", "created")
    error = stored.run("contact", "map", path, "--yes", *KNOWN, *said, code=2).stderr
    assert "'status' says 's' in 1 row: does that mean yes (a consent)" in error


def test_a_state_of_something_else_is_not_read(stored: Stored) -> None:
    path = stored.file("export.csv", CODES.replace("status", "Order status"))
    assert "Order status" in mapped(stored, path).read_text().partition("# not read: ")[2]
    (stored.folder / "export.mapping.toml").unlink()
    path = stored.file("export.csv", CODES)
    mapping = mapped(stored, path, "--consent", "status=none")
    assert '"status"' in mapping.read_text().partition("# not read: ")[2]


def test_bounces_are_said_to_need_another_import_to_stop_all_mail(stored: Stored) -> None:
    path = stored.file("export.csv", DATES)
    found = stored.json("contact", "map", path, "--yes", *KNOWN, "--given-at", "opted_in_at")
    (note,) = found["notes"]
    assert note.startswith("'marked_as_spam_at', 'hard_bounced_at': a bounce or a complaint stops")


def test_dates_that_may_be_of_refusals_are_named(stored: Stored) -> None:
    path = stored.file("export.csv", table("email,Opt-in date,Deleted at", "2026-03-02,2026-04-02"))
    (note,) = stored.json("contact", "map", path, "--yes", *KNOWN)["notes"]
    assert note.endswith("if its dates are those of refusals: --withdrawn-at 'Deleted at'")


def test_one_day_may_be_given_for_all(stored: Stored) -> None:
    content = table("Email,Accepts Email Marketing", "yes", "no", "no", "no", "no")
    path = stored.file("export.csv", content)
    error = stored.run("contact", "map", path, "--yes", *KNOWN, code=2).stderr
    assert "or one day for all: --set consent_given_at=" in error
    mapping = mapped(stored, path, "--set", "consent_given_at=2026-03-02")
    assert allowed(stored, path, mapping) == ["anna"]


def test_texts_that_are_not_read_but_may_refuse_are_named(stored: Stored) -> None:
    texts = [
        "Ne plus contacter svp",
        "a demandé sa désinscription",
        *(f"n° {n}" for n in range(40)),
    ]
    rows = (f"p{n}@people.example,yes,2026-03-02,{one}\n" for n, one in enumerate(texts))
    path = stored.file("export.csv", f"email,Opt-in,Opt-in date,Remarque\n{''.join(rows)}")
    (note,) = stored.json("contact", "map", path, "--yes", *KNOWN)["notes"]
    assert note.startswith(
        "'Remarque' is not read, but 2 cells say what may be a refusal (the first in line 2): give"
    )
    said = ("--output", str(stored.folder / "other.toml"), "--consent", "Remarque=none")
    assert stored.json("contact", "map", path, "--yes", *KNOWN, *said)["notes"] == []
