"""docs/settings.md and the example file say what the code does, both ways."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from smtpproxy.config import load, models, parse
from smtpproxy.config.values import shown
from smtpproxy.config.warnings import warnings

REPOSITORY = Path(__file__).parents[2]
DOCUMENT = (REPOSITORY / "docs" / "settings.md").read_text("utf-8")
EXAMPLE = REPOSITORY / "config" / "smtpproxy.example.toml"

TABLES: dict[str, type[BaseModel]] = {
    "[server]": models.Server,
    "[[listener]]": models.Listener,
    "[upstream]": models.Upstream,
    "[store]": models.Store,
    "[audit]": models.Audit,
    "[retention]": models.Retention,
    "[controller]": models.Controller,
    "[web]": models.Web,
    "[policy]": models.Policy,
    "[[stream]]": models.Stream,
    "[[sender]]": models.SenderTable,
    "[[partner]]": models.Partner,
    "[[token]]": models.Token,
    "[[webhook]]": models.Webhook,
    "[auth]": models.Auth,
    "[[credential]]": models.CredentialTable,
    "[[dkim]]": models.Dkim,
    "[dns]": models.Dns,
    "[doctor]": models.Doctor,
}

MADE_BY_THE_READER = {
    *("[auth]", "[[credential]]", "[[partner]]", "[[dkim]]", "[[webhook]]", "[[token]]"),
    "[controller]",
}
"""Tables that stand in the example as comments: they need what only the reader has."""

ELSEWHERE = {
    ("[store]", "url"): "`sqlite://STATE_DIR/smtpproxy.db`",
    ("[[stream]]", "rulebook"): "that of `[policy]`",
    ("[[stream]]", "mode"): "that of `[policy]`",
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


def _default(table: str, name: str, field: Any) -> str:
    if (table, name) in ELSEWHERE:
        return ELSEWHERE[table, name]
    if field.is_required():
        return "*required*"
    return "*none*" if field.default is None else f"`{shown(field.default)}`"


@pytest.mark.parametrize("table", TABLES)
def test_every_key_is_documented_with_its_default_and_no_other(table: str) -> None:
    fields = TABLES[table].model_fields
    keys = {f.alias or name: _default(table, f.alias or name, f) for name, f in fields.items()}
    assert _documented(table) == keys


def test_every_table_is_documented() -> None:
    headings = set(re.findall(r"^## `(\[.*\])`$", DOCUMENT, re.M))
    assert headings == set(TABLES)
    later = set(re.findall(r"^\| `\[+(\w+)\]+` \|", DOCUMENT, re.M))
    assert {table.strip("[]") for table in TABLES} | later == set(models.Document.model_fields)


def test_the_examples_of_the_document_are_a_good_file_together() -> None:
    examples = "\n".join(re.findall(r"^```toml\n(.*?)^```", DOCUMENT, re.M | re.S))
    receipts = '[[stream]]\nname = "receipts"\nclass = "transactional"\n'
    settings = parse(examples + receipts, "settings.md")
    assert set(settings.streams) == {"default", "offers", "receipts"}


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
