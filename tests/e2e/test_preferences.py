"""How often people want mail: one too many is refused, at every intake."""

import json
import re
import urllib.parse
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.e2e.test_ways_out import bare, config, tokens
from tests.kit.messages import marketing, message
from tests.kit.policy import policy_client
from tests.kit.relay import RelayProcess, listener
from tests.kit.store import address
from tests.kit.upstream import At, FakeUpstream, Reply

SUBSCRIBER, OTHER = address("consent"), address("customer")


def weekly(relay: RelayProcess, folder: Path, days_ago: int) -> None:
    at = datetime.now(UTC) - timedelta(days=days_ago)
    wish = {"purpose": "offers", "frequency": "weekly", "at": at.isoformat()}
    file = folder / "wishes.ndjson"
    file.write_text(json.dumps({"address": SUBSCRIBER, "preferences": [wish]}) + "\n")
    relay.must("contact", "import", str(file))


def test_one_a_week_across_all_workers_without_affecting_others(
    filled: Callable[..., RelayProcess], tmp_path: Path
) -> None:
    with FakeUpstream(At("end", Reply("451 4.2.0 later"), nth=1)) as mta:
        relay = filled(mta.address, {"server": {"workers": 2}})
        weekly(relay, tmp_path, days_ago=30)
        assert relay.send(marketing(), SUBSCRIBER)[0] == 451, "undelivered mail must not count"

        def send(_: int) -> tuple[int, str]:
            return relay.send(marketing(), SUBSCRIBER)

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(send, range(16)))
        assert sorted(code for code, _ in answers) == [250] + [550] * 15
        refused = next(text for code, text in answers if code == 550)
        assert f"<{SUBSCRIBER}> refused: preference_frequency (stream offers)" in refused
        assert relay.send(marketing(), OTHER)[0] == 250
        assert relay.send(message(stream="receipts"), SUBSCRIBER)[0] == 250


def test_a_wish_counts_from_the_moment_it_is_recorded(
    filled: Callable[..., RelayProcess], upstream: FakeUpstream, tmp_path: Path
) -> None:
    relay = filled(upstream.address)
    assert relay.send(marketing(), SUBSCRIBER)[0] == 250
    weekly(relay, tmp_path, days_ago=0)
    assert relay.send(marketing(), SUBSCRIBER)[0] == 550


def test_a_policy_server_applies_the_wish_too(
    filled: Callable[..., RelayProcess], upstream: FakeUpstream, tmp_path: Path
) -> None:
    policy = listener("ask", "offers", default="offers", protocol="policy")
    relay = filled(upstream.address, {"listener": [policy]})
    weekly(relay, tmp_path, days_ago=30)
    answers = []
    for _ in range(2):
        with policy_client(relay.port("ask")) as mta:
            mta.mail()
            answers += [mta.rcpt(SUBSCRIBER), mta.rcpt(OTHER)]
    assert [answer.split()[0] for answer in answers] == ["DUNNO", "DUNNO", "550", "DUNNO"]


def test_a_wish_on_the_page_of_a_message_holds_for_the_next_message(
    filled: Callable[..., RelayProcess], upstream: FakeUpstream
) -> None:
    relay = filled(upstream.address, config())

    def page_of(recipient: str) -> str:
        upstream.messages.clear()
        assert relay.send(bare(), recipient)[0] == 250
        return f"{relay.url}/u/{tokens(upstream.messages[0])}"

    def post(page: str, **form: str) -> str:
        data = urllib.parse.urlencode(form).encode()
        with urllib.request.urlopen(page, data) as answer:
            return str(answer.read().decode())

    page = page_of(SUBSCRIBER)
    saved = post(page, do="prefer", **{"often:offers": "weekly"})
    assert "offers: Once a week at most" in saved
    code, text = relay.send(bare(), SUBSCRIBER)
    assert (code, "preference_frequency" in text) == (550, True)
    (undo,) = re.findall(r'name="undo" value="([^"]+)"', saved)
    assert "It is undone" in post(page, do="undo", undo=undo)
    assert relay.send(bare(), SUBSCRIBER)[0] == 250

    page = page_of(OTHER)
    pressed = {"List-Unsubscribe": "One-Click", "from": "page", "all": "brand"}
    assert "no more advertising from" in post(page, **pressed)
    code, text = relay.send(bare(), OTHER)
    assert (code, "suppressed_unsubscribe" in text) == (550, True)
