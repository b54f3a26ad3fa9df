"""`smtpproxy consent`: acts of agreement and withdrawal, as a history."""

from pathlib import Path

import pytest

from tests.cli.stored import DAY_ONE, Stored

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
    assert (recorded.stdout, recorded.stderr) == (f"{ANNA}: consent to offers recorded\n", "")
    withdrawn = stored.run("consent", "withdraw", ANNA, "--purpose", "offers")
    assert withdrawn.stdout == f"{ANNA}: withdrawal of offers recorded\n"
    (consent,) = stored.json("contact", "show", ANNA)["consents"]
    assert consent["withdrawn_at"] > consent["given_at"] == DAY_ONE
    assert consent["evidence"] == {"wording": "form v3", "ip": "192.0.2.7"}


def test_the_same_act_is_recorded_once(stored: Stored) -> None:
    stored.run(*RECORD, *KNOWN)
    assert (
        stored.run(*RECORD, *KNOWN).stdout == f"{ANNA}: consent to offers was on record already\n"
    )
    assert stored.json(*RECORD, *KNOWN)["recorded"] is False
    assert len(stored.json("contact", "show", ANNA)["consents"]) == 1


def test_agreeing_again_is_another_act(stored: Stored) -> None:
    stored.run(*RECORD, *KNOWN)
    stored.run("consent", "withdraw", ANNA, "--purpose", "offers", "--withdrawn-at", "2026-03-02")
    stored.run(*RECORD[:-1], "2026-03-03T10:00:00Z", *KNOWN)
    consents = stored.json("contact", "show", ANNA)["consents"]
    assert [(one["given_at"], one["withdrawn_at"]) for one in consents] == [
        (DAY_ONE, "2026-03-02T23:59:59.999999Z"),
        ("2026-03-03T10:00:00Z", None),
    ]


def test_what_keeps_a_consent_from_counting_is_pointed_out(stored: Stored) -> None:
    warned = stored.run(*RECORD).stderr
    assert "how the address was obtained is not known" in warned
    assert "--wording" in warned
    known = stored.run(*RECORD, "--source", "direct", "--wording", "form v3")
    assert known.stderr == ""


def test_a_suppression_that_outweighs_the_consent_is_pointed_out(stored: Stored) -> None:
    stored.run("suppress", "add", ANNA, "--origin", "complaint", "--since", "2026-02-01")
    warned = stored.run(*RECORD, *KNOWN).stderr
    assert f"{ANNA} will still not be mailed on the stream offers: suppressed_complaint" in warned
    assert f"see smtpproxy suppress show {ANNA}" in warned


def test_an_unsubscribe_of_before_gives_way_to_the_consent(stored: Stored) -> None:
    stored.run("suppress", "add", ANNA, "--origin", "unsubscribe", "--since", "2026-02-01")
    assert stored.run(*RECORD, *KNOWN).stderr == ""


def test_a_withdrawal_of_the_future_counts_now_and_says_so(stored: Stored) -> None:
    withdraw = ("consent", "withdraw", ANNA, "--purpose", "offers", "--withdrawn-at")
    assert "2999-01-01 is in the future; it counts" in stored.run(*withdraw, "2999-01-01").stderr


def test_a_source_that_is_known_is_not_replaced(stored: Stored) -> None:
    stored.run(*RECORD, "--source", "partner")
    stored.run(*RECORD, "--source", "direct")
    assert stored.json("contact", "show", ANNA)["source"] == "partner"


def test_a_withdrawal_needs_no_contact(stored: Stored) -> None:
    done = stored.json("consent", "withdraw", ANNA, "--purpose", "offers")
    assert (done["address"], done["recorded"], done["act"]["withdrawal"]) == (ANNA, True, True)
    (consent,) = stored.json("contact", "show", ANNA)["consents"]
    assert consent["given_at"] is None


def test_a_purpose_that_no_stream_has_is_pointed_out(stored: Stored) -> None:
    result = stored.run("consent", "withdraw", ANNA, "--purpose", "ofers")
    assert "no stream has the purpose 'ofers'" in result.stderr
    assert "appeals, b2b, marketing, offers" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("record", ANNA, "--method", "signed_form"), "--purpose"),
        (("record", ANNA, "--purpose", "offers"), "--method"),
        (
            ("record", ANNA, "--purpose", "offers", "--method", "telepathy"),
            "'telepathy' is none of double_opt_in",
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
        (
            ("record", ANNA, "--purpose", "offers", "--method", "signed_form", "--ip", "nonsense"),
            "'nonsense' is no IP address such as 192.0.2.7",
        ),
        (("withdraw", ANNA), "--purpose"),
        (("withdraw", ANNA, "--purpose", "x", "--withdrawn-at", "now"), "'now' is not a time"),
        (("withdraw", ANNA, "--purpose", " "), "--purpose"),
    ],
)
def test_wrong_usage_ends_with_2(stored: Stored, arguments: tuple[str, ...], part: str) -> None:
    assert part in stored.run("consent", *arguments, code=2).stderr
