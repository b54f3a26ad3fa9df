"""`smtpproxy consent`: a history of consents and withdrawals."""

import hashlib
import shlex
from datetime import timedelta
from pathlib import Path

import pytest

from smtpproxy.clock import now
from tests.cli.stored import DAY_ONE, Stored, first_line
from tests.kit.relay import REPOSITORY

ANNA = "anna@people.example"
RECORD = (
    "consent", "record", ANNA, "--purpose", "offers", "--method", "signed_form",
    "--given-at", DAY_ONE,
)  # fmt: skip
KNOWN = ("--wording", "form v3", "--source", "direct")


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    return Stored(tmp_path)


def test_record_and_withdraw(stored: Stored) -> None:
    recorded = stored.run(*RECORD, *KNOWN, "--ip", "192.0.2.7", "--channel", "email")
    assert (first_line(recorded), recorded.stderr) == (f"{ANNA}: consent to offers recorded", "")
    withdrawn = stored.run("consent", "withdraw", ANNA, "--purpose", "offers")
    assert first_line(withdrawn) == f"{ANNA}: withdrawal of offers recorded"
    (consent,) = stored.json("contact", "show", ANNA)["consents"]
    assert consent["withdrawn_at"] > consent["given_at"] == DAY_ONE
    assert consent["evidence"] == {"wording": "form v3", "ip": "192.0.2.7"}


def test_the_same_act_is_recorded_once(stored: Stored) -> None:
    stored.run(*RECORD, *KNOWN)
    again = stored.run(*RECORD, *KNOWN)
    assert first_line(again) == f"{ANNA}: consent to offers was already on record"
    assert stored.json(*RECORD, *KNOWN)["recorded"] is False
    assert len(stored.json("contact", "show", ANNA)["consents"]) == 1


def test_consenting_again_is_another_act(stored: Stored) -> None:
    stored.run(*RECORD, *KNOWN)
    stored.run("consent", "withdraw", ANNA, "--purpose", "offers", "--withdrawn-at", "2026-03-02")
    stored.run(*RECORD[:-1], "2026-03-03T10:00:00Z", *KNOWN)
    consents = stored.json("contact", "show", ANNA)["consents"]
    assert [(one["given_at"], one["withdrawn_at"]) for one in consents] == [
        (DAY_ONE, "2026-03-02T23:59:59.999999Z"),
        ("2026-03-03T10:00:00Z", None),
    ]


def test_what_keeps_a_consent_from_counting_is_reported(stored: Stored) -> None:
    warned = stored.run(*RECORD).stderr
    assert "it is not known how the address was obtained" in warned
    assert "--wording" in warned
    known = stored.run(*RECORD, "--source", "direct", "--wording", "form v3")
    assert known.stderr == ""


def test_a_suppression_that_outweighs_the_consent_is_reported(stored: Stored) -> None:
    stored.run("suppress", "add", ANNA, "--origin", "complaint", "--since", "2026-02-01")
    warned = stored.run(*RECORD, *KNOWN).stderr
    assert f"{ANNA} will still not be mailed on the stream offers: suppressed_complaint" in warned
    assert f"see smtpproxy suppress show {ANNA}" in warned


def test_a_later_withdrawal_that_outweighs_the_consent_is_reported(stored: Stored) -> None:
    stored.run("consent", "withdraw", ANNA, "--purpose", "offers", "--withdrawn-at", "2026-03-05")
    warned = stored.run(*RECORD, *KNOWN).stderr
    assert f"{ANNA} will still not be mailed on the stream offers: consent_withdrawn" in warned


def test_an_earlier_unsubscribe_yields_to_the_consent(stored: Stored) -> None:
    stored.run("suppress", "add", ANNA, "--origin", "unsubscribe", "--since", "2026-02-01")
    assert stored.run(*RECORD, *KNOWN).stderr == ""


AGAIN = (*RECORD[:-2], *KNOWN)


def test_the_documented_remedy_for_a_suppression_dated_ahead_works(stored: Stored) -> None:
    ahead = (now() + timedelta(hours=20)).isoformat()
    stored.run("suppress", "add", ANNA, "--origin", "unsubscribe", "--since", ahead)
    assert "not be mailed on the stream offers: suppressed_unsub" in stored.run(*AGAIN).stderr
    lifted = ("suppress", "remove", ANNA, "--origin", "unsubscribe")
    assert f"{ANNA}: may be mailed on offers" in stored.run(*lifted, *_documented_reason()).stdout


def _documented_reason() -> list[str]:
    text = " ".join((REPOSITORY / "docs/data.md").read_text().split())
    command = "smtpproxy suppress remove ADDRESS --origin unsubscribe "
    return shlex.split(text.partition(command)[2].partition("`")[0])


def test_the_documented_remedy_for_a_withdrawal_dated_ahead_works(stored: Stored) -> None:
    ahead = (now() + timedelta(hours=20)).isoformat()
    stored.run("consent", "withdraw", ANNA, "--purpose", "offers", "--withdrawn-at", ahead)
    assert "not be mailed on the stream offers: consent_withdrawn" in stored.run(*AGAIN).stderr
    stored.run("contact", "erase", ANNA)
    assert f"{ANNA}: may be mailed on offers" in stored.run(*AGAIN).stdout


REQUEST = ("consent", "record", ANNA, "--purpose", "offers", "--pending", "--source", "direct")
CONFIRM = ("consent", "record", ANNA, "--purpose", "offers", "--confirm")
MORNING, NOON = ("--given-at", "2026-03-02T08:00:00Z"), ("--given-at", "2026-03-02T12:00:00Z")


def test_a_double_opt_in_is_a_request_and_its_confirmation(stored: Stored) -> None:
    asked = stored.run(*REQUEST, *MORNING, "--wording", "form v3", "--version", "3")
    assert first_line(asked) == f"{ANNA}: request for offers recorded"
    assert "it allows no mail until the person confirms" in asked.stderr
    confirmed = stored.run(*CONFIRM, *NOON, "--ip", "192.0.2.7")
    assert (first_line(confirmed), confirmed.stderr) == (f"{ANNA}: consent to offers recorded", "")
    request, confirmation = stored.json("contact", "show", ANNA)["consents"]
    assert (request["pending"], request["method"]) == (True, "double_opt_in")
    assert request["evidence"] == {"wording": "form v3", "ip": None, "version": "3"}
    assert confirmation["given_at"] == NOON[1]
    assert "pending" not in confirmation


def test_a_second_click_on_the_same_link_adds_nothing(stored: Stored) -> None:
    stored.run(*REQUEST, *MORNING)
    stored.run(*CONFIRM, *NOON)
    again = stored.run(*CONFIRM)
    assert first_line(again) == f"{ANNA}: consent to offers was already on record"
    assert len(stored.json("contact", "show", ANNA)["consents"]) == 2


def test_only_a_requested_consent_can_be_confirmed(stored: Stored) -> None:
    stored.run(*REQUEST, *NOON)
    for purpose, at in (("appeals", NOON), ("offers", MORNING)):
        confirm = ("consent", "record", ANNA, "--purpose", purpose, "--confirm", *at)
        assert f"no request for {purpose} is on record" in stored.run(*confirm, code=1).stderr
    assert len(stored.json("contact", "show", ANNA)["consents"]) == 1


def test_after_a_withdrawal_consent_must_be_requested_again(stored: Stored) -> None:
    stored.run(*REQUEST, *MORNING)
    stored.run("consent", "withdraw", ANNA, "--purpose", "offers", "--withdrawn-at", NOON[1])
    assert "was withdrawn after it was requested" in stored.run(*CONFIRM, code=1).stderr
    stored.run(*REQUEST)
    stored.run(*CONFIRM)


def test_a_document_of_proof_is_stored_as_its_hash(stored: Stored) -> None:
    scan = stored.file("scan.pdf", b"signed")
    expected = hashlib.sha256(b"signed").hexdigest()
    stored.run(*RECORD, *KNOWN, "--document", scan, "--form", "stand at the fair")
    assert (
        stored.json(
            *RECORD, *KNOWN, "--document-hash", expected.upper(), "--form", "stand at the fair"
        )["recorded"]
        is False
    )
    (consent,) = stored.json("contact", "show", ANNA)["consents"]
    assert consent["evidence"]["document_hash"] == expected
    shown = stored.run("contact", "show", ANNA).stdout
    assert f"document SHA-256 {expected}" in shown
    assert "form “stand at the fair”" in shown


def test_a_withdrawal_dated_ahead_counts_now_and_says_so(stored: Stored) -> None:
    withdraw = ("consent", "withdraw", ANNA, "--purpose", "offers", "--withdrawn-at")
    assert "2999-01-01 is in the future; it counts" in stored.run(*withdraw, "2999-01-01").stderr
    (consent,) = stored.json("contact", "show", ANNA)["consents"]
    assert not consent["withdrawn_at"].startswith("2999")


def test_a_known_source_is_not_replaced(stored: Stored) -> None:
    stored.run(*RECORD, "--source", "partner")
    stored.run(*RECORD, "--source", "direct")
    assert stored.json("contact", "show", ANNA)["source"] == "partner"


def test_a_withdrawal_needs_no_contact(stored: Stored) -> None:
    done = stored.json("consent", "withdraw", ANNA, "--purpose", "offers")
    assert (done["address"], done["recorded"], done["act"]["withdrawal"]) == (ANNA, True, True)
    (consent,) = stored.json("contact", "show", ANNA)["consents"]
    assert consent["given_at"] is None


def test_a_purpose_without_a_stream_is_reported(stored: Stored) -> None:
    result = stored.run("consent", "withdraw", ANNA, "--purpose", "ofers")
    assert "no stream has the purpose 'ofers'" in result.stderr
    assert "appeals, b2b, marketing, offers" in result.stderr


def test_everything_can_be_refused_at_once(stored: Stored) -> None:
    result = stored.run("consent", "withdraw", ANNA, "--purpose", "*")
    assert "no stream has" not in result.stderr
    assert first_line(result) == f"{ANNA}: withdrawal of every purpose recorded"
    assert stored.json("suppress", "show", ANNA, code=1)["suppressions"] == []


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("record", ANNA, "--method", "signed_form"), "--purpose"),
        (("record", ANNA, "--purpose", "offers"), "--method"),
        (
            ("record", ANNA, "--purpose", "offers", "--method", "telepathy"),
            "'telepathy' is not one of double_opt_in",
        ),
        (("record", "anna", "--purpose", "x", "--method", "implied"), "'anna': there is no @"),
        (
            (
                "record",
                ANNA,
                "--purpose",
                "offers",
                "--method",
                "signed_form",
                "--given-at",
                "2999-01-01",
            ),
            "'2999-01-01' is in the future",
        ),
        ((*RECORD[1:], "--given-at", "1970-01-01"), "is before 1990, which stands for no date"),
        (
            ("record", ANNA, "--purpose", "offers", "--method", "signed_form", "--ip", "nonsense"),
            "'nonsense' is not an IP address such as 192.0.2.7",
        ),
        (
            (*RECORD[1:], "--document-hash", "12"),
            "'12' is not a SHA-256, which has 64 hexadecimal digits",
        ),
        ((*RECORD[1:], "--pending"), "only a double_opt_in waits"),
        ((*REQUEST[1:], "--confirm"), "--pending or --confirm, not both"),
        (
            (*RECORD[1:], "--document", __file__, "--document-hash", "0a" * 32),
            "--document or --document-hash, not both",
        ),
        (("withdraw", ANNA), "--purpose"),
        (("withdraw", ANNA, "--purpose", "x", "--withdrawn-at", "now"), "'now' is not a time"),
        (("withdraw", ANNA, "--purpose", " "), "--purpose"),
    ],
)
def test_wrong_usage_ends_with_2(stored: Stored, arguments: tuple[str, ...], part: str) -> None:
    assert part in stored.run("consent", *arguments, code=2).stderr
