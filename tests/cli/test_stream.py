"""`smtpproxy stream`: feedback on streams, and pausing and resuming them."""

import asyncio
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from smtpproxy.config import load
from smtpproxy.events import UlidFactory
from smtpproxy.policy.breaker import Feedback
from smtpproxy.store import open_breaker, open_store
from tests.cli.stored import Stored


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    stored = Stored(tmp_path)
    stored.run("suppress", "add", "anna@people.example")  # creates the store
    return stored


def hear(stored: Stored, kind: Feedback, people: int, messages: int = 1_000) -> None:
    """Let `offers` send messages and `people` give feedback on them."""
    settings = load(stored.config_path)

    async def act() -> None:
        store = open_store(settings.store, settings.server.state_dir)
        breaker = open_breaker(settings, lambda: store)
        milliseconds = int(datetime.now(UTC).timestamp() * 1000)
        id = UlidFactory(lambda: milliseconds, lambda n: bytes(n))()
        await breaker.sent({"offers": messages})
        for n in range(people):
            assert await breaker.heard(kind, "offers", id, f"p{n}@people.example")
        await breaker.settled()
        breaker.close()
        await store.close()

    asyncio.run(act())


def test_feedback_is_shown_with_its_share(stored: Stored) -> None:
    hear(stored, Feedback.UNSUBSCRIBE, 25)
    found = {one["stream"]: one for one in stored.json("stream", "show")}
    assert found.keys() == {"default", "offers", "appeals", "b2b"}  # marketing streams only
    offers = found["offers"]
    assert (offers["state"], offers["messages"], offers["unsubscribe"]) == ("running", 1_000, 25)
    assert [(r["cause"], r["level"], r["bound"]) for r in offers["reached"]] == [
        ("unsubscribe", "warn", 0.02)
    ]
    text = stored.run("stream", "show").stdout
    assert "25 (2.50%)" in text
    assert "unsubscribe at 2 % or more" in text


def test_a_pause_by_the_breaker_says_why_and_is_resumed(stored: Stored) -> None:
    hear(stored, Feedback.COMPLAINT, 3)
    offers = stored.json("stream", "show", "offers")
    assert offers["state"] == "paused"
    assert (offers["paused"]["subject"], offers["paused"]["cause"]) == (
        "stream:offers",
        "complaint",
    )
    assert [event["action"] for event in offers["events"]] == ["paused"]
    assert "3 of 1,000 messages" in stored.run("stream", "show", "offers").stdout
    stored.run("stream", "resume", "offers", "--reason", "the bought list is gone")
    offers = stored.json("stream", "show", "offers")
    assert (offers["state"], offers["messages"], offers["complaint"]) == ("running", 0, 0)
    assert [event["action"] for event in offers["events"]] == ["resumed", "paused"]
    assert offers["events"][0]["reason"] == "the bought list is gone"


def test_a_pause_says_whose_mail_still_passes(stored: Stored) -> None:
    stored.run("stream", "observe", "offers", "--yes")
    told = stored.run("stream", "pause", "offers").stdout
    assert "; that of offers is only observed, and passes all the same" in told
    assert stored.json("stream", "pause", "brand:default")["observed"] == ["offers"]
    assert "observed" not in stored.run("stream", "pause", "appeals").stdout


def test_a_person_can_pause_a_stream_or_a_brand_until_a_time(stored: Stored) -> None:
    until = ("--until", "2099-01-01", "--reason", "stocktaking")
    paused = stored.run("stream", "pause", "offers", *until).stdout
    assert "until 2099-01-01T00:00:00Z, or smtpproxy stream resume offers\n" in paused
    paused = stored.json("stream", "show", "offers")["paused"]
    assert (paused["cause"], paused["until"]) == ("person", "2099-01-01T00:00:00Z")
    shown = stored.run("stream", "show").stdout
    assert re.search(r"person since .* until 2099-01-01T00:00:00Z: stocktaking", shown)
    stored.run("stream", "pause", "brand:default")
    assert "brand:default paused: person" in stored.run("stream", "show", "offers").stdout
    assert {one["state"] for one in stored.json("stream", "show")} == {"paused"}
    result = stored.run("stream", "resume", "b2b", code=1)
    assert "smtpproxy stream resume brand:default" in result.stderr
    stored.run("stream", "resume", "brand:default")
    states = {one["stream"]: one["state"] for one in stored.json("stream", "show")}
    assert [name for name, state in states.items() if state == "paused"] == ["offers"]


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("pause", "offer"), 2, "there is no stream 'offer'"),
        (("pause", "brand:nobody"), 2, "there is no stream 'brand:nobody'"),
        (("pause", "receipts"), 2, "transactional stream: its mail is never held back"),
        (("pause", "offers", "--until", "2020-01-01"), 2, "is in the past"),
        (("resume", "offers"), 1, "offers is not paused; its brand may be: smtpproxy stream"),
        (("resume", "brand:default"), 1, "brand:default is not paused\n"),
        (("resume", "appeals"), 1, 'breaker: "paused" in the configuration holds it back'),
    ],
)
def test_impossible_requests_are_refused(
    stored: Stored, arguments: tuple[str, ...], code: int, text: str
) -> None:
    config = stored.config_path.read_text()
    stored.config_path.write_text(
        config.replace('name = "appeals"', 'name = "appeals"\npaused = true')
    )
    assert text in stored.run("stream", *arguments, code=code).stderr


def test_a_stream_is_shown_before_the_store_exists(tmp_path: Path) -> None:
    offers = Stored(tmp_path).json("stream", "show", "offers")
    assert (offers["state"], offers["messages"], offers["events"]) == ("running", 0, [])


def test_explain_says_since_when_a_stream_is_paused_and_why(stored: Stored) -> None:
    message = stored.file("m.eml", "From: a@shop.example\r\nSubject: x\r\n\r\nx\r\n")
    asked = ("explain", message, "--mail-from", "a@shop.example", "--stream", "offers",
             "--rcpt", "contact@firm.example")  # fmt: skip
    before = stored.run(*asked, code=1).stdout
    assert "Stream offers is not paused" in before
    stored.run("stream", "pause", "brand:default")
    result = stored.run(*asked, code=1)
    assert "all marketing of the brand default has been paused since" in result.stdout
    assert "by the operator of the relay, until somebody resumes it" in result.stdout
    french = stored.run(*asked, "--lang", "fr", code=1).stdout
    assert "toute la prospection de la marque default" in french
    assert "envois suspendus depuis le" in french


def test_scrub_counts_the_people_of_a_paused_stream_as_deferred(stored: Stored) -> None:
    people = stored.file("list.txt", "contact@firm.example\nanna@people.example\n")
    asked = ("scrub", people, "--stream", "offers")
    assert stored.json(*asked, code=1)["by_reason"].keys() == {"suppressed_manual"}
    stored.run("stream", "pause", "brand:default")
    report = stored.json(*asked, code=1)
    assert (report["deferred"], report["by_reason"]["stream_paused"]) == (1, 1)
