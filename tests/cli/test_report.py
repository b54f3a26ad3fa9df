"""`smtpproxy report`: mail that observe mode let pass, and which streams are ready to enforce."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.cli.conftest import Bench
from tests.kit import messages, store
from tests.kit.relay import STREAMS, RelayProcess, listener
from tests.kit.store import address
from tests.kit.upstream import FakeUpstream


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """An observing relay, except for `b2b`, with mail of three applications."""
    streams = [*STREAMS[:3], {**STREAMS[3], "mode": "enforce"}]
    listeners = [
        listener("crm", "offers", "receipts", "b2b", default="offers"),
        listener("shop", "receipts", default="receipts"),
        listener("old"),
    ]
    config = {"policy": {"mode": "observe"}, "stream": streams, "listener": listeners}
    with FakeUpstream() as upstream:
        relay = RelayProcess(tmp_path_factory.mktemp("observed"), upstream.address, config)
        bench = Bench(relay)
        bench.store(lambda people: store.fill(people, people, datetime.now(UTC)))
        with relay:

            def send(message: bytes, *names: str, via: str = "crm") -> None:
                relay.send(message, *map(address, names), listener=via)

            for _ in range(4):
                send(messages.marketing(), "consent", "withdrawn", "stranger")
                send(messages.marketing(), "complained")
            send(messages.message(), "consent")  # without a way to unsubscribe
            for _ in range(20):
                send(messages.message(), "stranger", via="shop")
            send(messages.marketing(), "stranger", via="old")
            send(messages.marketing(stream="b2b"), "stranger")
            yield bench


def test_passed_mail_is_counted_by_what_would_have_been_decided(observed: Bench) -> None:
    found = observed.json("report", code=0)
    streams = {one["stream"]: one for one in found["streams"]}
    offers = streams["offers"]
    assert (offers["mode"], offers["recipients"], offers["messages"]) == ("observe", 17, 9)
    assert (offers["passed"], offers["would_be_refused"], offers["refused"]) == (4, 13, 0)
    reasons = {one["reason"]: one for one in offers["reasons"]}
    assert {name: one["recipients"] for name, one in reasons.items()} == {
        "consent_withdrawn": 4,
        "no_record": 4,
        "suppressed_complaint": 4,
        "unsubscribe_missing": 1,
    }
    assert reasons["unsubscribe_missing"]["messages"] == 1
    assert reasons["no_record"]["apps"] == {"crm/127.0.0.1": 4}
    assert "smtpproxy contact import" in reasons["no_record"]["fix"]
    assert len(reasons["no_record"]["examples"]) == 3
    explained, _ = observed.run("explain", "--id", reasons["no_record"]["examples"][0])
    assert "stranger@people.example" in explained
    assert (streams["b2b"]["refused"], streams["b2b"]["would_be_refused"]) == (1, 0)


def test_each_stream_has_a_verdict(observed: Bench) -> None:
    found = observed.json("report", code=0)["streams"]
    verdicts = {one["stream"]: one["judgement"]["verdict"] for one in found}
    assert verdicts == {
        "offers": "blocked", "receipts": "ready", "b2b": "enforced", "appeals": "unseen",
        "default": "blocked",
    }  # fmt: skip
    text, _ = observed.run("report", code=0)
    assert "offers: not ready" in text
    assert "receipts: ready" in text
    assert "smtpproxy stream enforce receipts" in text


def test_it_can_be_broken_down(observed: Bench) -> None:
    apps = {one["app"]: one for one in observed.json("report", "--by", "app")["rows"]}
    assert apps.keys() == {"crm/127.0.0.1", "shop/127.0.0.1", "old/127.0.0.1"}
    assert (apps["shop/127.0.0.1"]["passed"], apps["old/127.0.0.1"]["would_be_refused"]) == (20, 1)
    (day,) = observed.json("report", "--by", "day")["rows"]
    assert day["reasons"]["consent_withdrawn"] == 4
    (domain,) = observed.json("report", "--by", "recipient-domain")["rows"]
    assert domain["recipient-domain"] is None  # too few people
    senders = [one["sender"] for one in observed.json("report", "--by", "sender")["rows"]]
    assert "news@shop.example" in senders
    text, _ = observed.run("report", "--by", "app")
    assert re.search(r"old/127.0.0.1 +0 +1 ", text)


def test_a_period_and_a_stream_can_be_chosen(observed: Bench) -> None:
    later = (datetime.now(UTC) + timedelta(minutes=1)).isoformat()
    assert observed.json("report", "--since", later)["decisions"] == 0
    assert (
        observed.json("report", "--since", "2025-12-01", "--until", "2026-01-01")["decisions"] == 0
    )
    (alone,) = observed.json("report", "--since", "1h", "--stream", "receipts")["streams"]
    assert (alone["stream"], alone["recipients"]) == ("receipts", 20)
    assert "neither a length of time" in observed.run("report", "--since", "soon", code=2)[1]
    assert "no stream 'offer'" in observed.run("report", "--stream", "offer", code=2)[1]


def test_lines_fit_a_terminal(observed: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for by in ("reason", "app", "sender", "recipient-domain", "day"):
        text, _ = observed.run("report", "--by", by)
        assert max(map(len, text.splitlines())) <= 80


def test_the_html_report_is_one_private_file(observed: Bench, tmp_path: Path) -> None:
    file = tmp_path / "week.html"
    said = observed.run("report", "--html", str(file), "--lang", "fr", code=0)[1]
    assert f"written: {file}\n" in said
    page = file.read_text()
    assert '<html lang="fr">' in page
    assert "prefers-color-scheme: dark" in page
    assert "Quels flux sont prêts" in page
    assert "pas prêt" in page
    assert "no_record" in page
    assert not re.search(r"<script|src=|https?://(?!…)|@people\.example", page)
    assert file.stat().st_mode & 0o777 == 0o600
