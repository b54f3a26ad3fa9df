"""Other events for a real HTTPS receiver: feedback, refusals, campaign trials, despite a kill."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_breaker import consent
from tests.e2e.test_feedback import APP, DOMAIN, JEANNE, deliver
from tests.e2e.test_feedback import config as feedback_config
from tests.kit.messages import marketing, message
from tests.kit.ports import wait_for
from tests.kit.receiver import Receiver, receiver
from tests.kit.relay import STREAMS, RelayProcess
from tests.kit.reports import bounce, letter
from tests.kit.upstream import FakeUpstream


@pytest.fixture
def crm(tmp_path: Path) -> Iterator[Receiver]:
    with receiver(tmp_path) as running:
        yield running


def told(crm: Receiver, kind: str) -> list[dict[str, Any]]:
    """The changes in messages of one type, each once, in order of arrival."""
    found: dict[int, dict[str, Any]] = {}
    for delivery in list(crm.deliveries):
        body = json.loads(delivery.body)
        if body["type"] == kind:
            assert delivery.signed
            found |= {change["seq"]: change for change in body["data"]["changes"]}
    return list(found.values())


def kill_webhooks(relay: RelayProcess) -> None:
    (process,) = wait_for(lambda: relay.children("webhooks"), "the process")
    os.kill(process, signal.SIGKILL)


def test_feedback_refusals_and_trials_are_delivered(
    filled: Callable[..., RelayProcess], mta: FakeUpstream, crm: Receiver
) -> None:
    config = feedback_config()
    config["stream"][0] = {**STREAMS[0], **config["stream"][0], "campaign_trial": 10}
    events = ["streams", "feedback", "refusals"]
    config["webhook"] = [crm.table(events=events, refusals_every="10s")]
    relay = filled(mta.address, config)
    listed = lambda: json.loads(relay.must("webhook", "list", "--json"))  # noqa: E731
    wait_for(lambda: listed()[0]["position"] is not None, "the webhook to begin")
    wait_for(lambda: told(crm, "refusals.summaries"), "the first summary", timeout=40)

    before = len(mta.messages)
    assert relay.send(message(stream="receipts"), JEANNE, sender=APP)[0] == 250
    path = mta.messages[before].sender
    deliver(
        relay,
        (path, bounce(JEANNE, to=path)),
        (f"what@{DOMAIN}", letter("Hello", to=DOMAIN, sender=APP)),
    )
    kill_webhooks(relay)
    assert relay.send(message(stream="receipts"), JEANNE, sender=APP)[0] in (250, 550)
    wait_for(lambda: len(told(crm, "feedback.reports")) == 2, "the feedback")
    dead, kept = sorted(told(crm, "feedback.reports"), key=lambda one: one["kept"])
    assert (dead["heard"], dead["stream"], dead["suppressed"]) == ("dead", "receipts", "all")
    assert (kept["heard"], kept["kept"]) == ("other", True)
    assert relay.send(message(stream="receipts"), JEANNE, sender=APP)[0] == 550
    gone = ("gone@people.example", "--as", "dead")
    relay.must("feedback", "assign", kept["report"], *gone)
    wait_for(lambda: len(told(crm, "feedback.reports")) == 3, "the report settled by a person")
    said = told(crm, "feedback.reports")[-1]
    assert (said["report"], said["heard"], said["suppressed"]) == (kept["report"], "dead", "all")

    people = [f"p{n}@people.example" for n in range(12)]
    relay.fill([consent(person) for person in people])
    news = marketing(headers=[("Feedback-ID", "spring:shop")])
    assert [relay.send(news, person)[0] for person in people] == [250] * 10 + [450] * 2
    wait_for(lambda: len(told(crm, "stream.changes")) == 2, "the trial")
    begun, ended = told(crm, "stream.changes")
    assert (begun["action"], begun["recipients"]) == ("trial_begun", 10)
    assert (ended["action"], ended["strangers"]) == ("trial_ended", 10)
    assert ended["until"] is not None
    strangers = [relay.send(marketing(), f"n{n}@people.example")[0] for n in range(3)]
    assert strangers == [550] * 3

    def refused(reason: str) -> int:
        summaries = told(crm, "refusals.summaries")
        streams = [stream for each in summaries for stream in each["streams"]]
        return sum(stream["refused"].get(reason, 0) for stream in streams)

    kill_webhooks(relay)
    wait_for(lambda: refused("no_record") == 3, "the summary", timeout=40)
    assert refused("suppressed_bounce") >= 1
    for delivery in crm.deliveries:
        assert b"people.example" not in delivery.body
        assert b"shop.example" not in delivery.body
    summaries = told(crm, "refusals.summaries")
    assert [one["since"] for one in summaries[1:]] == [one["until"] for one in summaries[:-1]]
    assert relay.terminate() == 0
