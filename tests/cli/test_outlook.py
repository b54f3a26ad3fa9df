"""Every import ends with how many may be mailed, why not the rest, and what would free them."""

from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from smtpproxy.scrub.outlook import Outlook
from smtpproxy.store.exchange import compare, run
from smtpproxy.store.records import StoreUnavailable
from tests.cli.stored import BATCH, Stored
from tests.kit.relay import relay_config
from tests.kit.toml import to_toml

STREAMS = [
    {"name": "shop-offers", "class": "marketing", "purpose": "offers", "brand": "shop"},
    {"name": "shop-news", "class": "marketing", "purpose": "news", "brand": "shop"},
    {"name": "club-offers", "class": "marketing", "purpose": "club-offers", "brand": "club"},
    {"name": "receipts", "class": "transactional", "brand": "shop"},
]
BRANDS = [{"name": "shop", "title": "The Shop"}, {"name": "club", "title": "The Club"}]
DAY = "2026-03-01T10:00:00Z"
HEADER = (
    "address,source,consent_purpose,consent_method,consent_given_at,consent_wording,"
    "informed_at,optout_offered\n"
)


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    made = Stored(tmp_path)
    overrides = {"stream": STREAMS, "brand": BRANDS}
    made.config_path.write_text(to_toml(relay_config(tmp_path, "127.0.0.1:25", overrides)))
    return made


def line(name: str, source: str = "direct", wording: str = "form 3", method: str = "unticked_box",
         purpose: str = "offers") -> str:  # fmt: skip
    return f"{name}@people.example,{source},{purpose},{method},{DAY},{wording},,\n"


def on(outlook: Any, stream: str) -> Any:
    return next(one for one in outlook["streams"] if one["stream"] == stream)


def frees(outlook: Any, stream: str) -> dict[str, int]:
    return {one["how"]: one["people"] for one in on(outlook, stream)["frees"]}


def test_added_people_may_not_all_be_mailed(stored: Stored) -> None:
    """A newcomer overlooked this: five people added, none of whom may be mailed."""
    people = "".join(f"user{n}@people.example\n" for n in range(5))
    path = stored.file("crm.csv", f"address\n{people}")
    for more in (["--dry-run"], []):
        shown = stored.run("contact", "import", path, "--brand", "shop", *more).stdout
        assert "None of 5 people may be mailed on a marketing stream." in shown
        assert "source_unproven 5" in shown
        assert "receipts     5  100%" in shown
        assert "Import where the addresses came from" in shown


def test_numbers_and_reasons_by_stream(stored: Stored) -> None:
    rows = line("anna") + line("bert", wording="") + line("carl", source="web")
    path = stored.file("crm.csv", HEADER + rows + line("anna", purpose="news"))
    outlook = stored.json("contact", "import", path, "--brand", "shop")["outlook"]
    assert outlook["people"] == 3
    offers = on(outlook, "shop-offers")
    assert (offers["allowed"], offers["by_basis"]) == (1, {"consent": 1})
    assert offers["by_reason"] == {"consent_unproven": 1, "source_forbidden": 1}
    assert on(outlook, "shop-news")["by_reason"] == {"consent_missing": 1, "source_forbidden": 1}
    assert on(outlook, "club-offers")["by_reason"] == {"brand_unproven": 3}
    assert on(outlook, "receipts")["allowed"] == 3
    shown = stored.run("contact", "import", path, "--brand", "shop").stdout
    assert "Of 3 people, this many may be mailed:" in shown
    assert "default" not in shown


LACKING = "".join(
    chain(
        (line(f"w{n}", wording="") for n in range(3)),
        (line(f"s{n}", source="") for n in range(4)),
        (line(f"both{n}", wording="", source="") for n in range(5)),
        (line(f"all{n}", wording="", source="", method="") for n in range(6)),
        (line(f"good{n}") for n in range(7)),
        (line(f"web{n}", source="web", wording="") for n in range(8)),
        (line(f"ticked{n}", method="preticked_box", wording="") for n in range(9)),
    )
)


def test_the_proposed_steps_free_as_many_as_they_say(stored: Stored) -> None:
    path = stored.file("crm.csv", HEADER + LACKING)
    found = stored.json("contact", "import", path, "--brand", "shop", "--dry-run")["outlook"]
    told = frees(found, "shop-offers")
    assert list(told.values()) == [18, 12, 4, 3]
    assert on(found, "shop-offers")["allowed"] == 7
    for how, people in told.items():
        constants = [
            word.replace("method=…", "method=signed_form").replace("…", "form 3")
            for word in how.split(" ")
        ]
        arguments = ("contact", "import", path, "--brand", "shop", *constants)
        mended = stored.json(*arguments, "--dry-run")["outlook"]
        assert on(mended, "shop-offers")["allowed"] == 7 + people
    shown = stored.run("contact", "import", path, "--brand", "shop")
    assert "18  --set consent_method=… --set evidence.wording=… --set source=direct" in shown.stdout
    assert "--replace" in shown.stdout


def test_the_brand_option_frees_as_many_as_it_says(stored: Stored) -> None:
    path = stored.file("crm.csv", HEADER + line("anna") + line("bert", wording=""))
    found = stored.json("contact", "import", path, "--dry-run")["outlook"]
    assert found["nobody_on_marketing"]
    told = frees(found, "shop-offers")
    assert told == {"--brand shop --set evidence.wording=…": 2, "--brand shop": 1}
    assert frees(found, "club-offers") == {}
    found = stored.json("contact", "import", path, "--brand", "shop", "--dry-run")["outlook"]
    assert on(found, "shop-offers")["allowed"] == 1


def test_for_ndjson_the_missing_facts_go_into_the_file(stored: Stored) -> None:
    """NDJSON takes no --set."""
    consent = f'{{"purpose":"offers","method":"unticked_box","given_at":"{DAY}"}}'
    text = f'{{"address":"anna@people.example","consents":[{consent}]}}\n'
    path = stored.file("crm.ndjson", text)
    found = stored.json("contact", "import", path, "--brand", "shop", "--dry-run")["outlook"]
    assert frees(found, "shop-offers") == {"evidence.wording=…, source=direct in the file": 1}


def test_a_providers_consents_need_a_purpose(stored: Stored) -> None:
    names = (
        "Email Address,First Name,Last Name,MEMBER_RATING,OPTIN_TIME,OPTIN_IP,CONFIRM_TIME,"
        "CONFIRM_IP,LATITUDE,LONGITUDE,GMTOFF,DSTOFF,TIMEZONE,CC,REGION,LAST_CHANGED,LEID,EUID,"
        "NOTES,TAGS"
    )
    times = "2025-03-01 10:00:00,192.0.2.7,2025-03-01 10:05:00,192.0.2.7"
    text = f"{names}\nanna@people.example,A,B,2,{times},,,,,,,,2025-03-01 10:05:00,1,a,,\n"
    path = stored.file("subscribed.csv", text)
    command = ("contact", "import", path, "--brand", "shop", "--dry-run")
    assert "--purpose NAME; without it" in stored.run(*command).stderr
    result = stored.run(*command, "--purpose", "offers")
    assert "--purpose NAME; without it" not in result.stderr
    wanting = "--set consent_method=… --set evidence.wording=… --set source=direct"
    assert f"1  {wanting}" in result.stdout


def test_an_unavailable_store_does_not_stop_an_import(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(*_: object) -> None:
        raise StoreUnavailable("locked")

    monkeypatch.setattr(Outlook, "_judge", silent)
    path = stored.file("crm.csv", HEADER + line("anna"))
    result = stored.run("contact", "import", path, "--brand", "shop")
    assert "1 added" in result.stdout
    assert "not everybody could be counted: locked" in result.stderr


def test_nothing_is_proposed_for_facts_missing_from_another_file(stored: Stored) -> None:
    """A constant for this file would not reach a consent from another one."""
    path = stored.file("one.csv", HEADER + line("anna", wording=""))
    stored.run("contact", "import", path, "--brand", "shop")
    path = stored.file("two.csv", "address,audience\nanna@people.example,consumer\n")
    found = stored.json("contact", "import", path, "--brand", "shop")["outlook"]
    assert on(found, "shop-offers")["by_reason"] == {"consent_unproven": 1}
    assert frees(found, "shop-offers") == {}


def test_a_dry_run_foretells_the_outlook(stored: Stored) -> None:
    stored.run("suppress", "add", "good1@people.example")
    path = stored.file("crm.csv", HEADER + LACKING)
    before = stored.json("contact", "import", path, "--brand", "shop", "--dry-run")["outlook"]
    after = stored.json("contact", "import", path, "--brand", "shop")["outlook"]
    assert before["streams"] == after["streams"]
    assert on(after, "shop-offers")["by_reason"]["suppressed_manual"] == 1
    assert on(after, "receipts")["allowed"] == after["people"] - 1


def test_a_no_to_an_unknown_purpose_counts_in_a_dry_run_too(stored: Stored) -> None:
    """It becomes a suppression of all marketing."""
    yes = (
        f'{{"purpose":"offers","method":"signed_form","given_at":"{DAY}",'
        '"evidence":{"wording":"form 3"}}'
    )
    no = '{"purpose":"gazette","withdrawn_at":"2026-04-01T10:00:00Z"}'
    person = f'{{"address":"anna@people.example","source":"direct","consents":[{yes},{no}]}}\n'
    command = ("contact", "import", stored.file("list.ndjson", person), "--brand", "shop")
    tried, done = (stored.json(*command, *more)["outlook"] for more in (["--dry-run"], []))
    assert on(tried, "shop-offers")["by_reason"] == {"suppressed_unsubscribe": 1}
    assert {**tried, "at": None} == {**done, "at": None}


def test_after_a_replacement_it_counts_what_is_left(stored: Stored) -> None:
    """A consent only from the former import is gone when people are counted."""
    first = stored.file("one.csv", HEADER + line("anna") + line("bert"))
    done = stored.json("contact", "import", first, "--brand", "shop")
    assert on(done["outlook"], "shop-offers")["allowed"] == 2
    second = stored.file("two.csv", HEADER + line("anna") + line("bert", purpose="news"))
    done = stored.json("contact", "import", second, "--brand", "shop", "--replace", done["id"])
    assert done["replaced"]
    assert on(done["outlook"], "shop-offers")["allowed"] == 1
    assert done["outlook"]["people"] == 2


def test_with_rejected_lines_the_steps_free_as_many_too(stored: Stored) -> None:
    path = stored.file("crm.csv", HEADER + line("anna", method="") + "nobody,direct,,,,,,\n")
    shown = stored.run("contact", "import", path, "--brand", "shop", code=1).stdout
    again, undo = shown.splitlines()[-6:-4]
    assert again.startswith("to supply them: run the same import again with --replace ")
    assert undo.startswith("then, as lines will be rejected again: smtpproxy import undo ")
    id = undo.split()[-1]
    more = ("--brand", "shop", "--set", "consent_method=signed_form", "--replace", id)
    stored.run("contact", "import", path, *more, code=1)
    assert "shop-offers  1  100%" in stored.run("import", "undo", id).stdout


def test_people_with_lines_far_apart_are_counted_once(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (compare, run):
        monkeypatch.setattr(module, "BATCH_ROWS", BATCH)
    between = "".join(f"user{n}@people.example,direct,,,,,,\n" for n in range(BATCH))
    text = HEADER + line("anna") + between + "anna@people.example,,,,,,,\n"
    path = stored.file("crm.csv", text)
    found = stored.json("contact", "import", path, "--brand", "shop", "--dry-run")["outlook"]
    assert (found["people"], found["apart"]) == (BATCH + 1, 1)
    found = stored.json("contact", "import", path, "--brand", "shop")["outlook"]
    assert (found["people"], found["apart"]) == (BATCH + 1, 0)
    assert on(found, "shop-offers")["allowed"] == 1


def test_suppressions_have_an_outlook_too(stored: Stored) -> None:
    path = stored.file("crm.csv", HEADER + line("anna") + line("bert"))
    stored.run("contact", "import", path, "--brand", "shop")
    text = (
        "address,scope,origin,since\n"
        "anna@people.example,purpose:offers,unsubscribe,2026-04-01\n"
        "bert@people.example,purpose:offers,unsubscribe,2026-01-01\n"
        "info@firm.example,marketing,complaint,2026-01-01\n"
        "@gone.example,all,manual,2026-01-01\n"
    )
    path = stored.file("gone.csv", text)
    for more in (["--dry-run"], []):
        found = stored.json("suppress", "import", path, *more)["outlook"]
        assert (found["people"], found["nameless"]) == (3, 1)
        offers = on(found, "shop-offers")
        assert (offers["allowed"], offers["by_basis"]) == (1, {"consent": 1})
        assert offers["by_reason"] == {"suppressed_complaint": 1, "suppressed_unsubscribe": 1}
        assert all(one["frees"] == [] for one in found["streams"])
    shown = stored.run("suppress", "import", path).stdout
    assert "1 entry is of whole domains, or without an address" in shown
    assert "--set" not in shown


def test_a_dry_run_moves_a_suppression_to_the_later_date(stored: Stored) -> None:
    """Of several equally wide, the oldest gives the reason."""
    for origin, since in (("objection", "2024-01-01"), ("manual", "2025-01-01")):
        order = ("--scope", "marketing", "--origin", origin, "--since", since)
        stored.run("suppress", "add", "anna@people.example", *order)
    rows = "address,scope,origin,since\nanna@people.example,marketing,objection,2026-01-01\n"
    command = ("suppress", "import", stored.file("list.csv", rows))
    for more in (["--dry-run"], []):
        found = stored.json(*command, *more)["outlook"]
        assert on(found, "shop-offers")["by_reason"] == {"suppressed_manual": 1}


def test_observed_streams_count_as_mailable(tmp_path: Path) -> None:
    stored = Stored(tmp_path)
    overrides = {"stream": [{**STREAMS[0], "mode": "observe"}], "brand": BRANDS}
    stored.config_path.write_text(to_toml(relay_config(tmp_path, "127.0.0.1:25", overrides)))
    path = stored.file("crm.csv", "address\nanna@people.example\n")
    shown = stored.run("contact", "import", path, "--brand", "shop").stdout
    assert "source_unproven 1 (only observed: such mail passes)" in shown


CONSENT = (
    "consent", "record", "anna@people.example", "--purpose", "offers", "--brand", "shop",
    "--method", "signed_form", "--given-at", DAY, "--wording", "form 3", "--source", "direct",
)  # fmt: skip


def effect(shown: str) -> list[str]:
    return [line.removeprefix("anna@people.example: ") for line in shown.splitlines()[-2:]]


def test_a_single_act_prints_its_effect(stored: Stored) -> None:
    assert effect(stored.run(*CONSENT).stdout) == [
        "may be mailed on shop-offers, receipts",
        "not on shop-news: consent_missing; club-offers: brand_unproven",
    ]
    acts = (
        ("consent", "withdraw", "anna@people.example", "--purpose", "offers"),
        ("suppress", "add", "anna@people.example", "--scope", "brand:shop"),
        ("suppress", "remove", "anna@people.example", "--all", "--reason", "added by mistake"),
        ("contact", "object", "anna@people.example"),
        ("contact", "rectify", "anna@people.example", "--audience", "generic", "--reason", "x"),
        ("contact", "erase", "anna@people.example", "--scope", "all"),
    )
    said = [effect(stored.run(*act).stdout) for act in acts]
    assert [first for first, _ in said[:5]] == ["may be mailed on receipts"] * 5
    assert said[0][1].startswith(
        "not on shop-offers: consent_withdrawn; shop-news: consent_missing"
    )
    assert said[1][1].startswith("not on shop-offers, shop-news: suppressed_manual")
    assert said[2][1].startswith("not on shop-offers: consent_withdrawn")
    assert said[3][1] == "not on shop-offers, shop-news, club-offers: suppressed_objection"
    assert said[5] == [
        "may be mailed on no stream",
        "not on shop-offers, shop-news, club-offers, receipts: suppressed_erasure",
    ]


def test_json_has_the_effect_too_except_for_a_whole_domain(stored: Stored) -> None:
    streams = stored.json(*CONSENT)["streams"]
    assert streams["shop-offers"] == {"allowed": True, "why": "consent"}
    assert streams["shop-news"] == {"allowed": False, "why": "consent_missing"}
    assert "streams" not in stored.json("suppress", "add", "@people.example")


def test_an_undo_ends_with_the_outlook(stored: Stored) -> None:
    def imported(*names: str) -> str:
        rows = "".join(line(name).replace(",,\n", f",{DAY},true\n") for name in names)
        path = stored.file(f"{names[0]}.csv", HEADER + rows)
        return str(stored.json("contact", "import", path, "--brand", "shop")["id"])

    first, second = imported("anna", "bert"), imported("carl", "anna")
    would = stored.json("import", "undo", first, "--dry-run")["outlook"]
    done = stored.json("import", "undo", first)["outlook"]
    (offers,) = [one for one in done["streams"] if one["stream"] == "shop-offers"]
    assert (done["people"], offers["allowed"], offers["by_reason"]) == (2, 1, {"no_record": 1})
    assert {**would, "at": 0} == {**done, "at": 0}
    text = stored.run("import", "undo", second).stdout
    assert "None of 2 people may be mailed on a marketing stream." in text
