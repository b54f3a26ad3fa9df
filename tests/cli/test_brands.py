"""Commands for two brands."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from smtpproxy.cli import main
from tests.cli.stored import Stored
from tests.kit.relay import relay_config
from tests.kit.toml import to_toml

ANNA = "anna@people.example"
BRANDS = [
    {"name": name, "legal_name": "Group SA", "address": "1 rue X, Paris"}
    for name in ("shop", "mill")
]
STREAMS = [
    {"name": "shop-news", "class": "marketing", "purpose": "news", "brand": "shop"},
    {"name": "mill-news", "class": "marketing", "purpose": "news", "brand": "mill"},
    {"name": "shop-receipts", "class": "transactional", "brand": "shop"},
]
NEWS, MILL_NEWS, RECEIPTS = (str(stream["name"]) for stream in STREAMS)


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    stored = Stored(tmp_path)
    config = relay_config(tmp_path, "127.0.0.1:25", {"brand": BRANDS, "stream": STREAMS})
    stored.config_path.write_text(to_toml(config))
    return stored


def scopes(stored: Stored, address: str = ANNA) -> list[str]:
    shown = stored.json("suppress", "show", address)
    return sorted(one["scope"] for one in shown["suppressions"])


def test_a_suppression_can_be_for_one_brand(stored: Stored) -> None:
    stored.run("suppress", "add", ANNA, "--scope", "brand:shop", "--origin", "complaint")
    assert scopes(stored) == ["brand:shop"]
    exported = stored.run("suppress", "export").stdout
    assert ",brand:shop,complaint," in exported
    stored.run("suppress", "remove", ANNA, "--scope", "brand:mill", "--all",
               "--reason", "the person asked", code=1)  # fmt: skip
    stored.run("suppress", "remove", ANNA, "--scope", "brand:shop", "--all",
               "--reason", "the person asked")  # fmt: skip
    stored.run("suppress", "import", stored.file("x.csv", exported))
    assert scopes(stored) == ["brand:shop"]


def test_a_whole_domain_can_be_suppressed_for_a_brand(stored: Stored) -> None:
    stored.run("suppress", "add", "@people.example", "--scope", "brand:mill")
    assert scopes(stored) == ["brand:mill"]


def test_an_unknown_brand_widens_a_suppression_to_all_marketing(stored: Stored) -> None:
    done = stored.run("suppress", "add", ANNA, "--scope", "brand:shpo")
    assert "there is no brand 'shpo', so this counts for all marketing" in done.stderr
    assert "known: mill, shop" in done.stderr
    path = stored.file("x.csv", f"address,scope,origin\n{ANNA},brand:hats,complaint\n")
    done = stored.run("suppress", "import", path)
    assert "1 suppression for a brand that is not configured ('hats')" in done.stderr
    assert scopes(stored) == ["marketing", "marketing"]


def test_an_objection_can_be_to_one_brand(stored: Stored) -> None:
    done = stored.run("contact", "object", ANNA, "--brand", "mill")
    assert "objection to brand:mill recorded" in done.stdout
    stored.run("contact", "object", ANNA, "--brand", "mill", "--purpose", "news", code=2)
    assert scopes(stored) == ["brand:mill"]


def test_a_providers_export_belongs_to_one_brands_account(stored: Stored) -> None:
    content = f"email,created\n{ANNA},1709294400\n"
    unsubscribed = stored.file("sendgrid-global-unsubscribes.csv", content)
    stored.run("suppress", "import", unsubscribed, "--brand", "shop")
    bounced = stored.file("x.csv", "address,code,error,created_at\nbert@people.example,550,x,\n")
    stored.run("suppress", "import", bounced, "--brand", "shop")
    assert scopes(stored) == ["brand:shop"]
    assert scopes(stored, "bert@people.example") == ["all"]
    wrong = stored.run("suppress", "import", unsubscribed, "--brand", "shpo", code=2)
    assert "there is no brand 'shpo'; known: mill, shop" in wrong.stderr
    own = stored.file("own.csv", f"address,scope,origin\n{ANNA},all,manual\n")
    wrong = stored.run("suppress", "import", own, "--brand", "shop", code=1)
    assert "--scope brand:shop" in wrong.stderr


def test_leaving_one_list_counts_for_all_the_brands_marketing(stored: Stored) -> None:
    left = f"Email Address,UNSUB_TIME,UNSUB_REASON\n{ANNA},2026-01-01 00:00:00,NORMAL\n"
    done = stored.run("suppress", "import", stored.file("left.csv", left), "--brand", "shop")
    assert scopes(stored) == ["brand:shop"]
    assert "count for all marketing of shop; give the list's purpose" in done.stderr


def test_a_confirmation_needs_a_purpose_of_the_brand(stored: Stored) -> None:
    start = ("consent", "start", ANNA, "--brand", "mill", "--wording", "x", "--purpose")
    wrong = stored.run(*start, "marketing", code=2).stderr  # that of the stream default
    assert "--purpose: no stream of brand mill has the purpose 'marketing'; known: news" in wrong


CONSENT = {"purpose": "news", "method": "unticked_box", "given_at": "2026-01-01T00:00:00Z",
           "evidence": {"wording": "form v3"}}  # fmt: skip
LINE = {"address": ANNA, "source": "direct", "collected_at": "2026-01-01T00:00:00Z"}


def imported(stored: Stored, *options: str, code: int = 0, **fields: object) -> str:
    """Import a line; return the messages, and why the line was rejected."""
    path = stored.file("people.ndjson", json.dumps({**LINE, "consents": [CONSENT], **fields}))
    told = stored.run("contact", "import", path, *options, code=code).stderr
    aside = Path(f"{path}.rejected")
    return told + (aside.read_text() if aside.exists() else "")


def verdicts(stored: Stored) -> dict[str, str]:
    """The decision on mail to Anna, by stream."""
    listed = stored.file("list.csv", f"address\n{ANNA}\n")
    found = {}
    for stream in (NEWS, MILL_NEWS):
        out = stored.folder / "out.csv"
        arguments = ("scrub", listed, "--stream", stream, "--output", str(out), "--config")
        assert CliRunner().invoke(main, [*arguments, str(stored.config_path)]).exit_code < 2
        row = out.read_text().splitlines()[1].split(",")
        found[stream] = row[2] if row[1] == "refuse" else row[3]
    return found


def test_consents_without_a_brand_allow_nothing(stored: Stored) -> None:
    assert "1 line without a brand: they allow nothing" in imported(stored)
    assert verdicts(stored) == {NEWS: "brand_unproven", MILL_NEWS: "brand_unproven"}


@pytest.mark.parametrize("first", [True, False])
def test_importing_a_brands_file_again_adds_nothing(stored: Stored, first: bool) -> None:
    if first:
        imported(stored)
    imported(stored, "--brand", "shop", *(["--replace", "none"] if first else []))
    assert verdicts(stored) == {NEWS: "consent", MILL_NEWS: "brand_unproven"}
    shown = stored.json("contact", "show", ANNA)
    assert (shown["brand"], len(shown["consents"]), "collections" in shown) == ("shop", 1, False)
    exported = stored.run("contact", "export", ANNA).stdout
    done = stored.run("contact", "import", stored.file("again.ndjson", exported))
    assert "0 added, 0 changed, 1 unchanged" in done.stdout + done.stderr


def test_a_mapping_can_give_the_brand_for_a_whole_file(stored: Stored) -> None:
    mapping = stored.file(
        "crm.toml",
        '[columns]\nMail = "address"\nOn = "consent_given_at"\n[constants]\nbrand = "mill"\n'
        'source = "direct"\nconsent_purpose = "news"\nconsent_method = "signed_form"\n'
        'consent_wording = "form"\n',
    )
    path = stored.file("crm.csv", f"Mail,On\n{ANNA},2026-01-01T00:00:00Z\n")
    stored.run("contact", "import", path, "--mapping", mapping)
    assert verdicts(stored) == {NEWS: "brand_unproven", MILL_NEWS: "consent"}


def test_an_unknown_brand_is_named(stored: Stored) -> None:
    assert "there is no brand 'shpo'; known: mill, shop" in imported(
        stored, "--brand", "shpo", code=2
    )
    assert "brand: there is no brand 'hats'; known: mill, shop" in imported(
        stored, code=1, brand="hats"
    )
    withdrawn = {"purpose": "news", "withdrawn_at": "2026-02-01T00:00:00Z", "brand": "hats"}
    imported(stored, consents=[withdrawn], brand="shop")
    assert set(verdicts(stored).values()) == {"consent_withdrawn"}


def test_a_withdrawal_from_one_brand_leaves_the_other_alone(stored: Stored) -> None:
    for brand in ("shop", "mill"):
        imported(stored, "--brand", brand, "--replace", "none")
    assert set(verdicts(stored).values()) == {"consent"}
    stored.run("consent", "withdraw", ANNA, "--purpose", "news", "--brand", "shop")
    assert verdicts(stored) == {NEWS: "consent_withdrawn", MILL_NEWS: "consent"}
    stored.run("consent", "withdraw", ANNA, "--purpose", "news")
    assert set(verdicts(stored).values()) == {"consent_withdrawn"}


def test_consent_is_recorded_with_its_brand(stored: Stored) -> None:
    record = ("consent", "record", ANNA, "--purpose", "news", "--method", "signed_form",
              "--wording", "form", "--source", "direct")  # fmt: skip
    wrong = stored.run(*record, code=2).stderr
    assert "--brand: say whom the person agreed with, one of mill, shop" in wrong
    assert stored.run(*record, "--brand", "mill").stderr == ""
    assert verdicts(stored) == {NEWS: "brand_unproven", MILL_NEWS: "consent"}
    imported(stored, source="web", brand="shop", consents=[])
    assert verdicts(stored)[MILL_NEWS] == "consent"


def test_a_bad_list_taints_only_what_came_from_it(stored: Stored) -> None:
    imported(stored, "--brand", "shop")
    later = {**CONSENT, "given_at": "2026-02-01T00:00:00Z"}
    imported(stored, "--brand", "shop", source="purchased", consents=[later])
    assert verdicts(stored)[NEWS] == "consent"
    shown = stored.run("contact", "show", ANNA).stdout
    assert "(brand shop) (known by purchased)" in shown
    listed = stored.json("import", "list")
    stored.run("import", "undo", listed[0]["id"])
    assert verdicts(stored)[NEWS] == "source_undisclosed"
    stored.run("import", "undo", listed[1]["id"])
    assert verdicts(stored)[NEWS] == "no_record"


def test_explain_names_the_brand(stored: Stored) -> None:
    imported(stored, "--brand", "mill")
    message = stored.file(
        "m.eml",
        "From: a@shop.example\nTo: a@b.example\nList-Unsubscribe: <https://x.example/u>\n"
        "List-Unsubscribe-Post: List-Unsubscribe=One-Click\n\nHello\n",
    )
    asked = ("explain", message, "--mail-from", "a@shop.example", "--rcpt", ANNA)
    for lang, words in (
        ("en", "not on record that brand shop obtained the address"),
        ("fr", "par la marque shop"),
    ):
        told = stored.run(*asked, "--stream", NEWS, "--lang", lang, code=1).stdout
        assert words in " ".join(told.split())


def test_the_persons_document_names_the_brand_of_each_entry(stored: Stored) -> None:
    imported(stored, "--brand", "mill", purchases=[{"product": "hat", "at": CONSENT["given_at"]}])
    imported(stored, "--brand", "shop", "--replace", "none", source="purchased", consents=[])
    english = ("Brand mill", "Group SA, 1 rue X, Paris", "also obtained in another way",
               "hat (mill)", "news (mill)")  # fmt: skip
    french = ("Marque mill", "a aussi été obtenue", "hat (mill)")
    for lang, words in (("en", english), ("fr", french)):
        out = str(stored.folder / "anna.html")
        stored.run("contact", "export", ANNA, "--evidence", "--output", out, "--lang", lang)
        page = Path(out).read_text("utf-8")
        assert [word for word in words if word not in page] == []
