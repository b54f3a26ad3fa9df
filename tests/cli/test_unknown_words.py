"""Unknown purposes, methods and kinds of addresses are reported, never swallowed."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.stored import Stored

ANNA = "anna@people.example"
THEN = "2026-01-01T00:00:00Z"


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    return Stored(tmp_path)


def imported(stored: Stored, *, code: int = 0, **fields: Any) -> tuple[str, str]:
    """Import one contact; return the rejected lines and standard error."""
    line = json.dumps({"address": ANNA, "source": "direct", **fields})
    path = stored.file("people.ndjson", line)
    told = stored.run("contact", "import", path, code=code).stderr
    aside = Path(f"{path}.rejected")
    return (aside.read_text() if aside.exists() else ""), told


def scopes(stored: Stored) -> list[tuple[str, str]]:
    shown = stored.json("suppress", "show", ANNA)["suppressions"]
    return [(one["scope"], one["origin"]) for one in shown]


def consent(**fields: Any) -> list[dict[str, Any]]:
    return [{"purpose": "offers", "method": "unticked_box", "given_at": THEN, **fields}]


def test_consent_to_an_unknown_purpose_or_by_an_unknown_method_is_rejected(
    stored: Stored,
) -> None:
    aside, _ = imported(stored, code=1, consents=consent(purpose="ofers"))
    assert "no stream has the purpose 'ofers'; known: " in aside
    aside, _ = imported(stored, code=1, consents=consent(method="untickd_box"))
    assert "method 'untickd_box' is not one of double_opt_in, implied" in aside
    stored.run("contact", "show", ANNA, code=1)
    record = ("consent", "record", ANNA, "--purpose", "ofers", "--method", "signed_form")
    assert "no stream has the purpose 'ofers'" in stored.run(*record, code=2).stderr


def test_consent_to_tracking_is_kept_without_a_stream_for_it(stored: Stored) -> None:
    aside, told = imported(stored, consents=consent(purpose="tracking"))
    assert (aside, "no stream" in told) == ("", False)
    record = ("consent", "record", ANNA, "--purpose", "tracking", "--method", "signed_form")
    stored.run(*record, "--wording", "May we see what you open?")
    stored.run("consent", "withdraw", ANNA, "--purpose", "tracking")
    shown = stored.json("contact", "show", ANNA)["consents"]
    assert {each["purpose"] for each in shown} == {"tracking"}
    assert shown[-1]["withdrawn_at"]
    stored.run("suppress", "show", ANNA, code=1)
    start = ("consent", "start", ANNA, "--purpose", "tracking", "--wording", "May we?")
    assert "asks only whether people want mail" in stored.run(*start, code=2).stderr


@pytest.mark.parametrize(
    ("said", "kept", "told"),
    [
        ({}, None, True),
        ({"conditional": False}, False, False),
        ({"conditional": True}, True, False),
    ],
)
def test_whether_consent_was_a_condition_can_be_unknown(
    stored: Stored, said: dict[str, Any], kept: bool | None, told: bool
) -> None:
    imported(stored, consents=consent(**said))
    (one,) = stored.json("contact", "show", ANNA)["consents"]
    assert one["conditional"] is kept
    shown = " ".join(stored.run("contact", "show", ANNA).stdout.split())
    assert ("whether as a condition of the service is not on record" in shown) is told


def test_a_later_answer_corrects_the_act(stored: Stored) -> None:
    imported(stored, consents=consent())
    imported(stored, consents=consent(conditional=False))
    imported(stored, consents=consent())
    (one,) = stored.json("contact", "show", ANNA)["consents"]
    assert one["conditional"] is False


@pytest.mark.parametrize(
    ("flags", "kept"),
    [((), None), (("--conditional", "yes"), True), (("--conditional", "no"), False)],
)
def test_the_command_can_answer_it_or_leave_it_open(
    stored: Stored, flags: tuple[str, ...], kept: bool | None
) -> None:
    record = ("consent", "record", ANNA, "--purpose", "offers", "--method", "signed_form")
    stored.run(*record, "--wording", "form v3", "--given-at", THEN)
    stored.run(*record, "--wording", "form v3", "--given-at", THEN, *flags)
    (one,) = stored.json("contact", "show", ANNA)["consents"]
    assert one["conditional"] is kept


def test_a_withdrawal_from_every_purpose_is_kept_as_such(stored: Stored) -> None:
    withdrawn = [{"purpose": "*", "withdrawn_at": THEN}]
    _, told = imported(stored, consents=withdrawn)
    assert "no stream has" not in told
    assert stored.json("suppress", "show", ANNA, code=1)["suppressions"] == []
    assert "every purpose withdrawn" in stored.run("contact", "show", ANNA).stdout


def test_a_withdrawal_from_an_unknown_purpose_counts_for_all_marketing(stored: Stored) -> None:
    withdrawn = [{"purpose": "ofers", "withdrawn_at": THEN}]
    _, told = imported(stored, consents=withdrawn)
    assert "1 withdrawal is for a purpose that no stream has ('ofers'): each counts" in told
    assert scopes(stored) == [("marketing", "unsubscribe")]


COMMANDS = [
    (("consent", "withdraw", ANNA, "--purpose", "ofers"), "unsubscribe"),
    (("contact", "object", ANNA, "--purpose", "ofers"), "objection"),
    (("suppress", "add", ANNA, "--scope", "purpose:ofers"), "manual"),
]


@pytest.mark.parametrize(("command", "origin"), COMMANDS)
def test_so_does_a_refusal_by_command(
    stored: Stored, command: tuple[str, ...], origin: str
) -> None:
    told = stored.run(*command).stderr
    assert "no stream has the purpose 'ofers', so this counts for all marketing" in told
    assert scopes(stored) == [("marketing", origin)]


def test_so_does_an_imported_suppression(stored: Stored) -> None:
    path = stored.file("x.csv", f"address,scope,origin\n{ANNA},purpose:ofers,objection\n")
    told = stored.run("suppress", "import", path).stderr
    assert "1 suppression is for a purpose that no stream has ('ofers')" in told
    assert scopes(stored) == [("marketing", "objection")]
    known = stored.file("y.csv", f"address,scope,origin\n{ANNA},purpose:offers,objection\n")
    stored.run("suppress", "import", known)
    assert ("purpose:offers", "objection") in scopes(stored)


def test_a_generic_address_at_a_mailbox_provider_is_rejected(stored: Stored) -> None:
    aside, _ = imported(stored, code=1, address="contact@gmail.com", audience="generic")
    assert "generic is for addresses of an organisation, and this one is at a provider" in aside
    imported(stored, address="contact@people.example", audience="generic")


def test_professionals_at_mailbox_providers_are_counted(stored: Stored) -> None:
    _, told = imported(stored, address="plumber@orange.fr", audience="professional")
    assert "1 professional has an address at a provider of private mailboxes" in told


def test_generic_addresses_that_name_no_department_are_counted(stored: Stored) -> None:
    """A generic address needs no basis; a person's does, whatever the file calls it."""
    for address, counts in (
        ("jean.dupont@people.example", True),
        ("pole.achats@people.example", False),
        ("contact@people.example", False),
    ):
        _, told = imported(stored, address=address, audience="generic", source="direct")
        assert ("1 generic address names no department" in told) is counts, address


def test_addresses_whose_first_message_must_name_the_source_are_counted(stored: Stored) -> None:
    """RGPD art. 14(3)(b): unless every stream checks that, the sender has to."""
    said = "1 address came from somebody else: the first message must say from whom"
    came = {
        "source": "purchased",
        "provenance": {"supplier": "Lists Ltd", "sender_disclosed": True},
    }
    assert said in imported(stored, **came)[1]
    assert said not in imported(stored, source="direct")[1]
    assert said not in imported(stored, **came, first_contacted_at=THEN)[1]
    stored.config_path.write_text(
        stored.config_path.read_text().replace(
            'class = "marketing"', 'class = "marketing"\nfirst_contact_notice = true'
        )
    )
    assert said not in imported(stored, **came)[1]


def test_a_tag_protected_by_the_rulebook_follows_a_new_address(stored: Stored) -> None:
    imported(stored, tags=[" Restricted"])
    imported(stored, address="anna.b@people.example", audience="consumer")
    rectify = ("contact", "rectify", ANNA, "--new-address", "anna.b@people.example")
    stored.run(*rectify, "--reason", "she moved")
    assert stored.json("contact", "show", "anna.b@people.example")["tags"] == [" Restricted"]


def test_consent_for_a_harvested_address_says_what_still_refuses(stored: Stored) -> None:
    imported(stored, source="harvested")
    record = ("consent", "record", ANNA, "--purpose", "offers", "--method", "signed_form")
    told = stored.run(*record, "--wording", "form v3", "--source", "direct").stderr
    assert "will still not be mailed on the stream offers: source_forbidden, since" in told
    assert f"smtpproxy contact rectify {ANNA} --source direct --reason TEXT" in told
    rectify = ("contact", "rectify", ANNA, "--source", "direct", "--reason", "signed at the till")
    stored.run(*rectify)
    again = stored.run(*record, "--wording", "form v4", "--source", "direct").stderr
    assert "will still not be mailed" not in again
