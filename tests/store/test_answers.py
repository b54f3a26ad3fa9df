"""Answers kept for requests with an idempotency key, and the count of the relay's own mails,
on every kind of database."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from smtpproxy.settings import StoreSettings
from smtpproxy.store import open_answers, open_confirmation_limit
from smtpproxy.store.sql import web_tables
from smtpproxy.store.sql.web_tables import KeptAnswer, KeptAnswers
from tests.store.conftest import Database

DONE = KeptAnswer(b'{"recorded":true}', "v1")


class Clock:
    now = datetime(2026, 11, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def answers(any_database: Database, clock: Clock) -> AsyncIterator[KeptAnswers]:
    kept = open_answers(StoreSettings(any_database.url, 2.0), clock)
    yield kept
    kept.close()


async def test_a_request_is_carried_out_once(answers: KeptAnswers) -> None:
    assert await answers.begin("crm", "k", b"asked") == "new"
    assert await answers.begin("crm", "k", b"asked") == "running"
    await answers.finish("crm", "k", DONE)
    assert await answers.begin("crm", "k", b"asked") == DONE
    assert await answers.begin("crm", "k", b"something else") == "other"
    assert await answers.begin("shop", "k", b"asked") == "new"
    await answers.forget("crm", "k")
    assert await answers.begin("crm", "k", b"asked") == DONE, "a finished request is not forgotten"


async def test_a_request_begun_while_a_clock_was_ahead_expires_in_minutes(
    answers: KeptAnswers, clock: Clock
) -> None:
    clock.now += timedelta(days=300)
    await answers.begin("crm", "died", b"asked")
    clock.now -= timedelta(days=300)
    assert await answers.begin("crm", "died", b"asked") == "running"
    clock.now += timedelta(minutes=11)
    assert await answers.begin("crm", "died", b"asked") == "new"


async def test_a_request_not_carried_out_is_new_again(answers: KeptAnswers) -> None:
    await answers.begin("crm", "k", b"asked")
    await answers.forget("crm", "k")
    assert await answers.begin("crm", "k", b"asked") == "new"


async def test_an_answer_is_kept_for_a_day_and_an_unfinished_request_for_minutes(
    answers: KeptAnswers, clock: Clock
) -> None:
    await answers.begin("crm", "k", b"asked")
    await answers.finish("crm", "k", DONE)
    await answers.begin("crm", "died", b"asked")
    clock.now += timedelta(minutes=9)
    assert await answers.begin("crm", "died", b"asked") == "running"
    clock.now += timedelta(minutes=2)
    assert await answers.begin("crm", "died", b"asked") == "new"
    clock.now += timedelta(hours=23)
    assert await answers.begin("crm", "k", b"asked") == DONE
    clock.now += timedelta(hours=1)
    assert await answers.begin("crm", "k", b"asked") == "new"


async def test_only_the_newest_answers_are_kept_without_locking_the_rows_of_others(
    answers: KeptAnswers,
    any_database: Database,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(web_tables, "_MOST", 3)
    for number in range(6):
        clock.now += timedelta(seconds=1)
        await answers.begin("crm", str(number), b"asked")
        await answers.finish("crm", str(number), DONE)
    clock.now += timedelta(seconds=1)
    assert await answers.begin("crm", "5", b"asked") == DONE
    assert await answers.begin("crm", "1", b"asked") == "new", "the oldest went first"
    if any_database.url.startswith("postgresql"):
        connection = await asyncpg.connect(any_database.url)
        locked = await connection.fetchval("SELECT count(*) FROM answer WHERE xmax <> 0")
        await connection.close()
        assert locked == 0, "a request with a key wrote to the rows of all others"


async def test_mails_counted_while_a_clock_was_ahead_count_for_one_day(
    any_database: Database,
) -> None:
    limit = any_database.part(open_confirmation_limit(any_database.settings()))
    bounds = {"per_address": 1, "per_day": 9}
    address, now = "lea@people.example", Clock.now
    assert await limit.take(address, now + timedelta(days=200), **bounds)
    assert not await limit.take(address, now, **bounds)
    assert await limit.take(address, now + timedelta(days=1), **bounds)
    limit.close()
