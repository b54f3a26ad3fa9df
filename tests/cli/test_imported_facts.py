"""Facts that imports and commands accept: none in the future, no yes or no that nobody gave."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.cli.stored import Stored

ANNA = "anna@people.example"
AGREED = {"purpose": "offers", "given_at": "2024-01-01T00:00:00Z", "method": "signed_form"}
IN_HOURS = (datetime.now(UTC) + timedelta(hours=20)).isoformat()


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    return Stored(tmp_path)


def imported(stored: Stored, code: int = 0, **fields: Any) -> str:
    """Import one contact; return the rejected lines."""
    path = stored.file("people.ndjson", json.dumps({"address": ANNA, **fields}))
    stored.run("contact", "import", path, code=code)
    aside = Path(f"{path}.rejected")
    return aside.read_text() if aside.exists() else ""


FUTURE: list[tuple[dict[str, Any], str]] = [
    ({"collected_at": "2062-01-01T00:00:00Z"}, "collected_at 2062-01-01T00:00:00Z"),
    ({"informed_at": "2062-01-01T00:00:00Z"}, "informed_at 2062"),
    ({"last_activity_at": "2062-01-01T00:00:00Z"}, "last_activity_at 2062"),
    ({"first_contacted_at": "2062-01-01T00:00:00Z"}, "first_contacted_at 2062"),
    ({"purchases": [{"product": "x", "at": "2062-01-01T00:00:00Z"}]}, "purchases: at 2062"),
    (
        {"provenance": {"chain": [{"supplier": "X", "at": "2062-01-01T00:00:00Z"}]}},
        "provenance: chain: at 2062",
    ),
]


@pytest.mark.parametrize(("fields", "part"), FUTURE)
def test_facts_in_the_future_are_rejected_and_named(
    stored: Stored, fields: dict[str, Any], part: str
) -> None:
    aside = imported(stored, code=1, **fields)
    assert f"{part}" in aside
    assert "is in the future; expected the time when it happened" in aside
    stored.run("contact", "show", ANNA, code=1)


def test_a_refusal_without_a_date_outweighs_what_was_agreed_before(stored: Stored) -> None:
    people = [f"{name}@people.example" for name in ("anna", "bert", "carl", "dora")]
    agreed = {**AGREED, "given_at": "2026-03-01T00:00:00Z", "evidence": {"wording": "Yes"}}
    line = {"source": "direct", "collected_at": "2026-03-01T00:00:00Z", "consents": [agreed]}
    lines = (json.dumps({"address": one, **line}) for one in people)
    stored.run("contact", "import", stored.file("all.ndjson", "\n".join(lines)))
    rows = "address,scope,origin,since\n{},marketing,unsubscribe,0001-01-01T00:00:00Z\n"
    done = stored.run("suppress", "import", stored.file("left.csv", rows.format(people[0])))
    assert "1 suppression dated in the future or before 1990" in done.stderr
    exported = stored.file(
        "sendgrid-global-unsubscribes.csv", f"email,created\n{people[1]},000000000\n"
    )
    stored.run("suppress", "import", exported)
    rows = "address,consent_purpose,consent_withdrawn_at\n{},offers,1900-01-01\n"
    done = stored.run("contact", "import", stored.file("left.csv", rows.format(people[2])))
    assert "1 contact with a withdrawal or a wish dated in the future or before 1990" in done.stderr
    both = {
        **line,
        "consents": [agreed, {"purpose": "offers", "withdrawn_at": "1900-01-01T00:00:00Z"}],
    }
    path = stored.file("both.ndjson", json.dumps({"address": people[3], **both}))
    stored.run("contact", "import", path)  # the agreement says that it stands for no withdrawal
    found = stored.json(
        "scrub", stored.file("list", "\n".join(people)), "--stream", "offers", code=1
    )
    assert found["allowed"] == 1
    assert found["by_reason"] == {"suppressed_unsubscribe": 2, "consent_withdrawn": 1}


@pytest.mark.parametrize("of", [{"brand": "mill"}, {"channels": ["phone"]}])
def test_a_refusal_without_a_date_counts_next_to_an_agreement_to_something_else(
    tmp_path: Path, of: dict[str, Any]
) -> None:
    about = {"legal_name": "X", "address": "Rue 1"}
    brands = [{"name": name, **about} for name in ("shop", "mill")]
    stream = {"name": "offers", "class": "marketing", "purpose": "offers", "brand": "shop"}
    stored = Stored(tmp_path, {"brand": brands, "stream": [stream]})
    agreed = {**AGREED, "brand": "shop", "evidence": {"wording": "Yes"}}
    left = {"purpose": "offers", "brand": "shop", "withdrawn_at": "1970-01-01T00:00:00Z"}
    assert imported(stored, consents=[agreed | of, left]) == ""
    acts = stored.json("contact", "show", ANNA)["consents"]
    (withdrawn,) = (act["withdrawn_at"] for act in acts if act.get("withdrawn_at"))
    assert withdrawn > "2026"


@pytest.mark.parametrize("never", ["0001-01-01", "1970-01-01T00:00:00Z"])
@pytest.mark.parametrize("method", ["signed_form", "nothing-known"])
def test_a_withdrawal_without_a_date_in_the_row_of_an_agreement_is_none(
    stored: Stored, never: str, method: str
) -> None:
    """Programs date it so for everybody who never withdrew."""
    assert imported(stored, consents=[{**AGREED, "evidence": {"wording": "Yes"}}]) == ""
    header = "address,consent_purpose,consent_given_at,consent_method,consent_withdrawn_at\n"
    row = f"{ANNA},offers,2024-01-01,{method},{never}\n"
    done = stored.run("contact", "import", stored.file("again.csv", header + row), code=None)
    assert done.exit_code == (method != "signed_form")
    assert "dated in the future or before 1990" not in done.stderr
    mapping = (
        '[columns]\naddress = "address"\n[[consent]]\npurpose = "offers"\n'
        'given_at = "consent_given_at"\nwithdrawn_at = "consent_withdrawn_at"\n'
    )
    more = "--mapping", stored.file("map.toml", mapping), "--replace", "none"
    stored.run("contact", "import", stored.file("a.csv", header + row), *more)
    if "T" in never:
        one = {**AGREED, "method": method, "withdrawn_at": never}
        imported(stored, code=int(method != "signed_form"), consents=[one])
    acts = stored.json("contact", "show", ANNA)["consents"]
    assert [act["withdrawn_at"] for act in acts] == [None] * len(acts)


@pytest.mark.parametrize("never", ["0001-01-01", "1900-01-01", "1970-01-01"])
def test_a_date_that_stands_for_none_is_no_agreement_and_no_purchase(
    stored: Stored, never: str
) -> None:
    at = f"{never}T00:00:00Z"
    agreed, left = {**AGREED, "given_at": at}, {"purpose": "news", "withdrawn_at": at}
    aside = imported(stored, code=1, consents=[agreed, left])
    assert f"consents: given_at {at} is how programs write that there is no date" in aside
    (kept,) = stored.json("contact", "show", ANNA)["consents"]
    assert kept["purpose"] == "news"
    rows = f"address,consent_purpose,consent_given_at\n{ANNA},offers,{never}\n"
    done = stored.run("contact", "import", stored.file("people.csv", rows), code=1)
    assert "1 line rejected for a consent without its date" in done.stderr
    bought = [{"product": "shoes", "at": at}, {"product": "boots", "at": "1990-01-01T00:00:00Z"}]
    assert imported(stored, purchases=bought) == ""
    (purchase,) = stored.json("contact", "show", ANNA)["purchases"]
    assert purchase["product"] == "boots"


def test_a_day_ahead_is_accepted(stored: Stored) -> None:
    assert imported(stored, collected_at=IN_HOURS, informed_at=IN_HOURS) == ""
    assert stored.json("contact", "show", ANNA)["collected_at"] is not None


def test_objections_in_the_future_are_accepted(stored: Stored) -> None:
    withdrawn = {"purpose": "offers", "withdrawn_at": "2062-01-01T00:00:00Z"}
    objected = "2062-01-01T00:00:00Z"
    assert imported(stored, consents=[withdrawn], profiling_objected_at=objected) == ""


def test_a_withdrawal_in_the_future_yields_to_later_consent(stored: Stored) -> None:
    """It gets the file's date, or a typing error, or 9999 for `never`, would last for ever."""
    withdrawn = {"purpose": "offers", "withdrawn_at": "9999-12-31T00:00:00Z"}
    wish = {"purpose": "offers", "frequency": "monthly", "at": "9999-12-31T00:00:00Z"}
    people = stored.file("list", f"{ANNA}\n")
    path = stored.file(
        "no.ndjson", json.dumps({"address": ANNA, "consents": [withdrawn], "preferences": [wish]})
    )
    done = stored.run("contact", "import", path)
    assert "1 contact with a withdrawal or a wish dated in the future" in done.stderr + done.stdout
    found = stored.json("contact", "show", ANNA)
    assert found["consents"][0]["withdrawn_at"] <= datetime.now(UTC).isoformat()
    assert found["preferences"][0]["at"] <= datetime.now(UTC).isoformat()
    assert stored.json("contact", "import", path)["unchanged"] == 1
    agreed = ("--purpose", "offers", "--method", "signed_form", "--wording", "Yes")
    before = stored.json("scrub", people, "--stream", "offers", code=1)
    assert before["by_reason"] == {"consent_withdrawn": 1}
    stored.run("consent", "record", ANNA, *agreed, "--source", "direct")
    after = stored.json("scrub", people, "--stream", "offers", code=None)
    assert "consent_withdrawn" not in after["by_reason"]


def test_a_withdrawal_in_the_future_follows_the_consent_in_its_line(stored: Stored) -> None:
    act = AGREED | {"withdrawn_at": "9999-12-31T00:00:00Z", "evidence": {"wording": "Yes"}}
    path = stored.file("people.ndjson", json.dumps({"address": ANNA, "consents": [act]}))
    stored.run("contact", "import", path, "--as-of", "2020-01-01")
    (kept,) = stored.json("contact", "show", ANNA)["consents"]
    assert kept["withdrawn_at"] == kept["given_at"] == AGREED["given_at"]


def test_suppressions_in_the_future_get_the_date_of_their_file(stored: Stored) -> None:
    path = stored.file("list.csv", f"address,scope,origin,since\n{ANNA},all,manual,9999-12-31\n")
    done = stored.run("suppress", "import", path)
    assert "1 suppression dated in the future" in done.stderr + done.stdout
    stored.run("suppress", "add", "b@people.example", "--since", "9999-12-31")
    for address in (ANNA, "b@people.example"):
        (found,) = stored.json("suppress", "show", address)["suppressions"]
        assert found["since"] <= datetime.now(UTC).isoformat()


@pytest.mark.parametrize("option", ["--collected-at", "--informed-at"])
def test_no_date_can_be_rectified_to_the_future(stored: Stored, option: str) -> None:
    imported(stored)
    done = stored.run("contact", "rectify", ANNA, option, "2062-01-01", "--reason", "x", code=2)
    assert "'2062-01-01' is in the future" in done.stderr


SAID: list[tuple[dict[str, Any], Any, Any]] = [
    ({}, None, None),
    ({"optout_offered": None, "informed_at": None}, None, None),
    ({"optout_offered": False, "informed_at": False}, False, False),
    (
        {"optout_offered": True, "informed_at": "2026-01-01T00:00:00Z"},
        True,
        "2026-01-01T00:00:00Z",
    ),
]


@pytest.mark.parametrize(("fields", "offered", "informed"), SAID)
def test_what_nobody_said_is_unknown(
    stored: Stored, fields: dict[str, Any], offered: Any, informed: Any
) -> None:
    imported(stored, provenance={"supplier": "X"}, **fields)
    shown = stored.json("contact", "show", ANNA)
    assert (shown["optout_offered"], shown["informed_at"]) == (offered, informed)
    assert shown["provenance"]["sender_disclosed"] is None
    text = " ".join(stored.run("contact", "show", ANNA).stdout.split())
    words = {None: "not known", False: "no", True: "yes"}
    assert f"opt-out offered {words[offered]}" in text
    assert "sender disclosed not known" in text
    again = stored.file("again.ndjson", stored.run("contact", "export").stdout)
    assert stored.json("contact", "import", again)["unchanged"] == 1


def test_a_csv_says_yes_no_or_nothing(stored: Stored) -> None:
    path = stored.file(
        "people.csv",
        "address,informed_at,optout_offered,supplier,sender_disclosed\n"
        f"{ANNA},no,no,X,no\nbert@people.example,,,X,\n",
    )
    stored.run("contact", "import", path)
    anna = stored.json("contact", "show", ANNA)
    assert (anna["informed_at"], anna["optout_offered"]) == (False, False)
    assert anna["provenance"]["sender_disclosed"] is False
    bert = stored.json("contact", "show", "bert@people.example")
    assert (bert["informed_at"], bert["optout_offered"]) == (None, None)
    assert bert["provenance"]["sender_disclosed"] is None


def test_a_yes_or_no_can_be_rectified(stored: Stored) -> None:
    imported(stored, informed_at=False)
    rectify = ("contact", "rectify", ANNA, "--reason", "the form was found")
    stored.run(*rectify, "--informed-at", "2026-01-01", "--optout-offered", "yes")
    shown = stored.json("contact", "show", ANNA)
    assert (shown["informed_at"], shown["optout_offered"]) == ("2026-01-01T00:00:00Z", True)
    stored.run(*rectify, "--optout-offered", "no")
    assert stored.json("contact", "show", ANNA)["optout_offered"] is False


def test_a_notice_without_a_time_is_rejected(stored: Stored) -> None:
    assert "informed_at: true is not a time" in imported(stored, code=1, informed_at=True)


NO_AT = "2025-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("refused", "reason"),
    [
        ({"tags": ["vip", "Restricted"]}, "contact_restricted"),
        ({"consents": [{"withdrawn_at": NO_AT}]}, "consent_withdrawn"),
    ],
)
def test_restrictions_and_withdrawals_in_a_rejected_line_count(
    stored: Stored, refused: dict[str, Any], reason: str
) -> None:
    agreed = AGREED | {"evidence": {"wording": "Yes"}}
    assert imported(stored, source="direct", tags=["vip", "staff"], consents=[agreed]) == ""
    people = stored.file("list", f"{ANNA}\n")
    assert imported(stored, code=1, source="unheard of", **refused)
    found = stored.json("scrub", people, "--stream", "offers", code=1)
    assert found["by_reason"] == {reason: 1}
    contact = stored.json("contact", "show", ANNA)
    assert {"vip", "staff"} <= set(contact["tags"])
    assert contact["source"] == "direct"


def test_a_wish_for_less_mail_in_a_rejected_line_counts(stored: Stored) -> None:
    wish = {"purpose": "offers", "frequency": "monthly", "at": NO_AT}
    wishes = [wish, {"purpose": "news", "frequency": "all", "at": NO_AT}]
    assert imported(stored, code=1, source="unheard of", tags=["vip"], preferences=wishes)
    contact = stored.json("contact", "show", ANNA)
    assert [(one["purpose"], one["frequency"]) for one in contact["preferences"]] == [
        ("offers", "monthly")
    ]
    assert not contact.get("tags")


def test_a_rejected_line_without_a_refusal_creates_no_contact(stored: Stored) -> None:
    wish = {"purpose": "news", "frequency": "all", "at": NO_AT}
    assert imported(stored, code=1, source="unheard of", tags=["vip"], preferences=[wish])
    stored.run("contact", "show", ANNA, code=1)
