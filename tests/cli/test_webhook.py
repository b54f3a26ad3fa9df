"""`smtpproxy webhook` on a store left behind by a dispatcher."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from smtpproxy.config import load
from smtpproxy.store import open_store
from smtpproxy.store.propagation import DeadLetter, WebhookState
from smtpproxy.store.sql.store import Store
from tests.cli.stored import Stored

NOW = datetime.now(UTC)
TABLE = """
[[webhook]]
name = "crm"
url = "https://crm.example/hook"
secret_file = "{secret}"
"""


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    stored = Stored(tmp_path)
    secret = tmp_path / "crm.secret"
    secret.touch(0o600)
    secret.write_text("whsec_" + "c2VjcmV0" * 4 + "\n")
    table = TABLE.format(secret=secret)
    stored.config_path.write_text(stored.config_path.read_text() + table)
    stored.run("suppress", "add", "anna@people.example")
    return stored


def within(stored: Stored, work: Callable[[Store], Awaitable[None]]) -> None:
    settings = load(stored.config_path)

    async def act() -> None:
        store = open_store(settings.store, settings.server.state_dir)
        try:
            await work(store)
        finally:
            await store.close()

    asyncio.run(act())


def failing(stored: Stored, letters: int = 2) -> None:
    async def work(store: Store) -> None:
        state = WebhookState("crm", 0, failures=3, failing_since=NOW, last_error="HTTP 500")
        await store.put_webhook_states([state])
        for number in range(letters):
            died = NOW - timedelta(hours=number)
            dead = DeadLetter("crm", f"msg_{number}", b"{}", 1, died, died, 9, "HTTP 500")
            await store.put_webhook_states([state], [dead])

    within(stored, work)


def test_a_webhook_never_started_says_so(stored: Stored) -> None:
    (row,) = stored.json("webhook", "list")
    assert (row["name"], row["state"]) == ("crm", "not started yet")
    assert stored.json("webhook", "retry", "crm", code=1)["asked"] is False


def test_failures_and_delays_are_shown(stored: Stored) -> None:
    failing(stored)
    (row,) = stored.json("webhook", "list")
    assert (row["state"], row["dead_letters"], row["last_error"]) == ("failing", 2, "HTTP 500")
    assert row["lag_seconds"] >= 3600
    shown = stored.json("webhook", "show", "crm")
    assert [letter["message_id"] for letter in shown["letters"]] == ["msg_0", "msg_1"]
    assert [*shown["letters"][0]] == [
        *("id", "message_id", "changes", "oldest_at", "died_at", "attempts", "error", "retry")
    ]
    assert {"failures", "failing_since", "retry_at", "delivered_at", "last_error"} <= shown.keys()
    assert "dead letter 2: 1 change," in stored.run("webhook", "show", "crm").stdout
    assert "crm" in stored.run("webhook", "list").stdout
    assert stored.run("webhook", "show", "crm", "--letter", "2").stdout == "{}\n"
    assert (
        "no dead letter 9" in stored.run("webhook", "show", "crm", "--letter", "9", code=1).stderr
    )


def test_a_retry_is_left_to_the_relay(stored: Stored) -> None:
    failing(stored)
    done = stored.json("webhook", "retry", "crm", "--letter", "2")
    assert done == {"webhook": "crm", "dead_letters": 1, "asked": True}
    letters = stored.json("webhook", "show", "crm")["letters"]
    assert [letter["retry"] for letter in letters] == [False, True]
    stored.run("webhook", "retry", "crm", "--letter", "9", code=1)


def test_dropped_letters_are_gone(stored: Stored) -> None:
    failing(stored)
    assert "--letter ID" in stored.run("webhook", "drop", "crm", code=2).stderr
    assert stored.json("webhook", "drop", "crm", "--letter", "1")["dropped"] == 1
    stored.run("webhook", "drop", "crm", "--letter", "1", code=1)
    assert "1 dead letter dropped" in stored.run("webhook", "drop", "crm", "--all").stdout
    assert stored.json("webhook", "show", "crm")["letters"] == []


def test_letters_of_a_removed_webhook_can_be_dropped(stored: Stored) -> None:
    failing(stored)
    config = stored.config_path.read_text().partition("[[webhook]]")[0]
    stored.config_path.write_text(config)
    assert stored.json("webhook", "drop", "crm", "--all")["dropped"] == 2
    assert (
        "there is no webhook 'crm'" in stored.run("webhook", "drop", "crm", "--all", code=2).stderr
    )


def test_an_unknown_name_is_refused(stored: Stored) -> None:
    for action in ("show", "retry"):
        assert "crm" in stored.run("webhook", action, "dwh", code=2).stderr


def test_check_shows_who_is_notified_by_when(stored: Stored) -> None:
    checked = stored.json("check")
    (row,) = checked["webhooks"]
    assert (row["name"], row["deadline_seconds"]) == ("crm", 48 * 3600)
    assert "within 48 hours" in stored.run("check").stdout
    late = stored.config_path.read_text() + 'deadline = "3d"\ngive_up_after = "4d"\n'
    late += 'scopes = ["all", "brand:gone", "purpose:offers", "purpose:gone"]\n'
    stored.config_path.write_text(late)
    warned = " ".join(stored.json("check")["warnings"])
    assert "later than the honour_within of fr (48 hours)" in warned
    assert "give_up_after: later than its deadline" in warned
    assert 'webhook "crm".scopes: brand:gone is not configured' in warned
    assert warned.count("is not configured: the receiver hears") == 2
