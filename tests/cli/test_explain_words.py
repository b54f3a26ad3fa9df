"""The explanations that support and legal staff read, in both languages."""

import re
from datetime import UTC, datetime

import pytest

from tests.cli.conftest import Bench
from tests.kit import messages
from tests.kit.store import address

NBSP = NARROW = "\N{NARROW NO-BREAK SPACE}"


def decided(bench: Bench, *names: str, message: bytes | None = None) -> str:
    """Send a message to these people; return the id of its decision."""
    _, reply = bench.relay.send(message or messages.marketing(), *map(address, names))
    found = re.search(r"id=(\S+)", reply)
    assert found, reply
    return found[1]


def read(bench: Bench, *arguments: str, code: int = 1) -> str:
    out, err = bench.run("explain", *arguments, code=code)
    assert err == ""
    return re.sub(r"[ \n]+", " ", out)


def test_a_refusal_at_rcpt_in_english(bench: Bench) -> None:
    text = read(bench, "--id", decided(bench, "withdrawn"))
    year = datetime.now(UTC).year
    assert re.search(rf"Decision 01\w+, made on \d+ \w+ {year} at [\d:]+ UTC\.", text)
    assert re.search(
        r"Mail to withdrawn@people\.example was refused on stream offers: the person withdrew their"
        r" consent to “offers” on \d+ \w+ 20\d\d\. A refusal counts as an objection",
        text,
    )


def test_a_refusal_at_rcpt_in_french(bench: Bench) -> None:
    text = read(bench, "--id", decided(bench, "withdrawn"), "--lang", "fr")
    assert re.search(
        rf"L’envoi à withdrawn@people\.example a été refusé sur le flux offers{NBSP}: la personne a"
        rf" retiré son consentement à «{NBSP}offers{NBSP}» le (1er|\d+) \w+ 20\d\d\. Un refus",
        text,
    )
    assert "Ce qui changerait cette réponse" in text
    assert f"Le consentement a-t-il été retiré{NARROW}? [withdrawn{NBSP}: refusé]" in text
    assert "Source" in text
    assert "docs/design.md 4.2" in text


@pytest.mark.parametrize(
    ("lang", "words"),
    [
        ("en", "The sender's developer adds to the header of each message: `List-Unsubscribe:"),
        ("fr", "Le développeur de l’expéditeur ajoute à l’en-tête de chaque message"),
    ],
)
def test_a_refused_message_says_what_its_developer_must_do(
    bench: Bench, lang: str, words: str
) -> None:
    id = decided(bench, "consent", message=messages.marketing(unsubscribe=None, one_click=False))
    text = read(bench, "--id", id, "--lang", lang)
    assert words in text
    assert ("This recipient still got nothing" in text) is (lang == "en")


def test_a_message_refused_because_of_other_recipients(bench: Bench) -> None:
    """The header chooses the stream, so refusals are known only at the end of data."""
    result = bench.json(
        "explain", "-", "--mail-from", "news@shop.example", "--rcpt", address("consent"),
        "--rcpt", address("withdrawn"), "--stream", "offers",
        stdin=messages.marketing(), code=1,
    )  # fmt: skip
    assert [one["verdict"] for one in result["recipients"]] == ["allow", "refuse"]
    assert result["lang"] == "en"
    assert all(one["explanation"] for one in result["recipients"])


def test_json_uses_the_language_too(bench: Bench) -> None:
    id = decided(bench, "bounced")
    french, english = (
        bench.json("explain", "--id", id, "--lang", lang, code=1) for lang in ("fr", "en")
    )
    assert french["recipients"][0]["trace"][0]["text"].startswith("un message à cette adresse")
    assert english["recipients"][0]["trace"][0]["text"].startswith("mail to the address bounced")
    names = ("address", "verdict", "reason", "basis", "reply")
    for name in names:
        assert french["recipients"][0][name] == english["recipients"][0][name]


def test_french_punctuation_never_starts_a_line(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "48")
    out, _ = bench.run("explain", "--id", decided(bench, "withdrawn"), "--lang", "fr", code=1)
    lines = out.splitlines()
    assert max(len(line) for line in lines if "550" not in line and "`" not in line) <= 48
    assert not any(re.match(r"\s*[:;?!»]", line) for line in lines)


def test_an_unknown_language_is_refused(bench: Bench) -> None:
    _, err = bench.run("explain", "--id", "x", "--lang", "de", code=2)
    assert "'de' is not one of 'en', 'fr'" in err
