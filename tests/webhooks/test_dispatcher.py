"""The dispatcher with a store in memory and a test clock: what is sent, and when."""

import json
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from smtpproxy.policy.model import Origin
from smtpproxy.settings import WebhookSettings
from smtpproxy.store.propagation import NewEvent, of_others
from smtpproxy.store.records import SuppressionEntry
from smtpproxy.store.streams import StreamEvent
from smtpproxy.webhooks.delivery import Kind, Outcome
from smtpproxy.webhooks.dispatcher import Environment, WebhookDispatcher
from smtpproxy.webhooks.shared_store import SharedStore
from tests.kit.receiver import Delivery
from tests.kit.store import TrialStore

T0 = datetime(2026, 3, 1, 10, 0, tzinfo=UTC)
HOOK = WebhookSettings("crm", "https://crm.example/hook", Path("secret"), batch=2)
DELIVERED = Outcome("delivered", "HTTP 204")
FAILED = Outcome("failed", "HTTP 500")


class Bench:
    """A dispatcher and everything it uses."""

    def __init__(self, store: TrialStore, webhook: WebhookSettings = HOOK) -> None:
        self.store = store
        self.webhook = webhook
        self.now = T0
        self.answers: list[Outcome] = []  # afterwards: delivered
        self.sent: list[Delivery] = []
        self.counted: list[tuple[str, Kind]] = []
        self._ids = count(1)
        self.dispatcher = self.another()

    def another(self, relay: str = "one") -> WebhookDispatcher:
        """A dispatcher restarted after a kill, or that of another relay."""
        around = Environment(
            now=lambda: self.now,
            random=lambda: 1.0,
            new_id=lambda: str(next(self._ids)),
            count=lambda webhook, kind: self.counted.append((webhook, kind)),
            relay=relay,
        )
        return WebhookDispatcher(self.webhook, SharedStore(self.store), self._post, around)

    async def _post(self, id: str, body: bytes) -> Outcome:
        self.sent.append(Delivery(id, 0, "", body, ""))
        return self.answers.pop(0) if self.answers else DELIVERED

    async def start(self) -> None:
        assert not await self.dispatcher.step()

    async def add(self, *names: str, scope: str = "marketing", since: datetime = T0) -> None:
        await self.store.add_suppressions(
            [
                SuppressionEntry(f"{name}@people.example", scope, Origin.UNSUBSCRIBE, since)
                for name in names
            ]
        )

    async def run(self) -> None:
        """Run until nothing is due now."""
        for _ in range(100):
            if not await self.dispatcher.step():
                return
        raise AssertionError("it never rests")

    async def later(self, **much: float) -> None:
        self.now += timedelta(**much)
        await self.run()

    @property
    def told(self) -> Sequence[Sequence[int]]:
        return [[change["seq"] for change in delivery.changes] for delivery in self.sent]


@pytest.fixture
async def store() -> AsyncIterator[TrialStore]:
    async with TrialStore() as store:
        yield store


@pytest.fixture
async def bench(store: TrialStore) -> Bench:
    bench = Bench(store)
    await bench.start()
    return bench


async def test_a_webhook_begins_with_changes_from_now_on(store: TrialStore) -> None:
    bench = Bench(store)
    await bench.add("before")
    await bench.run()
    await bench.add("after")
    await bench.run()
    assert bench.told == [[2]]


async def test_changes_are_sent_in_order_in_batches(bench: Bench) -> None:
    await bench.add("a", "b", "c", "d", "e")
    await bench.run()
    assert bench.told == [[1, 2], [3, 4], [5]]
    assert len({delivery.id for delivery in bench.sent}) == 3
    await bench.run()
    assert len(bench.sent) == 3
    assert bench.counted == [("crm", "delivered")] * 3


async def test_a_failure_holds_back_what_follows_until_it_is_delivered(bench: Bench) -> None:
    bench.answers = [FAILED, FAILED]
    await bench.add("a", "b", "c")
    await bench.run()
    assert bench.told == [[1, 2]]
    await bench.later(seconds=0.9)
    assert len(bench.sent) == 1
    await bench.later(seconds=0.1)
    assert len(bench.sent) == 2
    await bench.later(seconds=2)
    assert bench.told == [[1, 2], [1, 2], [1, 2], [3]]
    first, second, third, _ = bench.sent
    assert (first.id, first.body) == (second.id, second.body) == (third.id, third.body)


async def test_a_killed_dispatcher_sends_the_same_message_again(bench: Bench) -> None:
    await bench.add("a")

    async def die(id: str, body: bytes) -> Outcome:
        bench.sent.append(Delivery(id, 0, "", body, ""))
        raise KeyboardInterrupt

    bench.dispatcher.post = die
    with pytest.raises(KeyboardInterrupt):
        await bench.dispatcher.step()
    await bench.add("b")  # must not change the message already under way
    bench.dispatcher = bench.another()
    await bench.run()
    assert bench.told == [[1], [1], [2]]
    assert (bench.sent[0].id, bench.sent[0].body) == (bench.sent[1].id, bench.sent[1].body)


async def test_a_message_deferred_while_the_clock_was_ahead_is_tried_once_it_is_right(
    bench: Bench,
) -> None:
    bench.now += timedelta(days=1_800)
    bench.answers = [FAILED]
    await bench.add("a")
    await bench.run()
    bench.now -= timedelta(days=1_800)
    bench.answers = [FAILED]
    await bench.run()
    assert len(bench.sent) == 2
    (state,) = (await bench.store.webhook_progress()).states.values()
    assert state.failing_since == bench.now, "so that it is given up after a day instead of years"
    await bench.later(seconds=3)
    assert bench.told == [[1], [1], [1]]


async def test_a_lease_taken_while_the_clock_was_ahead_is_corrected(bench: Bench) -> None:
    one, two = bench.dispatcher, bench.another("two")
    bench.now += timedelta(days=1_800)
    await bench.add("a")
    assert await one.step()
    bench.now -= timedelta(days=1_800)
    await bench.add("b")
    assert await one.step()
    bench.now += timedelta(seconds=71)  # it was killed
    await bench.add("c")
    assert await two.step()
    assert bench.told == [[1], [2], [3]]


async def test_one_of_many_relays_delivers_and_another_takes_over(
    bench: Bench,
) -> None:
    await bench.start()
    one, two = bench.dispatcher, bench.another("two")
    await bench.add("a")
    assert not await two.step()
    assert await one.step()
    await bench.add("b")
    assert not await two.step(), "another relay is there but has not looked yet"
    bench.now += timedelta(seconds=71)  # it was killed
    assert await two.step()
    assert not await one.step()
    await bench.add("c")
    await two.release()
    assert await one.step()
    assert bench.told == [[1], [2], [3]]


async def test_a_relay_keeps_webhooks_that_another_serves(bench: Bench) -> None:
    await bench.start()
    holdings = (await bench.store.webhook_progress()).holdings
    assert of_others(holdings, "one", bench.now) == []
    assert of_others(holdings, "two", bench.now) == ["crm"]
    assert of_others(holdings, "two", bench.now + timedelta(days=2)) == []
    await bench.store.forget_webhooks(["crm"])
    assert (await bench.store.webhook_progress()).holdings == holdings
    await bench.store.forget_webhooks([])
    assert (await bench.store.webhook_progress()).holdings == {}


async def test_after_a_day_of_failures_a_message_becomes_a_dead_letter(bench: Bench) -> None:
    bench.answers = [FAILED] * 100
    await bench.add("a", "b", "c")
    while not await bench.store.dead_letters():
        await bench.later(minutes=10)
        assert bench.now - T0 < timedelta(hours=26)
    assert bench.now - T0 >= timedelta(hours=24)
    (letter,) = await bench.store.dead_letters("crm")
    assert (letter.changes, letter.error) == (2, "HTTP 500")
    assert letter.body == bench.sent[0].body
    assert 20 < letter.attempts < 50
    bench.answers = []
    await bench.later(hours=1)
    assert bench.told[-1] == [3]
    assert (await bench.store.backlog())["crm"].oldest == letter.oldest_at


async def test_a_dead_letter_is_retried_on_request(bench: Bench) -> None:
    bench.answers = [FAILED] * 100
    await bench.add("a")
    while not await bench.store.dead_letters():
        await bench.later(hours=1)
    for answer, left in ((FAILED, 1), (DELIVERED, 0)):
        bench.answers = [answer]
        assert await bench.store.retry_dead_letters("crm") == 1
        assert await bench.store.wake_webhook("crm")
        await bench.run()
        assert bench.sent[-1].id == bench.sent[0].id
        assert len(await bench.store.dead_letters("crm")) == left
    assert (await bench.store.backlog())["crm"].oldest is None


async def test_a_410_ends_delivery_until_somebody_asks(bench: Bench) -> None:
    bench.answers = [Outcome("gone", "HTTP 410")]
    await bench.add("a", "b", "c")
    await bench.later(days=9)
    await bench.later(days=9)
    assert bench.told == [[1, 2]]
    assert (await bench.store.backlog())["crm"].disabled
    await bench.store.wake_webhook("crm")
    await bench.run()
    assert bench.told == [[1, 2], [1, 2], [3]]
    assert not (await bench.store.backlog())["crm"].disabled


async def test_retry_after_is_obeyed(bench: Bench) -> None:
    bench.answers = [Outcome("failed", "HTTP 503", timedelta(minutes=5))]
    await bench.add("a")
    await bench.run()
    await bench.later(minutes=4)
    assert len(bench.sent) == 1
    await bench.later(minutes=1)
    assert len(bench.sent) == 2


async def test_only_wanted_changes_are_sent(store: TrialStore) -> None:
    bench = Bench(store, replace(HOOK, scopes=frozenset({"all"}), events=frozenset({"added"})))
    await bench.start()
    await bench.add("a", "b", "c")
    await bench.add("d", scope="all")
    await bench.add("d", scope="all", since=T0 + timedelta(days=1))
    await bench.run()
    assert bench.told == [[4]]
    assert (await bench.store.backlog())["crm"].oldest is None


@pytest.mark.parametrize(("origin", "told"), [("unsubscribe", [[1]]), ("bounce", [])])
async def test_only_wanted_origins_are_sent(
    store: TrialStore, origin: str, told: list[list[int]]
) -> None:
    bench = Bench(store, replace(HOOK, origins=frozenset({Origin(origin)})))
    await bench.start()
    await bench.add("a")
    await bench.run()
    assert bench.told == told


async def test_trimmed_changes_are_reported_as_missing(bench: Bench) -> None:
    bench.answers = [Outcome("gone", "HTTP 410")]
    await bench.add("a", "b", "c")
    await bench.run()
    assert await bench.store.trim_changes(datetime.now(UTC) + timedelta(days=1)) == 3
    await bench.store.wake_webhook("crm")
    await bench.run()
    state = (await bench.store.webhook_progress()).states["crm"]
    assert state.position == 3
    assert "whole export" in (state.last_error or "")
    await bench.add("d")
    await bench.run()
    assert bench.told[-1] == [4]


PAUSED = StreamEvent(T0, "stream:offers", "paused", "complaint", 61, 20_000, 3_000)

RESUMED = StreamEvent(T0, "stream:offers", "resumed", "person", reason="new list")


async def test_stream_changes_are_sent_in_order_in_separate_messages(store: TrialStore) -> None:
    bench = Bench(store, replace(HOOK, events=HOOK.events | {"streams"}, batch=10))
    await bench.start()
    await bench.add("anna")
    await store.note_stream(PAUSED)
    await store.note_stream(RESUMED)
    await bench.add("ben")
    await bench.run()
    bodies = [json.loads(delivery.body) for delivery in bench.sent]
    assert [(body["type"], len(body["data"]["changes"])) for body in bodies] == [
        ("suppression.changes", 1),
        ("stream.changes", 2),
        ("suppression.changes", 1),
    ]
    paused, resumed = bodies[1]["data"]["changes"]
    assert paused.pop("seq") < resumed["seq"] == bodies[1]["data"]["next"]
    assert paused == {
        "at": "2026-03-01T10:00:00Z", "subject": "stream:offers", "action": "paused",
        "cause": "complaint", "reports": 61, "messages": 20_000, "bound": 0.003,
        "until": None, "reason": None,
    }  # fmt: skip
    assert (resumed["action"], resumed["reason"]) == ("resumed", "new list")


DEAD = NewEvent("1", "feedback", {"heard": "dead", "stream": "offers"})
TRIED = NewEvent("1", "campaign", {"subject": "stream:offers", "action": "trial_begun"})
HOURLY = NewEvent("1", "refusals", {"period": 3600.0, "streams": []})
DAILY = NewEvent("2", "refusals", {"period": 86400.0, "streams": []})


async def test_each_kind_of_event_has_its_own_messages(store: TrialStore) -> None:
    everything = HOOK.events | {"streams", "feedback", "refusals"}
    bench = Bench(store, replace(HOOK, events=everything, batch=10))
    await bench.start()
    await bench.add("anna")
    await store.note_stream(PAUSED)
    await store.log_events([TRIED, DEAD, DAILY, HOURLY])
    await bench.run()
    bodies = [json.loads(delivery.body) for delivery in bench.sent]
    assert [(body["type"], len(body["data"]["changes"])) for body in bodies] == [
        ("suppression.changes", 1),
        ("stream.changes", 2),
        ("feedback.reports", 1),
        ("refusals.summaries", 1),
    ]
    assert [body["data"]["changes"][-1] for body in bodies[1:]] == [
        {"seq": 3, "subject": "stream:offers", "action": "trial_begun"},
        {"seq": 4, "heard": "dead", "stream": "offers"},
        {"seq": 6, "period": 3600.0, "streams": []},
    ]
    assert bodies[-1]["data"]["next"] == 6


@pytest.mark.parametrize(
    ("wanted", "told"),
    [("streams", [1]), ("feedback", [2]), ("refusals", [4]), ("added", [])],
)
async def test_events_go_only_to_webhooks_that_want_them(
    store: TrialStore, wanted: Any, told: list[int]
) -> None:
    bench = Bench(store, replace(HOOK, events=frozenset({wanted}), batch=10))
    await bench.start()
    await store.log_events([TRIED, DEAD, DAILY, HOURLY])
    await bench.run()
    assert [seq for each in bench.told for seq in each] == told
    assert await bench.store.changes(4, 1) == []


async def test_a_webhook_that_did_not_ask_gets_no_stream_changes(store: TrialStore) -> None:
    bench = Bench(store)
    await bench.start()
    await store.note_stream(PAUSED)
    await bench.add("anna")
    await bench.run()
    (only,) = [json.loads(delivery.body) for delivery in bench.sent]
    assert (only["type"], len(only["data"]["changes"])) == ("suppression.changes", 1)


async def test_forgotten_stream_changes_hold_nothing_up(store: TrialStore) -> None:
    bench = Bench(store, replace(HOOK, events=HOOK.events | {"streams"}))
    await bench.start()
    await store.note_stream(PAUSED)
    await store.trim_stream_events(T0 + timedelta(days=1))
    await bench.add("anna")
    await bench.run()
    assert [json.loads(delivery.body)["type"] for delivery in bench.sent] == ["suppression.changes"]
