"""docs/settings.md, the example file and quotations in documents match the code."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import NODEFAULT

from smtpproxy import settings as all_settings
from smtpproxy.cli import COMMANDS
from smtpproxy.config import load, parse
from smtpproxy.config.warnings import warnings
from smtpproxy.toml import shown
from smtpproxy.toml_tables import KnownKey, keys_of

REPOSITORY = Path(__file__).parents[2]
DOCUMENT = (REPOSITORY / "docs" / "settings.md").read_text("utf-8")
README = REPOSITORY / "README.md"
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
"""Tables that are commented out in the example, as they need files only the reader has."""

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
    """The keys and defaults in the section's table."""
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \| ([^|]+) \|$", _section(table), re.M)
    assert all(meaning.strip() for _, _, meaning in rows)
    return {key: default.strip() for key, default, _ in rows}


def _is_default(table: str, name: str, written: str, key: KnownKey) -> bool:
    if (table, name) in ELSEWHERE:
        return written == ELSEWHERE[table, name]
    if key.default is NODEFAULT:
        return written == "*required*"
    if written == "*none*":
        return key.default is None
    assert key.default is not None, f"{table} {name} has no default"
    value = tomllib.loads(f"value = {written.strip('`')}")["value"]
    return shown(value) == written.strip("`") and key.is_default(value)


@pytest.mark.parametrize("table", TABLES)
def test_exactly_the_existing_keys_are_documented_with_defaults(table: str) -> None:
    keys, documented = keys_of(TABLES[table]), _documented(table)
    assert set(documented) == set(keys)
    wrong = {k: v for k, v in documented.items() if not _is_default(table, k, v, keys[k])}
    assert not wrong


def test_every_table_is_documented() -> None:
    headings = set(re.findall(r"^## `(\[.*\])`$", DOCUMENT, re.M))
    assert headings == set(TABLES)
    assert {table.strip("[]") for table in TABLES} == set(keys_of(all_settings.Settings))


def test_the_documents_examples_together_are_a_valid_file() -> None:
    examples = "\n".join(re.findall(r"^```toml\n(.*?)^```", DOCUMENT, re.M | re.S))
    receipts = '[[stream]]\nname = "receipts"\nclass = "transactional"\n'
    settings = parse(examples + receipts, "settings.md")
    assert set(settings.streams) == {
        *("default", "offers", "receipts"),
        *("confirmations", "personal"),
    }


def test_the_example_deployment_is_valid_and_gives_no_warning() -> None:
    settings = load(EXAMPLE)
    assert warnings(settings) == []
    assert settings.web is not None


def test_the_example_shows_every_table() -> None:
    written = tomllib.loads(EXAMPLE.read_text("utf-8"))
    asleep = {
        table for table in MADE_BY_THE_READER if f"\n# {table}\n" in EXAMPLE.read_text("utf-8")
    }
    assert asleep == MADE_BY_THE_READER
    assert set(written) == {
        table.strip("[]") for table in TABLES if table not in MADE_BY_THE_READER
    }


# Quotations of the program in documents


OTHERS_WORDS = {
    *("why did this person get (or not get) that mail?", "why did I not get it?"),
    *("20% off", "you are on our mailing list", "our sponsors", "View in browser"),
    *("is back in stock", "mail sent by smarthost", "null client", "Message refused"),
    *("space not enough", "mailbox is frozen", "550 User unknown", "421 Deferred"),
    *("550 Unknown user", "utmost account", "jeanne is over quota", "Not on record"),
    *("jeanne at people dot example", "The collected anchor", "Opt-in newsletter"),
    *("Date d'inscription", "I want the letter"),
}
"""Quotations of people, laws and other programs, not of this one."""

_FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.M | re.S)
_NO_WORDS = re.compile(
    r"…|[\w.~$/-]*[\d/@~$][\w.,:%@/~$+-]*|<[^>]*>|“[^”]*”|'[^']*'|\"[^\"]*\"|\b[A-Z]{2,}[A-Z-]*\b"
    r"|\w+[._]\w[\w._]*|--[\w-]+|\w*=|  +|\([^)]*\)|\[[^]]*\]|[,;:.?!](?= |$)"
    r"|\b(?:offers|receipts|newsletter|X-[\w-]+)\b"
)
"""The variable parts of a phrase: numbers, names, values; and the ends of phrases."""


def _quoted(document: str) -> Iterator[str]:
    """Yield the quotations in it: in "", phrases of code, replies, and output of commands."""
    prose = _FENCE.sub("", document)
    for phrase in re.findall(r'"([^"\n=#\[\]-][^"\n=#\[\]]*)"', re.sub(r"`[^`]*`", "``", prose)):
        yield from re.split("…", phrase)
    for span in re.findall(r"`([^`]+)`", prose):
        if re.fullmatch(r"[a-z'…]+(\s[a-z'…]+){2,}", span) and span.split()[0] not in _NAMES:
            yield from re.split("…", span)
        elif re.match(r"\d{3} \d\.\d\.\d ", span):
            yield from _phrases(span)
    for _, kind, block in _FENCE.findall(document):
        if kind in ("console", "text"):
            for line in re.sub(r"^\$ (?:.*\\\n)*.*$", "", block, flags=re.M).splitlines():
                yield from _phrases(line)


def _phrases(text: str) -> list[str]:
    return [phrase for phrase in _NO_WORDS.split(text) if len(phrase.split()) > 2]


def _says(code: str, phrase: str) -> bool:
    """Whether the code has the phrase; in a long one, a word at either end may be a value."""
    words = phrase.split()
    ways = (words, words[1:], words[:-1], words[1:-1]) if len(words) > 2 else (words,)
    return any(" ".join(way) in code for way in ways)


_NAMES = {"smtpproxy", "systemctl", *COMMANDS}


def test_quotations_in_documents_exist_in_the_program() -> None:
    """Quote the code exactly; quotations of others belong in OTHERS_WORDS."""
    sources = [
        path.read_text("utf-8")
        for pattern in ("smtpproxy/**/*.py", "smtpproxy/**/*.toml", "config/**/*.y*ml")
        for path in REPOSITORY.glob(pattern)
    ]
    said = re.sub(r"^ *#.*$", "", "\n".join(sources), flags=re.M)
    code = " ".join(re.sub(r'"\s*\n\s*[frb]*"', "", said).split())
    wrong, count = [], 0
    for path in [*REPOSITORY.glob("docs/*.md"), *REPOSITORY.glob("docs/deploy/*.md"), README]:
        for phrase in _quoted(path.read_text("utf-8")):
            phrase = " ".join(phrase.split()).strip(" ,→")
            if phrase.count(" ") >= 1 and phrase not in OTHERS_WORDS:
                count += 1
                wrong += [] if _says(code, phrase) else [(path.name, phrase)]
    assert wrong == []
    assert count > 100
