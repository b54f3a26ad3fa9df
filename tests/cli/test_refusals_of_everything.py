"""Refusals of everything in an export of a CRM: they hold for purposes that come later, too."""

import json
import tomllib

import pytest

from tests.cli.stored import Stored
from tests.cli.test_contact_map import KNOWN, mapped, stored
from tests.kit.toml import to_toml

__all__ = ["stored"]

ANNA = "anna@people.example"


def crm(column: str, cell: str, bought: str = "2026-11-01") -> str:
    header = f"Email,Opt-in offers,Opt-in date,{column},Bought"
    return f"{header}\n{ANNA},yes,2026-03-01,{cell},{bought}\n"


def add_stream(stored: Stored, name: str) -> None:
    """Add a stream with a new purpose for the same product."""
    config = tomllib.loads(stored.config_path.read_text())
    (offers,) = (one for one in config["stream"] if one["name"] == "offers")
    config["stream"].append({**offers, "name": name, "purpose": name})
    stored.config_path.write_text(to_toml(config))


def customer(stored: Stored) -> None:
    """Record what lets a customer be mailed, whatever the purpose."""
    told = {
        "address": ANNA, "audience": "consumer", "source": "direct",
        "collected_at": "2026-02-01T00:00:00Z", "informed_at": "2026-02-01T00:00:00Z",
        "optout_offered": True,
        "purchases": [{"product": "shoes", "at": "2026-11-01T00:00:00Z"}],
    }  # fmt: skip
    stored.run("contact", "import", stored.file("known.ndjson", json.dumps(told) + "\n"))


def verdict(stored: Stored, stream: str) -> dict[str, int]:
    """Return the basis or the reason for Anna on a stream."""
    path = stored.file("list", f"{ANNA}\n")
    found = stored.json("scrub", path, "--stream", stream, code=None)
    return {**found["by_basis"], **found["by_reason"]}


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        ("Unsubscribed from all email", "yes"),
        ("HasOptedOutOfEmail", "true"),
        ("Email opt out", "1"),
        ("Unsubscribed at", "2026-04-01"),
        ("State", "unsubscribed"),
    ],
)
def test_it_holds_for_a_stream_that_comes_later_until_it_is_undone(
    stored: Stored, column: str, cell: str
) -> None:
    customer(stored)
    path = stored.file("crm.csv", crm(column, cell))
    mapping = mapped(stored, path)
    dry = stored.json("contact", "import", path, "--mapping", str(mapping), "--dry-run")
    assert dry["changed"] == 1
    done = stored.json("contact", "import", path, "--mapping", str(mapping))
    assert done["changed"] == 1
    add_stream(stored, "news")
    for stream in ("offers", "news"):
        assert verdict(stored, stream) == {"consent_withdrawn": 1}
    shown = stored.run("contact", "show", ANNA).stdout
    assert "every purpose withdrawn" in shown
    stored.run("import", "undo", done["id"], "--yes")
    assert verdict(stored, "news") == {"existing_customer": 1}


def test_it_yields_to_a_consent_given_later_for_that_purpose_alone(stored: Stored) -> None:
    customer(stored)
    path = stored.file("crm.csv", crm("Unsubscribed at", "2026-04-01"))
    mapping = str(mapped(stored, path))
    stored.run("contact", "import", path, "--mapping", mapping)
    add_stream(stored, "news")
    stored.run(
        "consent", "record", ANNA, "--purpose", "news", "--method", "unticked_box",
        "--wording", "Je veux la lettre", "--given-at", "2026-05-01T00:00:00Z",
    )  # fmt: skip
    again = stored.json("contact", "import", path, "--mapping", mapping)
    assert (again["changed"], again["unchanged"]) == (0, 1)
    assert verdict(stored, "news") == {"consent": 1}
    assert verdict(stored, "offers") == {"consent_withdrawn": 1}


@pytest.mark.parametrize(
    ("agreed", "expected"), [("yes,2026-03-01", "consent"), (",", "consent_withdrawn")]
)
def test_a_date_that_stands_for_none_ends_no_agreement(
    stored: Stored, agreed: str, expected: str
) -> None:
    customer(stored)
    path = stored.file(
        "crm.csv", crm("Unsubscribed at", "1970-01-01").replace("yes,2026-03-01", agreed)
    )
    stored.run("contact", "import", path, "--mapping", str(mapped(stored, path)))
    assert verdict(stored, "offers") == {expected: 1}


def test_it_is_shown_for_what_it_is(stored: Stored) -> None:
    path = stored.file("crm.csv", crm("Email opt out", "yes"))
    assert "refusal of every purpose" in stored.run("contact", "map", path, "--yes", *KNOWN).stdout
    text = (stored.folder / "crm.mapping.toml").read_text()
    assert 'purpose = "*"' in text
    assert "a refusal of all marketing, whatever comes" in text


@pytest.mark.parametrize("more", ['true = ["yes"]', "", 'true = []\ngiven_at = "Opt-in date"'])
def test_nobody_agrees_to_everything(stored: Stored, more: str) -> None:
    path = stored.file("crm.csv", crm("Email opt out", "yes"))
    table = f'[[consent]]\npurpose = "*"\ncolumn = "Email opt out"\nno = "withdrawal"\n{more}\n'
    mapping = stored.file("m.toml", f'[columns]\nEmail = "address"\n{table}')
    done = stored.run("contact", "import", path, "--mapping", mapping, code=2)
    assert 'consent "*": purpose: "*" is for refusals of everything' in done.stderr
