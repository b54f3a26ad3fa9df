"""Webhooks of `smtpproxy serve`, from their own process to a real HTTPS receiver."""

import json
import os
import signal
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kit.messages import message
from tests.kit.ports import wait_for
from tests.kit.receiver import Delivery, Receiver, Say, receiver
from tests.kit.relay import RelayProcess, listener
from tests.kit.upstream import FakeUpstream


@pytest.fixture
def crm(tmp_path: Path) -> Iterator[Receiver]:
    with receiver(tmp_path) as running:
        yield running


def relay_with(
    tmp_path: Path, mta: FakeUpstream, *webhooks: dict[str, Any], web: bool = False
) -> RelayProcess:
    till = listener("till", "receipts", default="receipts")
    config = {"listener": [till], "webhook": list(webhooks), "web": {} if web else None}
    return RelayProcess(tmp_path, mta.address, config)


def started(relay: RelayProcess) -> None:
    """Wait until every webhook has its position in the log, from which it gets all changes."""
    wait_for(
        lambda: all(row["position"] is not None for row in listed(relay)),
        "the webhooks to begin",
    )


def listed(relay: RelayProcess) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(relay.must("webhook", "list", "--json"))
    return found


def webhook_process(relay: RelayProcess) -> int:
    return wait_for(lambda: relay.children("webhooks"), "the webhook process")[0]


def add(relay: RelayProcess, *names: str) -> None:
    lines = "".join(f"{name}@people.example,marketing,unsubscribe,2026-01-01,\n" for name in names)
    path = relay.root / f"{names[0]}.csv"
    path.write_text("address,scope,origin,since,note\n" + lines)
    relay.must("suppress", "import", str(path))


def test_an_objection_reaches_the_receiver_signed(
    tmp_path: Path, mta: FakeUpstream, crm: Receiver
) -> None:
    with relay_with(tmp_path, mta, crm.table(), web=True) as relay:
        started(relay)
        relay.must("suppress", "add", "anna@people.example", "--origin", "objection")
        (delivery,) = crm.wait(1)
        assert delivery.signed
        (change,) = delivery.changes
        assert (change["action"], change["scope"], change["origin"]) == (
            "added",
            "all",
            "objection",
        )
        assert "anna" not in delivery.body.decode()
        relay.must("suppress", "remove", "anna@people.example", "--all", "--reason", "by letter")
        assert crm.wait(2)[1].changes[0]["action"] == "lifted"
        delivered = {"webhook": "crm", "outcome": "delivered"}
        wait_for(
            lambda: relay.metric("smtpproxy_webhook_deliveries_total", **delivered) == 2,
            "the metric",
        )
        wait_for(lambda: listed(relay)[0]["state"] == "up to date", "the state")
        wait_for(  # which another process delivers
            lambda: relay.metric("smtpproxy_webhook_lag_seconds", webhook="crm") == 0, "no lag"
        )
        assert relay.terminate() == 0
        assert "Traceback" not in relay.output


def test_a_hanging_receiver_delays_neither_mail_nor_other_receivers(
    tmp_path: Path, mta: FakeUpstream, crm: Receiver
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with receiver(other) as quick:
        crm.answer = lambda delivery: Say(hold=True)
        hanging = crm.table(name="slow", timeout="60s")
        with relay_with(tmp_path, mta, hanging, quick.table(name="quick")) as relay:
            started(relay)
            relay.must("suppress", "add", "anna@people.example")
            crm.wait(1)
            quick.wait(1)
            code, text = relay.send(
                message(), "jeanne@people.example", sender="orders@shop.example"
            )
            assert code == 250, text

            def rows() -> dict[str, dict[str, Any]]:
                return {row["name"]: row for row in listed(relay)}

            wait_for(lambda: rows()["quick"]["state"] == "up to date", "the state")
            assert rows()["slow"]["lag_seconds"] > 0, "it must not hang any more"
            assert relay.terminate() == 0


def test_failed_messages_are_redelivered_in_order_under_the_same_id(
    tmp_path: Path, mta: FakeUpstream, crm: Receiver
) -> None:
    failing = {"left": 2}

    def answer(delivery: Delivery) -> Say:
        return Say(503) if failing["left"] else Say()

    crm.answer = answer
    with relay_with(tmp_path, mta, crm.table(batch=2)) as relay:
        started(relay)
        add(relay, "a", "b", "c", "d", "e")
        crm.wait(2)
        wait_for(lambda: listed(relay)[0]["state"] == "failing", "the failure to show")
        failing["left"] = 0
        wait_for(lambda: crm.told[-1:] == [5], "all changes")
        wait_for(lambda: listed(relay)[0]["state"] == "up to date", "the state")
    first = crm.deliveries[0]
    assert {(d.id, d.body) for d in crm.deliveries if d.changes[0]["seq"] == 1} == {
        (first.id, first.body)
    }
    firsts = [delivery.changes[0]["seq"] for delivery in crm.deliveries]
    assert firsts == sorted(firsts)
    assert crm.told == [1, 2, 3, 4, 5]


def test_a_410_disables_a_webhook_and_retry_enables_it_again(
    tmp_path: Path, mta: FakeUpstream, crm: Receiver
) -> None:
    crm.answer = lambda delivery: Say(410)
    with relay_with(tmp_path, mta, crm.table()) as relay:
        started(relay)
        relay.must("suppress", "add", "anna@people.example")
        wait_for(lambda: listed(relay)[0]["state"] == "disabled", "it to be disabled")
        relay.must("suppress", "add", "berta@people.example")
        crm.answer = lambda delivery: Say()
        count = len(crm.deliveries)
        relay.must("webhook", "retry", "crm")
        wait_for(lambda: crm.told == [1, 2], "the waiting changes")
        assert len(crm.deliveries) > count


def test_redirects_become_dead_letters_that_can_be_retried(
    tmp_path: Path, mta: FakeUpstream, crm: Receiver
) -> None:
    crm.answer = lambda delivery: Say(302, (("location", f"{crm.url}/elsewhere"),))
    with relay_with(tmp_path, mta, crm.table(give_up_after="1s")) as relay:
        started(relay)
        relay.must("suppress", "add", "anna@people.example")
        wait_for(lambda: listed(relay)[0]["dead_letters"] == 1, "the dead letter")
        assert {delivery.path for delivery in crm.deliveries} == {"/hook"}
        shown = json.loads(relay.must("webhook", "show", "crm", "--json"))
        (letter,) = shown["letters"]
        assert "302" in letter["error"]
        body = relay.must("webhook", "show", "crm", "--letter", str(letter["id"]))
        assert body.encode().rstrip() == crm.deliveries[0].body
        assert relay.command("webhook", "drop", "crm", "--letter", "99")[0] == 1
        crm.answer = lambda delivery: Say()
        relay.must("webhook", "retry", "crm", "--letter", str(letter["id"]))
        wait_for(lambda: listed(relay)[0]["dead_letters"] == 0, "the letter to be delivered")
        assert crm.told == [1]
        assert crm.deliveries[-1].id == crm.deliveries[0].id


def test_a_killed_process_loses_nothing(tmp_path: Path, mta: FakeUpstream, crm: Receiver) -> None:
    with relay_with(tmp_path, mta, crm.table(batch=3), web=True) as relay:
        started(relay)
        names = [f"p{number:03}" for number in range(240)]

        def fill() -> None:
            for at in range(0, len(names), 40):
                add(relay, *names[at : at + 40])

        filling = threading.Thread(target=fill)
        filling.start()
        for deliveries in (3, 25):  # the second right after its restart, or in mid-work
            crm.wait(deliveries)
            os.kill(webhook_process(relay), signal.SIGKILL)
        filling.join()
        wait_for(lambda: len(crm.told) == len(names), "every change", timeout=60)
        assert sorted(crm.told) == list(range(1, len(names) + 1))
        by_id: dict[str, set[bytes]] = {}
        for delivery in crm.deliveries:
            by_id.setdefault(delivery.id, set()).add(delivery.body)
        assert all(len(bodies) == 1 for bodies in by_id.values())
        assert relay.metric("smtpproxy_worker_exits_total") == 0


def test_an_unusable_secret_keeps_the_relay_from_starting(
    tmp_path: Path, mta: FakeUpstream, crm: Receiver
) -> None:
    crm.secret_file.chmod(0o644)
    relay = relay_with(tmp_path, mta, crm.table())
    code, _, stderr = relay.command("serve")
    assert code == 2
    assert "chmod 600" in stderr


def test_the_feed_needs_a_token(tmp_path: Path, mta: FakeUpstream) -> None:
    relay = RelayProcess(tmp_path, mta.address, {"web": {}})
    made = json.loads(relay.must("token", "dwh", "--json"))
    relay.config["token"] = [{key: made[key] for key in ("name", "sha256", "may")}]
    relay.write_config()
    with relay:
        relay.must("suppress", "add", "anna@people.example")
        feed = f"{relay.url}/v1/suppressions/changes?since=0&wait=5"
        headers = {"Authorization": f"Bearer {made['token']}"}
        with urllib.request.urlopen(urllib.request.Request(feed, headers=headers)) as answer:
            (change,) = json.load(answer)["changes"]
        exported = relay.must("suppress", "export").splitlines()
        assert [line.partition(",")[0] for line in exported[1:]] == [change["key"]]
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(feed)
