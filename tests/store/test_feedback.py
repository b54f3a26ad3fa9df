"""The record of reports: nothing is counted or forwarded twice."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from smtpproxy.store import open_feedback
from smtpproxy.store.feedback import FeedbackLog, HeardEvent, ReadReport
from tests.kit.parts import needs
from tests.store.conftest import Database

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
DAY = timedelta(days=1)
DEAD = HeardEvent(b"1" * 16, "dead", "offers")
ANN, BOB = "ann@people.example", "bob@people.example"


@pytest.fixture
def log(any_database: Database) -> FeedbackLog:
    return any_database.part(open_feedback(any_database.settings()))


def report(id: str, at: datetime = NOW, **more: object) -> ReadReport:
    return ReadReport(id, at, "dsn", "why", **more)  # type: ignore[arg-type]


async def test_an_event_counts_once_whoever_reads_it(
    log: FeedbackLog, any_database: Database
) -> None:
    await log.note([report("a", events=(DEAD,)), report("b", events=(DEAD,))])
    other = open_feedback(any_database.settings())
    await other.note([report("a", events=(DEAD,)), report("c", events=(DEAD,))])
    assert await log.totals() == {("dead", "offers"): 1}
    assert await other.known([DEAD.key, b"2" * 16]) == {DEAD.key}
    assert await log.missing(["a", "c", "d"]) == {"d"}
    other.close()


async def test_the_log_is_empty_before_the_first_report(log: FeedbackLog) -> None:
    assert await log.known([DEAD.key]) == frozenset()
    assert await log.missing(["a"]) == frozenset(), (
        "a lost log does not make everything happen again"
    )
    assert not await log.kept()
    assert not await log.due(NOW, 9)
    assert await log.counts() == (0, 0, 0)
    assert await log.totals() == {}
    assert not await log.forget(ANN)
    assert not await log.purge(NOW)


async def test_a_bounce_stays_due_until_it_is_forwarded_once(log: FeedbackLog) -> None:
    await log.note([report("a", hand_on=b"k", decision="01A")])
    await log.note([report("b", hand_on=b"k", decision="01A")])
    (due,) = await log.due(NOW, 9)
    assert (due.report, due.decision, due.tries, due.since) == ("a", "01A", 0, NOW)
    await log.hand_on_later(b"k", NOW + DAY)
    assert await log.due(NOW, 9) == []
    assert (await log.due(NOW + DAY, 9))[0].tries == 1
    assert await log.counts() == (0, 1, 0)
    await log.handed_on(b"k")
    await log.note([report("c", hand_on=b"k", decision="01A")])
    assert await log.due(NOW + DAY, 9) == []


async def test_full_mailboxes_are_counted_within_the_period(log: FeedbackLog) -> None:
    assert await log.note_full(ANN, b"1", NOW - 40 * DAY, NOW - 70 * DAY) == 1
    assert await log.note_full(ANN, b"2", NOW - DAY, NOW - 30 * DAY) == 1
    assert await log.note_full(ANN, b"2", NOW, NOW - 30 * DAY) == 1, "the same report"
    assert await log.note_full(ANN, b"3", NOW, NOW - 30 * DAY) == 2
    assert await log.note_full(BOB, b"3", NOW, NOW - 30 * DAY) == 1
    await log.note_full(BOB, b"4", NOW + 300 * DAY, NOW)  # recorded while a clock was ahead
    await log.correct(NOW)
    assert await log.note_full(BOB, b"5", NOW + 40 * DAY, NOW + 10 * DAY) == 1


async def test_kept_reports_are_listed_until_settled(log: FeedbackLog) -> None:
    await log.note([report("a1", kept=True), report("a2", NOW - DAY, kept=True), report("b1")])
    assert [one.id for one in await log.kept()] == ["a2", "a1"]
    assert [one.id for one in await log.kept(beginning="a1")] == ["a1"]
    await log.note([report("a1")])
    assert [one.id for one in await log.kept()] == ["a2", "a1"], "read again after a crash"
    await log.looked_at("a1", ANN, DEAD)
    await log.looked_at("a1", BOB, HeardEvent(b"3" * 16, "dead", "offers"))
    assert [one.id for one in await log.kept()] == ["a2"]
    assert await log.totals() == {("dead", "offers"): 1}
    assert await log.forget(ANN) == ["a1"]
    assert await log.forget(BOB) == []


async def test_failures_are_listed_with_their_reason(log: FeedbackLog) -> None:
    await log.note([report("a"), report("b", kept=True)])
    for id in ("a", "b", "gone"):
        await log.keep(id, "not handed on")
    assert {one.id: one.why for one in await log.kept()} == {
        "a": "not handed on",
        "b": "why; not handed on",
    }
    await log.looked_at("a", None, None)
    assert [one.id for one in await log.kept()] == ["b"]


async def test_lasting_events_outlive_their_report(
    log: FeedbackLog,
) -> None:
    read, settled = (
        HeardEvent(n * 16, "unsubscribe", "offers", lasting=True) for n in (b"4", b"5")
    )
    await log.note([report("a", events=(read, DEAD)), report("b", kept=True)])
    await log.looked_at("b", None, settled)
    assert await log.purge(NOW + 700 * DAY) == ["a", "b"]
    assert await log.known([read.key, settled.key, DEAD.key]) == {read.key, settled.key}
    await log.purge(NOW + 1_200 * DAY)
    assert await log.known([read.key, settled.key]) == set()


async def test_old_reports_are_purged_unless_they_are_still_to_be_forwarded(
    log: FeedbackLog,
) -> None:
    old = NOW - 40 * DAY
    await log.note(
        [report("old", old, events=(DEAD,)), report("due", old, hand_on=b"k"), report("new")]
    )
    assert await log.purge(NOW - 30 * DAY, dry_run=True) == ["old"]
    assert await log.purge(NOW - 30 * DAY) == ["old"]
    assert await log.missing(["old", "due", "new"]) == {"old"}
    assert await log.totals() == {("dead", "offers"): 1}, "counters never go down"


async def test_erasing_a_person_removes_their_reports(log: FeedbackLog, tmp_path: Path) -> None:
    await log.note([report("a", people=(ANN, BOB)), report("b", people=(BOB,))])
    assert await log.about(ANN) == [ReadReport("a", NOW, "dsn", "")]
    assert await log.forget(ANN) == ["a"]
    assert await log.about(ANN) == []
    assert await log.forget(ANN) == []
    assert await log.missing(["a", "b"]) == {"a"}
    log.close()
    assert b"people.example" not in octets(tmp_path), "the file must hold no address"


def octets(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.glob("*-feedback.db*"))


@needs("postgresql")  # with SQLite there is one relay
@pytest.mark.parametrize("any_database", ["postgresql"], indirect=True)
async def test_each_relay_handles_its_own_reports(log: FeedbackLog, any_database: Database) -> None:
    """Another relay lacks the file: it would give up the bounce, or never remove the file."""
    one, two = (
        any_database.part(open_feedback(any_database.settings(), name)) for name in ("one", "two")
    )
    await one.note([report("a", NOW - 9 * DAY, hand_on=b"k", decision="01A", people=(ANN,))])
    await one.note([report("b", NOW - 9 * DAY), report("c", people=(BOB,))])
    assert await two.due(NOW, 9) == []
    assert [due.report for due in await one.due(NOW, 9)] == ["a"]
    await two.note([report("a2", NOW, hand_on=b"k", decision="01A")])
    assert await two.due(NOW, 9) == [], "the relay that had it first forwards it"
    await one.keep("b", "")
    assert [(kept.id, kept.relay) for kept in await two.kept()] == [("b", "one")]
    assert await two.purge(NOW - DAY) == []
    assert await one.purge(NOW - DAY) == ["b"]
    assert await two.forget(BOB) == ["c"]
    assert await one.missing(["a", "c"]) == frozenset(), "neither may be done again"
    assert await one.purge(NOW - DAY) == ["c"], "erased by the other relay, removed by this one"
    assert await one.due(NOW, 9) != []
    await two.purge(NOW + 50 * DAY)
    assert await one.missing(["a", "c", "b"]) == frozenset(), (
        "without any record, nothing is missing"
    )
