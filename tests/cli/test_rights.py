"""`contact rectify`, `contact object`, and what `contact erase` says about variants."""

import json
from pathlib import Path

import pytest

from smtpproxy import erasure
from smtpproxy.store.records import StoreUnavailable
from tests.cli.stored import DAY_ONE, Stored, first_line

ANNA, NEW = "anna@people.example", "anna.b@people.example"
RECTIFY = ("contact", "rectify", ANNA, "--reason", "she wrote on paper")
OBJECT = ("contact", "object", ANNA)


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    stored = Stored(tmp_path)
    imported(stored, audience="professional", source="partner", occupations=["finance"])
    return stored


def imported(stored: Stored, **fields: object) -> None:
    line = json.dumps({"address": ANNA, **fields})
    stored.run("contact", "import", stored.file("people.ndjson", line), "--as-of", "2026-03-01")


def contact(stored: Stored, address: str = ANNA) -> dict[str, object]:
    shown: dict[str, object] = stored.json("contact", "show", address)
    return shown


def test_a_rectification_is_shown_and_stays_on_record(stored: Stored) -> None:
    done = stored.run(*RECTIFY, "--audience", "consumer", "--remove-occupation", "finance")
    assert done.stdout.startswith(
        f"{ANNA}: audience: professional → consumer\n{ANNA}: occupations: finance → nothing\n"
    )
    found = contact(stored)
    assert (found["audience"], found["occupations"]) == ("consumer", [])
    (record,) = found["rectifications"]  # type: ignore[misc]
    assert record["reason"] == "she wrote on paper"
    assert record["changes"][0] == {
        "field": "audience",
        "before": "professional",
        "after": "consumer",
    }
    shown = stored.run("contact", "show", ANNA).stdout
    assert "audience: professional → consumer; occupations: finance → nothing" in shown
    assert "(she wrote on paper)" in shown


def test_a_correction_without_effect_is_not_recorded(stored: Stored) -> None:
    done = stored.run(*RECTIFY, "--source", "partner")
    assert first_line(done) == f"{ANNA}: nothing changed: the record already says so"
    assert "rectifications" not in contact(stored)


def test_consents_and_suppressions_follow_a_new_address(stored: Stored) -> None:
    stored.run(
        "consent", "record", ANNA, "--purpose", "offers", "--method", "signed_form",
        "--wording", "form v3", "--given-at", DAY_ONE,
    )  # fmt: skip
    stored.run("suppress", "add", ANNA, "--scope", "purpose:appeals", "--origin", "objection")
    done = stored.run(*RECTIFY, "--new-address", "Anna.B@People.example")
    assert first_line(done) == f"{ANNA}: address: {ANNA} → {NEW}"
    for command in ("show", "export"):
        told = stored.run("contact", command, ANNA, code=1).stderr
        assert f"there is no contact {ANNA}; it was corrected to {NEW}: name that" in told
    (consent,) = contact(stored, NEW)["consents"]  # type: ignore[misc]
    assert (consent["given_at"], consent["evidence"]["wording"]) == (DAY_ONE, "form v3")
    for address in (ANNA, NEW):
        (one,) = stored.json("suppress", "show", address)["suppressions"]
        assert (one["scope"], one["origin"]) == ("purpose:appeals", "objection")


def test_an_objection_stops_all_marketing(stored: Stored) -> None:
    done = stored.run(*OBJECT, "--note", "by letter", "--since", "2026-02-01T10:00:00Z")
    assert "objection to marketing recorded" in done.stdout
    (one,) = stored.json("suppress", "show", ANNA)["suppressions"]
    assert (one["scope"], one["origin"], one["note"]) == ("marketing", "objection", "by letter")
    assert one["since"] == "2026-02-01T10:00:00Z"
    assert "profiling_objected_at" not in contact(stored)


def test_an_objection_can_be_to_one_purpose(stored: Stored) -> None:
    assert stored.json(*OBJECT, "--purpose", "offers")["scope"] == "purpose:offers"
    (one,) = stored.json("suppress", "show", ANNA)["suppressions"]
    assert one["scope"] == "purpose:offers"


def test_every_import_respects_an_objection_to_profiling(stored: Stored) -> None:
    assert "the profile is frozen" in stored.run(*OBJECT, "--profiling").stdout
    before = contact(stored)
    assert before["profiling_objected_at"]
    later = json.dumps(
        {
            "address": ANNA,
            "occupations": ["racing"],
            "tags": ["gambler"],
            "last_activity_at": DAY_ONE,
            "profiling_objected_at": None,
        }
    )
    stored.run("contact", "import", stored.file("later.ndjson", later))
    assert contact(stored) == before
    assert "objected to profiling" in stored.run("contact", "show", ANNA).stdout


def test_an_objection_can_be_to_profiling_only(stored: Stored) -> None:
    done = stored.json(*OBJECT, "--only-profiling")
    assert (done["scope"], done["profiling"]) == (None, True)
    stored.run("suppress", "show", ANNA, code=1)
    assert contact(stored)["profiling_objected_at"]


def test_erasing_names_addresses_that_may_be_the_same_person(stored: Stored) -> None:
    tagged = "anna.b+shop@people.example"
    line = json.dumps({"address": tagged})
    stored.run("contact", "import", stored.file("tagged.ndjson", line))
    stored.run(*RECTIFY, "--new-address", NEW)
    told = stored.run("contact", "erase", ANNA).stderr
    assert f"{NEW} may be the same person and is not erased" in told
    told = stored.run("contact", "erase", NEW).stderr
    for other in (tagged, ANNA):
        assert f"{other} may be the same person and is not erased" in told
    assert stored.run("contact", "erase", tagged).stderr == ""


def test_former_addresses_are_named_even_if_the_erasure_fails_later(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: object) -> int:
        raise StoreUnavailable("the database did not confirm it in time")

    stored.run(*RECTIFY, "--new-address", NEW)
    with monkeypatch.context() as patched:
        patched.setattr(erasure, "forget_reports", fails)
        told = stored.run("contact", "erase", NEW, code=1).stderr
    assert f"{ANNA} may be the same person and is not erased" in told
    assert "did not confirm it" in told
    assert stored.run("contact", "erase", NEW).stderr == "", "they are no longer on record"


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (("rectify", ANNA, "--audience", "consumer"), 2, "--reason"),
        (RECTIFY[1:], 2, "nothing to correct"),
        ((*RECTIFY[1:], "--new-address", "anna"), 2, "there is no @"),
        ((*RECTIFY[1:], "--audience", "robots"), 2, "'robots'"),
        (
            ("rectify", NEW, "--audience", "consumer", "--reason", "x"),
            1,
            f"there is no contact {NEW}",
        ),
        (("object", ANNA, "--only-profiling", "--purpose", "offers"), 2, "--only-profiling"),
        (("object", "anna"), 2, "there is no @"),
    ],
)
def test_impossible_requests_are_explained(
    stored: Stored, arguments: tuple[str, ...], code: int, part: str
) -> None:
    assert part in stored.run("contact", *arguments, code=code).stderr
