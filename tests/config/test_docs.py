"""docs/settings.md and the example file say what the code does, both ways."""

import dataclasses
import re
import tomllib
from pathlib import Path

import pytest

from smtpproxy import settings as all_settings
from smtpproxy.config import load, parse
from smtpproxy.config.warnings import warnings
from smtpproxy.toml import shown
from smtpproxy.toml_tables import KnownKey, keys_of

REPOSITORY = Path(__file__).parents[2]
DOCUMENT = (REPOSITORY / "docs" / "settings.md").read_text("utf-8")
EXAMPLE = REPOSITORY / "config" / "smtpproxy.example.toml"

TABLES: dict[str, type] = {
    "[server]": all_settings.ServerSettings,
    "[[listener]]": all_settings.ListenerSettings,
    "[upstream]": all_settings.UpstreamSettings,
    "[store]": all_settings.StoreSettings,
    "[audit]": all_settings.AuditSettings,
    "[retention]": all_settings.RetentionSettings,
    "[controller]": all_settings.ControllerSettings,
    "[web]": all_settings.WebSettings,
    "[confirmation]": all_settings.ConfirmationSettings,
    "[policy]": all_settings.PolicySettings,
    "[breaker]": all_settings.BreakerSettings,
    "[[brand]]": all_settings.BrandSettings,
    "[[stream]]": all_settings.StreamSettings,
    "[[sender]]": all_settings.SenderRule,
    "[[partner]]": all_settings.PartnerSettings,
    "[[token]]": all_settings.TokenSettings,
    "[[webhook]]": all_settings.WebhookSettings,
    "[auth]": all_settings.AuthSettings,
    "[[credential]]": all_settings.Credential,
    "[[dkim]]": all_settings.DkimSettings,
    "[dns]": all_settings.DnsSettings,
    "[feedback]": all_settings.FeedbackSettings,
    "[doctor]": all_settings.DoctorSettings,
}

MADE_BY_THE_READER = {
    *("[auth]", "[[credential]]", "[[partner]]", "[[dkim]]", "[[webhook]]", "[[token]]"),
    *("[controller]", "[[brand]]", "[feedback]", "[confirmation]"),
}
"""Tables that stand in the example as comments: they need what only the reader has."""

ELSEWHERE = {
    ("[store]", "url"): "`sqlite://STATE_DIR/smtpproxy.db`",
    ("[[stream]]", "rulebook"): "that of `[policy]`",
    ("[[stream]]", "mode"): "that of `[policy]`",
    ("[[stream]]", "tracking_pixels"): "as `[policy]` says",
    ("[[webhook]]", "deadline"): "*none*",
    ("[upstream]", "max_connections_per_address"): "three quarters of `max_connections`",
}
"""Defaults that come from another setting."""


def _section(table: str) -> str:
    match = re.search(rf"^## `{re.escape(table)}`\n(.*?)(?=^## |\Z)", DOCUMENT, re.M | re.S)
    assert match, f"no section for {table}"
    return match[1]


def _documented(table: str) -> dict[str, str]:
    """Key to default, as the section's table has them."""
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \| ([^|]+) \|$", _section(table), re.M)
    assert all(meaning.strip() for _, _, meaning in rows)
    return {key: default.strip() for key, default, _ in rows}


def _is_default(table: str, name: str, written: str, key: KnownKey) -> bool:
    if (table, name) in ELSEWHERE:
        return written == ELSEWHERE[table, name]
    if key.default is dataclasses.MISSING:
        return written == "*required*"
    if written == "*none*":
        return key.default is None
    assert key.default is not None, f"{table} {name} has no default"
    value = tomllib.loads(f"value = {written.strip('`')}")["value"]
    return shown(value) == written.strip("`") and key.is_default(value)


@pytest.mark.parametrize("table", TABLES)
def test_every_key_is_documented_with_its_default_and_no_other(table: str) -> None:
    keys, documented = keys_of(TABLES[table]), _documented(table)
    assert set(documented) == set(keys)
    wrong = {k: v for k, v in documented.items() if not _is_default(table, k, v, keys[k])}
    assert not wrong


def test_every_table_is_documented() -> None:
    headings = set(re.findall(r"^## `(\[.*\])`$", DOCUMENT, re.M))
    assert headings == set(TABLES)
    assert {table.strip("[]") for table in TABLES} == set(keys_of(all_settings.Settings))


def test_the_examples_of_the_document_are_a_good_file_together() -> None:
    examples = "\n".join(re.findall(r"^```toml\n(.*?)^```", DOCUMENT, re.M | re.S))
    receipts = '[[stream]]\nname = "receipts"\nclass = "transactional"\n'
    settings = parse(examples + receipts, "settings.md")
    assert set(settings.streams) == {
        *("default", "offers", "receipts"),
        *("confirmations", "personal"),
    }


def test_the_example_deployment_is_good_and_gives_no_cause_for_worry() -> None:
    settings = load(EXAMPLE)
    assert warnings(settings) == []
    assert settings.web is not None


def test_the_example_shows_every_table_of_this_version() -> None:
    written = tomllib.loads(EXAMPLE.read_text("utf-8"))
    asleep = {
        table for table in MADE_BY_THE_READER if f"\n# {table}\n" in EXAMPLE.read_text("utf-8")
    }
    assert asleep == MADE_BY_THE_READER
    assert set(written) == {
        table.strip("[]") for table in TABLES if table not in MADE_BY_THE_READER
    }
