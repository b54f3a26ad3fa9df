"""Brands, as somebody sees them who runs the commands for two of them."""

from pathlib import Path

import pytest

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


def test_an_order_may_be_about_one_brand(stored: Stored) -> None:
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


def test_a_whole_domain_may_be_suppressed_for_a_brand(stored: Stored) -> None:
    stored.run("suppress", "add", "@people.example", "--scope", "brand:mill")
    assert scopes(stored) == ["brand:mill"]


def test_a_brand_that_is_not_known_widens_an_order_to_all_marketing(stored: Stored) -> None:
    done = stored.run("suppress", "add", ANNA, "--scope", "brand:shpo")
    assert "there is no brand 'shpo', so this counts for all marketing" in done.stderr
    assert "known are mill, shop" in done.stderr
    path = stored.file("x.csv", f"address,scope,origin\n{ANNA},brand:hats,complaint\n")
    done = stored.run("suppress", "import", path)
    assert "1 suppression for a brand that is not known here ('hats')" in done.stderr
    assert scopes(stored) == ["marketing", "marketing"]


def test_an_objection_to_one_brand(stored: Stored) -> None:
    done = stored.run("contact", "object", ANNA, "--brand", "mill")
    assert "objection to brand:mill is on record" in done.stdout
    stored.run("contact", "object", ANNA, "--brand", "mill", "--purpose", "news", code=2)
    assert scopes(stored) == ["brand:mill"]


def test_a_providers_export_is_of_one_brands_account(stored: Stored) -> None:
    content = f"email,created\n{ANNA},1709294400\n"
    unsubscribed = stored.file("sendgrid-global-unsubscribes.csv", content)
    stored.run("suppress", "import", unsubscribed, "--brand", "shop")
    bounced = stored.file("x.csv", "address,code,error,created_at\nbert@people.example,550,x,\n")
    stored.run("suppress", "import", bounced, "--brand", "shop")
    assert scopes(stored) == ["brand:shop"]
    assert scopes(stored, "bert@people.example") == ["all"]
    wrong = stored.run("suppress", "import", unsubscribed, "--brand", "shpo", code=2)
    assert "there is no brand 'shpo'; known are mill, shop" in wrong.stderr
    own = stored.file("own.csv", f"address,scope,origin\n{ANNA},all,manual\n")
    wrong = stored.run("suppress", "import", own, "--brand", "shop", code=1)
    assert "--scope brand:shop" in wrong.stderr
