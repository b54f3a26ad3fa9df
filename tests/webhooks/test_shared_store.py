"""Webhooks that read and write at the same time share a transaction."""

import asyncio
import random
import sqlite3
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from smtpproxy.policy.model import Origin
from smtpproxy.settings import WebhookSettings
from smtpproxy.store.records import SuppressionEntry
from smtpproxy.store.together import Together
from smtpproxy.webhooks.delivery import Outcome
from smtpproxy.webhooks.dispatcher import Environment, WebhookDispatcher
from smtpproxy.webhooks.shared_store import SharedStore
from tests.kit.store import TrialStore

T0 = datetime(2026, 3, 1, 10, 0, tzinfo=UTC)
MANY = 50


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The number of connections opened and of transactions that wrote."""
    counts: Counter[str] = Counter()
    connect = sqlite3.connect

    def counted(*values: Any, **more: Any) -> sqlite3.Connection:
        counts["connections"] += 1
        connection = connect(*values, **more)
        connection.set_trace_callback(lambda sql: counts.update([sql.split()[0]]))
        return connection

    monkeypatch.setattr(sqlite3, "connect", counted)
    return counts


async def test_many_webhooks_cost_no_more_transactions_than_one(done: Counter[str]) -> None:
    sent: Counter[str] = Counter()
    ids = map(str, range(1_000_000))

    async def post(id: str, body: bytes) -> Outcome:
        sent[id] += 1
        return Outcome("delivered", "HTTP 204")

    async with TrialStore() as store:
        shared = SharedStore(store)
        around = Environment(lambda: T0, random.random, lambda: next(ids), lambda *_: None, "one")
        dispatchers = [
            WebhookDispatcher(WebhookSettings(str(n), "", Path()), shared, post, around)
            for n in range(MANY)
        ]

        async def step() -> int:
            return sum(await asyncio.gather(*(each.step() for each in dispatchers)))

        await step()
        entry = SuppressionEntry("anna@people.example", "marketing", Origin.UNSUBSCRIBE, T0)
        await store.add_suppressions([entry])
        done.clear()
        assert await step() == MANY
        assert await step() == 0
        assert (len(sent), set(sent.values())) == (MANY, {1})
        assert done["COMMIT"] <= 4, "first the message's id, then the position"
        assert done["connections"] <= 4
        done.clear()
        assert await step() == 0
        assert (done["connections"], done["COMMIT"]) == (1, 0)
        await shared.close()


async def test_requests_during_a_run_are_served_by_the_next() -> None:
    runs: list[Sequence[int]] = []
    go_on = asyncio.Event()

    async def work(items: Sequence[int]) -> Sequence[int]:
        runs.append(items)
        await go_on.wait()
        return [len(runs)] * len(items)

    together = Together(work)
    first = [asyncio.create_task(together(n)) for n in (1, 2)]
    await asyncio.sleep(0.01)
    later = [asyncio.create_task(together(n)) for n in (3, 4)]
    await asyncio.sleep(0)
    first[0].cancel()  # must stop neither the work nor the others
    go_on.set()
    assert await asyncio.gather(first[1], *later) == [1, 2, 2]
    assert runs == [[1, 2], [3, 4]]
    await together.ended()


async def test_a_failure_reaches_everybody_who_shared_the_run() -> None:
    async def work(items: Sequence[int]) -> Sequence[int]:
        if 2 in items:
            raise ValueError(str(items))
        return [0] * len(items)

    together = Together(work)
    found = await asyncio.gather(together(1), together(2), return_exceptions=True)
    assert [str(each) for each in found] == ["[1, 2]"] * 2
    assert await together(3) == 0
