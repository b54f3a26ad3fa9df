"""How every backend records changes for others: mixed into its test class."""

from datetime import UTC, datetime, timedelta

import pytest

from smtpproxy.policy.model import Origin
from smtpproxy.store.propagation import ChangesGone, DeadLetter, Holding, NewEvent, WebhookState
from smtpproxy.store.records import SuppressionEntry
from smtpproxy.store.sql.store import Store

T0 = datetime(2026, 3, 1, 10, 0, 0, 123456, tzinfo=UTC)
DAY = timedelta(days=1)
ANNA = "anna@people.example"


def entry(address: str = ANNA, since: datetime = T0) -> SuppressionEntry:
    return SuppressionEntry(address, "marketing", Origin.UNSUBSCRIBE, since)


async def add(store: Store, count: int) -> None:
    await store.add_suppressions([entry(f"p{n}@people.example") for n in range(count)])


def letter(webhook: str = "crm", message_id: str = "msg_1") -> DeadLetter:
    return DeadLetter(webhook, message_id, b"{}", 3, T0, T0 + DAY, 7, "HTTP 500")


def happened(key: str, **data: object) -> NewEvent:
    return NewEvent(key, "feedback", {"heard": "dead", **data})


class EventsContract:
    async def test_each_event_is_logged_once_among_the_changes(self, store: Store) -> None:
        await add(store, 1)
        before = datetime.now(UTC) - timedelta(milliseconds=1)
        await store.log_events([happened("a", stream="offers"), happened("b")])
        await store.log_events([happened("b"), happened("c")])
        _, *told = await store.changes(0, 10)
        assert [one.data for one in told] == [
            {"heard": "dead", "stream": "offers"}, {"heard": "dead"}, {"heard": "dead"},
        ]  # fmt: skip
        assert [one.seq for one in told] == sorted({one.seq for one in told})
        assert {one.topic for one in told} == {"feedback"}
        assert all(before <= one.at <= datetime.now(UTC) for one in told)

    async def test_the_position_of_a_source_is_kept_until_it_is_forgotten(
        self, store: Store
    ) -> None:
        await store.log_events([happened("a")], ("mail", "1"))
        await store.log_events([], ("mail", "2"))
        await store.log_events([], ("else", "x"))
        assert await store.event_sources() == {"mail": "2", "else": "x"}
        await store.forget_event_sources(["mail", "no such"])
        assert await store.event_sources() == {"else": "x"}
        assert len(await store.changes(0, 10)) == 1


class ChangesContract:
    async def test_every_change_is_listed_once_in_order(self, store: Store) -> None:
        before = datetime.now(UTC) - timedelta(seconds=2)
        await store.add_suppressions([entry()])
        await store.add_suppressions([entry(since=T0 + DAY)])
        await store.remove_suppression(ANNA, at=T0 + 2 * DAY, reason="asked in writing")
        told = await store.changes(0, 10)
        assert [change.action for change in told] == ["added", "moved", "lifted"]
        assert [change.since for change in told] == [T0, T0 + DAY, T0 + DAY]
        assert {(change.scope, change.origin) for change in told} == {("marketing", "unsubscribe")}
        assert [change.seq for change in told] == sorted({change.seq for change in told})
        assert all(before <= change.at <= datetime.now(UTC) for change in told)

    async def test_the_key_is_that_of_an_export(self, store: Store) -> None:
        await store.add_suppressions([entry()])
        ((key, _),) = [each async for each in store.export_suppressions()]
        assert [change.key for change in await store.changes(0, 10)] == [key]

    async def test_writes_without_effect_are_not_changes(self, store: Store) -> None:
        await store.add_suppressions([entry()])
        newest = await store.newest_change()
        await store.add_suppressions([entry(), entry(since=T0 - DAY)])
        await store.remove_suppression("nobody@people.example", at=T0, reason="none")
        assert await store.newest_change() == newest
        assert await store.changes(newest, 10) == []

    async def test_an_erasure_is_listed_as_a_suppression(self, store: Store) -> None:
        await store.erase_contact(ANNA, at=T0)
        (change,) = await store.changes(0, 10)
        assert (change.action, change.scope, change.origin) == (
            "added",
            "marketing",
            Origin.ERASURE,
        )

    async def test_changes_are_read_page_by_page(self, store: Store) -> None:
        await add(store, 5)
        first = await store.changes(0, 3)
        rest = await store.changes(first[-1].seq, 3)
        assert [change.seq for change in (*first, *rest)] == [1, 2, 3, 4, 5]
        assert await store.newest_change() == 5

    async def test_reading_trimmed_changes_says_that_they_are_gone(self, store: Store) -> None:
        assert await store.newest_change() == 0
        await add(store, 3)
        assert await store.trim_changes(datetime.now(UTC) - DAY) == 0
        assert await store.trim_changes(datetime.now(UTC) + DAY) == 3
        with pytest.raises(ChangesGone) as caught:
            await store.changes(2, 10)
        assert caught.value.newest == 3
        assert await store.changes(3, 10) == []
        await store.add_suppressions([entry()])
        assert [change.seq for change in await store.changes(3, 10)] == [4]
        with pytest.raises(ChangesGone):
            await store.changes(2, 10)

    async def test_a_number_never_given_belongs_to_another_log(self, store: Store) -> None:
        with pytest.raises(ChangesGone) as caught:
            await store.changes(7, 10)
        assert caught.value.newest == 0

    async def test_changes_not_yet_delivered_to_a_webhook_are_not_trimmed(
        self, store: Store
    ) -> None:
        await add(store, 3)
        await store.put_webhook_states([WebhookState("crm", 1)])
        await store.put_webhook_states([WebhookState("off", 0, disabled_at=T0)])
        soon = datetime.now(UTC) + DAY
        assert await store.trim_changes(soon, webhooks=["crm", "off"]) == 1
        assert [change.seq for change in await store.changes(1, 10)] == [2, 3]
        assert await store.trim_changes(soon) == 2


class WebhookContract:
    async def test_a_webhooks_state_reads_back_unchanged(self, store: Store) -> None:
        state = WebhookState(
            "crm", 12, "msg_1", 20, 3, T0, T0 + DAY, None, "HTTP 500", T0 - DAY
        )  # fmt: skip
        await store.put_webhook_states([WebhookState("crm", 1)])
        await store.put_webhook_states([state])
        assert (await store.webhook_progress()).states == {"crm": state}
        await store.put_webhook_states([WebhookState("dwh", 2, disabled_at=T0)])
        await store.forget_webhooks(["crm"])
        assert set((await store.webhook_progress()).states) == {"crm"}

    async def test_only_one_relay_holds_a_webhook_at_a_time(self, store: Store) -> None:
        def held(relay: str, *names: str) -> dict[str, Holding]:
            return dict.fromkeys(names, Holding(relay, T0 + DAY))

        assert set(await store.hold_webhooks(held("one", "crm", "dwh"), T0)) == {"crm", "dwh"}
        assert set(await store.hold_webhooks(held("two", "crm", "erp"), T0)) == {"erp"}
        assert set(await store.hold_webhooks(held("one", "crm"), T0)) == {"crm"}
        expected = held("one", "crm", "dwh") | held("two", "erp")
        assert (await store.webhook_progress()).holdings == expected
        assert set(await store.hold_webhooks(held("two", "crm"), T0 + DAY)) == {"crm"}
        await add(store, 2)
        await store.put_webhook_states([WebhookState("crm", 1), WebhookState("dwh", 2)])
        progress = await store.webhook_progress()
        assert (progress.newest, set(progress.states)) == (2, {"crm", "dwh"})
        assert progress.holdings == expected | held("two", "crm")

    async def test_a_wake_is_taken_once_and_not_undone_by_writing_the_state(
        self, store: Store
    ) -> None:
        assert not await store.wake_webhook("crm")
        await store.put_webhook_states([WebhookState("crm", 1)])
        assert await store.wake_webhook("crm")
        await store.put_webhook_states([WebhookState("crm", 2)])
        assert (await store.webhook_progress()).states["crm"].woken
        assert await store.take_wake("crm")
        assert not await store.take_wake("crm")

    async def test_dead_letters_stay_until_somebody_decides(self, store: Store) -> None:
        await store.put_webhook_states([WebhookState("crm", 1)], [letter()])
        await store.put_webhook_states([WebhookState("crm", 2)], [letter(message_id="msg_2")])
        await store.put_webhook_states([WebhookState("dwh", 2)], [letter("dwh")])
        first, second = await store.dead_letters("crm")
        assert (first.message_id, first.body, first.retry) == ("msg_1", b"{}", False)
        assert len(await store.dead_letters()) == 3
        assert await store.retry_dead_letters("crm", second.id) == 1
        assert await store.retry_dead_letters("dwh", second.id) == 0
        assert [each.retry for each in await store.dead_letters("crm")] == [False, True]
        await store.settle_dead_letter(second.id, "HTTP 503")
        again = (await store.dead_letters("crm"))[1]
        assert (again.retry, again.attempts, again.error) == (False, 8, "HTTP 503")
        await store.settle_dead_letter(second.id, None)
        assert [each.message_id for each in await store.dead_letters("crm")] == ["msg_1"]
        assert await store.retry_dead_letters("crm") == 1
        assert await store.drop_dead_letters("crm") == 1
        assert [each.webhook for each in await store.dead_letters()] == ["dwh"]

    async def test_the_backlog_starts_at_the_oldest_undelivered_change(self, store: Store) -> None:
        await add(store, 2)
        oldest = (await store.changes(0, 1))[0].at
        await store.put_webhook_states([WebhookState("behind", 0)])
        await store.put_webhook_states([WebhookState("even", 2)])
        await store.put_webhook_states([WebhookState("dead", 2, disabled_at=T0)], [letter("dead")])
        backlog = await store.backlog()
        assert backlog["behind"].oldest == oldest
        assert backlog["even"].oldest is None
        assert backlog["dead"].oldest == T0
        assert (backlog["dead"].dead_letters, backlog["dead"].disabled) == (1, True)


class PropagationContract(ChangesContract, EventsContract, WebhookContract):
    pass
