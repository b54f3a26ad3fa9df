"""What relays ask each other about returned messages."""

import asyncio
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from smtpproxy.events import Client
from smtpproxy.mailbox.messages import on_record
from smtpproxy.process.journals import MessageAnswers
from smtpproxy.sinks.audit.erase import pseudonymise
from smtpproxy.store import open_asked_messages, open_feedback, open_journals
from smtpproxy.store.feedback import SentMessage
from smtpproxy.store.journals import ASKED, AskedMessages, Outstanding, SharedJournals
from smtpproxy.store.postgres.connection import session_settings
from smtpproxy.store.postgres.session import translated
from tests.kit import postgres
from tests.kit.journal import Clock, decided, journal
from tests.kit.parts import needs
from tests.store.conftest import Database, OnPostgresql
from tests.store.contract import ANNA, T0
from tests.store.test_journals import ONE, TWO, row

pytestmark = needs("postgresql")
APP = "news@shop.example"
CLIENT = Client("apps", "192.0.2.1", "app.example", "news")
SENT = SentMessage(CLIENT, APP, (ANNA,))
MINUTE = timedelta(minutes=1)
FIRST, SECOND, UNKNOWN = row(1).id, row(2).id, row(9).id


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    postgres.cluster()
    with OnPostgresql(tmp_path) as database:
        yield database


@pytest.fixture
def asked(database: Database) -> Iterator[AskedMessages]:
    opened = open_asked_messages(database.settings())
    assert opened is not None
    yield opened
    opened.close()


@pytest.fixture
async def journals(database: Database) -> SharedJournals:
    """Two decisions of one relay, and one of another."""
    opened = open_journals(database.settings())
    assert opened is not None
    database.part(opened)
    for relay in (ONE, TWO):
        await opened.tell(relay, f"{relay[-2:]}.example", T0)
    await opened.add(ONE, [row(1), row(1, recipient=1), row(2)], {0: 2})
    await opened.add(TWO, [row(3, relay=TWO)], {0: 3})
    return opened


def test_a_store_for_one_relay_needs_none(tmp_path: Path) -> None:
    assert open_asked_messages(Database(tmp_path).settings()) is None


async def unanswered(database: Database) -> int:
    log = open_feedback(database.settings())
    found = (await log.counts()).elsewhere
    log.close()
    return found


@pytest.mark.usefixtures("journals")
async def test_only_the_relay_with_the_record_is_asked(
    asked: AskedMessages, database: Database
) -> None:
    for _ in range(2):  # by two relays, or repeatedly
        assert await asked.ask([FIRST, SECOND, UNKNOWN], T0) == {}
    assert await asked.asked(ONE, 10) == [FIRST, SECOND]
    assert await asked.asked(ONE, 1) == [FIRST]
    assert await asked.asked(TWO, 10) == []
    assert await unanswered(database) == 3
    await asked.answer(ONE, {FIRST: SENT, SECOND: None}, T0)
    assert await asked.asked(ONE, 10) == [], "what has no record is not looked up again"
    assert await asked.ask([FIRST, SECOND, UNKNOWN], T0) == {FIRST: SENT}
    assert await unanswered(database) == 2
    await asked.used([FIRST])
    assert await asked.ask([FIRST], T0) == {}
    assert await asked.asked(ONE, 10) == [FIRST]


@pytest.mark.parametrize("asked_for", [0, 3])
def test_requests_are_looked_up_without_scanning_the_index(
    database: Database, asked_for: int
) -> None:
    """It runs every second: even a plan made while there were no decisions must not scan."""
    settings = "".join(f"SET {n} = '{v}';" for n, v in session_settings(2.0).items())
    name = database.url.partition("///")[2].partition("?")[0]
    said = postgres.cluster().sql(
        name,
        f"""
        {settings}
        PREPARE asked AS {translated(ASKED)[0]};
        EXECUTE asked ('{ONE}', 100);
        INSERT INTO decision
        SELECT '{ONE}', 'f', n, 0, 'id' || n, n, 'offers', 'shop', 'allow', 'none', FALSE, NULL
        FROM generate_series(1, 1000) AS n;
        INSERT INTO asked_message SELECT 'id' || n, 0 FROM generate_series(1, {asked_for}) AS n;
        EXPLAIN (ANALYZE, TIMING OFF) EXECUTE asked ('{ONE}', 100);
        """,
    )
    looked = [line for line in said.splitlines() if "on decision" in line]
    rows = [int(number) for line in looked for number in re.findall(r"actual rows=(\d+)", line)]
    assert looked, said
    assert max(rows, default=0) <= 3, said


async def test_a_lagging_index_is_waited_for(
    asked: AskedMessages, journals: SharedJournals
) -> None:
    await asked.ask([UNKNOWN], T0)
    assert await asked.asked(ONE, 10) == []
    await journals.add(ONE, [row(9)], {0: 9})
    assert await asked.asked(ONE, 10) == [UNKNOWN]


@pytest.mark.usefixtures("journals")
async def test_uncollected_answers_expire(asked: AskedMessages) -> None:
    await asked.ask([FIRST, SECOND], T0)
    await asked.answer(ONE, {FIRST: SENT}, T0 + MINUTE)
    await asked.forget(T0 + 60 * MINUTE)
    assert await asked.ask([FIRST], T0) == {FIRST: SENT}
    await asked.forget(T0 + 62 * MINUTE)
    assert await asked.asked(ONE, 10) == [SECOND], "an answer is kept for an hour"
    await asked.forget(T0 + timedelta(days=7))
    assert await asked.asked(ONE, 10) == []


async def test_an_erasure_revokes_all_answers(
    asked: AskedMessages, journals: SharedJournals
) -> None:
    """They are given again from the journals as they are then."""

    async def told() -> bool:
        return await asked.ask([FIRST], T0) == {FIRST: SENT}

    await asked.ask([FIRST], T0)
    await asked.answer(ONE, {FIRST: SENT}, T0)
    assert await told()
    number = await journals.add_erasure(ANNA, T0)
    assert not await told()
    await asked.answer(ONE, {FIRST: SENT}, T0)  # the relay has not carried out the erasure yet
    await journals.carried_out(TWO, Outstanding(number, frozenset()))
    assert await told()
    await journals.carried_out(ONE, Outstanding(number, frozenset()))
    assert not await told()
    assert await asked.asked(ONE, 10) == [FIRST]


async def test_a_relay_answers_from_its_journal(
    asked: AskedMessages, journals: SharedJournals, tmp_path: Path
) -> None:
    clock = Clock()
    messages = [decided(clock, ANNA, reverse_path=APP, client=CLIENT) for _ in range(2)]
    written = journal(tmp_path / "audit", clock)
    await written.commit(messages[0])
    written.close()
    kept, lost = (message.id for message in messages)
    rows = [row(n, id=id) for n, id in enumerate((kept, lost), 20)]
    await journals.add(ONE, rows, {0: 21})
    answers = MessageAnswers(tmp_path / "audit", asked, ONE, asyncio.Lock(), now=clock.now)
    await asked.ask([kept, lost], clock.now())
    await answers.look()
    assert await asked.ask([kept, lost], clock.now()) == {kept: SENT}
    pseudonymise(tmp_path / "audit", ANNA)
    after = on_record(tmp_path / "audit", kept)
    assert after is not None
    assert ANNA not in after.recipients
    await asked.used([kept])
    await asked.ask([kept], clock.now())
    clock.tick(minutes=2)
    await answers.look()
    assert await asked.ask([kept], clock.now()) == {kept: after}
