"""A stream with too many complaints stops in every worker at once, stays stopped over a restart,
and is resumed. Operators are notified."""

import asyncio
import json
import re
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from smtpproxy.config import load
from smtpproxy.policy.breaker import Feedback
from smtpproxy.store import open_breaker, open_store
from tests.e2e.test_ways_out import PUBLIC, bare
from tests.kit.audit import records, relayed
from tests.kit.messages import marketing, message
from tests.kit.ports import wait_for
from tests.kit.receiver import Receiver, receiver
from tests.kit.relay import STREAMS, RelayProcess
from tests.kit.reports import bounce
from tests.kit.store import address
from tests.kit.upstream import At, FakeUpstream, Reply

SUBSCRIBER = address("consent")
ADDING = [
    {**stream, "unsubscribe": "add"} if stream["name"] == "offers" else stream for stream in STREAMS
]


@pytest.fixture
def crm(tmp_path: Path) -> Iterator[Receiver]:
    with receiver(tmp_path) as running:
        yield running


def config(**more: Any) -> dict[str, Any]:
    return {
        "server": {"workers": 2},
        "web": {"public_url": PUBLIC},
        "breaker": {"minimum_messages": 20, "window": "1h"},
        **more,
    }


def hear(relay: RelayProcess, kind: Feedback, reports: Sequence[tuple[str, str]]) -> int:
    """Report as the feedback mailbox does for valid tokens."""
    settings = load(relay.config_path)

    async def act() -> int:
        store = open_store(settings.store, settings.server.state_dir)
        breaker = open_breaker(settings, lambda: store)
        told = [await breaker.heard(kind, "offers", id, person) for id, person in reports]
        await breaker.settled()
        breaker.close()
        await store.close()
        return sum(told)

    with ThreadPoolExecutor(1) as aside:
        return aside.submit(asyncio.run, act()).result(30)


def send_many(relay: RelayProcess, count: int, mail: bytes = marketing()) -> list[int]:
    """Send each over its own connection, so that both workers get some."""
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda _: relay.send(mail, SUBSCRIBER)[0], range(count)))


def shown(relay: RelayProcess) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(relay.must("stream", "show", "offers", "--json"))
    return found


def test_complaints_pause_a_stream_everywhere_until_it_is_resumed(
    filled: Callable[..., RelayProcess], crm: Receiver
) -> None:
    with FakeUpstream() as mta:
        hook = crm.table(events=["streams"])
        relay = filled(mta.address, config(webhook=[hook]))
        listed = lambda: json.loads(relay.must("webhook", "list", "--json"))  # noqa: E731
        wait_for(lambda: listed()[0]["position"] is not None, "the webhook to begin")
        assert send_many(relay, 24) == [250] * 24
        wait_for(lambda: shown(relay)["messages"] == 24, "both workers to have counted")
        ids = [entry.decided.id for entry in relayed(records(relay))]
        reports = [(id, f"p{n}@people.example") for n, id in enumerate(ids[:3])]
        assert hear(relay, Feedback.COMPLAINT, reports) == 3

        assert send_many(relay, 12) == [450] * 12
        assert len(mta.messages) == 24
        assert relay.send(message(stream="receipts"), SUBSCRIBER)[0] == 250
        told = relay.send(marketing(), SUBSCRIBER)[1]
        assert f"4.7.0 <{SUBSCRIBER}> deferred: stream_paused (stream offers) id=" in told
        id = told.rpartition("id=")[2]
        _, why, _ = relay.command("explain", "--id", id)
        assert "stream offers has been paused since" in why
        assert "too many recipients complained, until somebody resumes it" in why

        (delivery,) = crm.wait(1)
        assert delivery.signed
        (change,) = delivery.changes
        assert (change["subject"], change["action"], change["cause"], change["reports"]) == (
            "stream:offers",
            "paused",
            "complaint",
            3,
        )
        paused = {"stream": "offers", "cause": "complaint"}
        wait_for(lambda: relay.metric("smtpproxy_stream_paused", **paused) == 1, "the metric")
        with urllib.request.urlopen(f"{relay.url}/readyz", timeout=10) as response:
            assert json.load(response)["streams_paused"] == ["offers"]

        replayed = json.loads(relay.command("audit", "replay", "--rulebook", "fr", "--json")[1])
        assert not replayed["changes"], replayed
        assert relay.terminate() == 0
        relay.start()
        assert send_many(relay, 6) == [450] * 6
        relay.must("stream", "resume", "offers", "--reason", "another list")
        assert send_many(relay, 6) == [250] * 6
        assert crm.wait(2)[1].changes[0]["action"] == "resumed"
        assert shown(relay)["complaint"] == 0


def test_the_counts_of_workers_survive_a_restart(
    filled: Callable[..., RelayProcess], mta: FakeUpstream
) -> None:
    relay = filled(mta.address, config())
    assert send_many(relay, 20) == [250] * 20
    ids = [entry.decided.id for entry in relayed(records(relay))]
    assert relay.terminate() == 0  # counts not reported yet are reported at the end
    assert (
        hear(relay, Feedback.COMPLAINT, [(ids[0], "p@people.example"), (ids[1], "q@x.example")])
        == 2
    )
    relay.start()
    assert shown(relay)["state"] == "running"
    assert hear(relay, Feedback.COMPLAINT, [(ids[2], "r@people.example")]) == 1
    assert (shown(relay)["state"], shown(relay)["messages"]) == ("paused", 20)
    assert relay.send(marketing(), SUBSCRIBER)[0] == 450


def test_unsubscribes_by_link_warn_and_never_pause_and_imports_do_not_count(
    filled: Callable[..., RelayProcess], mta: FakeUpstream
) -> None:
    relay = filled(mta.address, config(stream=ADDING))
    before = len(mta.messages)
    assert send_many(relay, 30, bare()) == [250] * 30
    wait_for(lambda: shown(relay)["messages"] == 30, "both workers to have counted")
    path = relay.root / "left.csv"
    path.write_text(
        "address,scope,origin,since,note\n"
        + "".join(f"p{n}@people.example,marketing,unsubscribe,2026-01-01,\n" for n in range(30))
    )
    relay.must("suppress", "import", str(path))
    assert shown(relay)["unsubscribe"] == 0
    for each in mta.messages[before:]:  # one person thirty times counts once
        (token,) = set(re.findall(rb"/u/([\w-]+)>", each.data))
        request = urllib.request.Request(
            f"{relay.url}/u/{token.decode()}", b"List-Unsubscribe=One-Click", method="POST"
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            assert response.status == 200
    assert (shown(relay)["unsubscribe"], shown(relay)["state"]) == (1, "running")


def test_a_new_campaign_to_strangers_waits_after_its_first_recipients(
    filled: Callable[..., RelayProcess], mta: FakeUpstream
) -> None:
    """Nobody in this store was ever mailed; both workers together let ten through."""
    tried = [{**s, "campaign_trial": 10} if s["name"] == "offers" else s for s in STREAMS]
    relay = filled(mta.address, config(stream=tried))
    everybody = [f"p{n}@people.example" for n in range(44)]
    people, others = everybody[:30], everybody[30:]
    relay.fill([consent(person) for person in everybody])

    def say(person: str, campaign: str = "spring:shop") -> tuple[int, str]:
        return relay.send(marketing(headers=[("Feedback-ID", campaign)]), person)

    def send(person: str, campaign: str = "spring:shop") -> int:
        return say(person, campaign)[0]

    mta.behaviours.append(At("end", Reply("451 4.7.1 later")))
    assert [send(person) for person in people[:10]] == [451] * 10  # nobody was mailed
    mta.behaviours.clear()
    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(send, people))
    assert 10 <= codes.count(250) < 20
    assert set(codes) == {250, 450}
    code, told = say(people[-1])
    assert (code, "deferred: campaign_on_trial (stream offers)" in told) == (450, True)
    _, why, _ = relay.command("explain", "--id", told.rpartition("id=")[2])
    assert "of its first 10 recipients" in why
    letter_to = relay.root / "spring.eml"
    letter_to.write_bytes(marketing(headers=[("Feedback-ID", "spring:shop")]))
    asked = ("explain", str(letter_to), "--mail-from", "a@shop.example", "--rcpt", people[-1])
    assert "of its first 10 recipients" in relay.command(*asked)[1]
    assert send(people[-1], "summer:shop") == 250  # another campaign has its own trial
    replayed = json.loads(relay.command("audit", "replay", "--rulebook", "fr", "--json")[1])
    assert not replayed["changes"], replayed
    (campaign,) = shown(relay)["campaigns"]
    assert (campaign["people"], campaign["strangers"]) == (10, 10)
    assert campaign["waits_until"] is not None
    assert relay.terminate() == 0
    relay.start()
    assert send(people[-2]) == 450
    relay.must("stream", "resume", "offers")
    assert send(people[-2]) == 250

    # without a Feedback-ID, or with an empty one, its text identifies it, whatever names and
    # numbers differ
    codes = [relay.send(letter(person, n), person)[0] for n, person in enumerate(others)]
    assert codes == [250] * 10 + [450] * 4


def letter(person: str, points: int) -> bytes:
    name = person.partition("@")[0].title()
    body = (
        f"Dear {name},\r\n\r\nyou have {points} points, and new shoes are in at our shop in town"
        f" now.\r\n\r\nNo more of this: https://shop.example/stop?{points}\r\n"
    )
    return marketing(to=person, body=body, headers=[("Feedback-ID", "")] if points > 11 else [])


def consent(person: str) -> str:
    return json.dumps(
        {
            "address": person,
            "audience": "consumer",
            "source": "direct",
            "collected_at": "2026-10-01T10:00:00Z",
            "consents": [
                {
                    "purpose": "offers",
                    "method": "unticked_box",
                    "given_at": "2026-10-01T10:00:00Z",
                    "channels": ["email"],
                    "evidence": {"wording": "form v3"},
                }
            ],
        }
    )


def test_bounces_pause_a_stream_and_forged_ones_do_not(
    filled: Callable[..., RelayProcess], mta: FakeUpstream
) -> None:
    feedback = {"domain": "bounces.shop.example", "require_token": False}
    verp = [{**s, "verp": True} if s["name"] == "offers" else s for s in STREAMS]
    relay = filled(mta.address, config(stream=verp, feedback=feedback))
    people = [f"p{n}@people.example" for n in range(40)]
    relay.fill([consent(person) for person in people])
    before = len(mta.messages)
    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(lambda person: relay.send(marketing(), person)[0], people))
    assert codes == [250] * 40
    wait_for(lambda: shown(relay)["messages"] == 40, "both workers to have counted")
    paths = {each.recipients[0]: each.sender for each in mta.messages[before:]}

    def read(*reports: tuple[str, str]) -> None:
        """Deliver bounces of these people to these return paths."""
        folder = relay.root / f"bounces-{len(list(relay.root.glob('bounces-*')))}"
        folder.mkdir()
        for n, (path, person) in enumerate(reports):
            (folder / f"{n}.eml").write_bytes(bounce(person, to=path))
        relay.must("feedback", str(folder))

    read(*[("bounces@bounces.shop.example", person) for person in people[10:]])  # without a token
    forged = paths[people[0]].replace("@", "x@")
    read(*[(forged, person) for person in people[10:]])  # with an invalid one
    read(*[(paths[people[0]], person) for person in people[:30]])  # one person's, for all others
    assert (shown(relay)["dead_address"], shown(relay)["state"]) == (1, "running")
    read((paths[people[1]], people[1]), (paths[people[2]], people[2]))
    assert (shown(relay)["dead_address"], shown(relay)["state"]) == (3, "paused")
    assert relay.send(marketing(), SUBSCRIBER)[0] == 450
