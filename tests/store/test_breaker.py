"""The circuit breaker: mail sent and feedback received, counted by several processes."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest

from smtpproxy.events import UlidFactory
from smtpproxy.policy.breaker import Feedback, Tally
from smtpproxy.policy.model import Lookups, Pause, Stream, StreamClass
from smtpproxy.settings import BreakerSettings
from smtpproxy.store import open_stream_counts
from smtpproxy.store.breaker import SENT_EVERY, Breaker
from smtpproxy.store.records import StoreUnavailable
from smtpproxy.store.sql.store import Store
from smtpproxy.store.streams import PERSON, StreamEvent
from tests.store.conftest import Database

T0 = datetime(2026, 3, 1, 10, 0, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
STREAMS = [
    Stream("offers", purpose="offers", brand="shoes"),
    Stream("news", purpose="news", brand="shoes"),
    Stream("receipts", StreamClass.TRANSACTIONAL, brand="shoes"),
]
OFFERS = Lookups(("somebody@people.example",), pauses=True)


class Process:
    """A counting process with its own clock; `meanwhile` happens while it waits."""

    def __init__(self, database: Database, settings: BreakerSettings | None = None) -> None:
        self.at = T0
        self.meanwhile: Callable[[], Awaitable[None]] = nothing
        self.store: Store = database.open()
        self.counts = database.part(open_stream_counts(database.settings()))
        self.breaker = Breaker(
            settings or BreakerSettings(),
            STREAMS,
            self.counts,
            lambda: self.store,
            now=lambda: self.at,
            sleep=self.wait,
        )

    async def wait(self, seconds: float) -> None:
        assert seconds > SENT_EVERY, "it must wait until all have counted"
        await self.meanwhile()

    def id(self) -> str:
        """The id of a message sent now."""
        milliseconds = int(self.at.timestamp() * 1000)
        return UlidFactory(lambda: milliseconds, lambda n: b"\0" * n)()

    async def send(self, n: int, stream: str = "offers") -> str:
        await self.breaker.sent({stream: n})
        await self.breaker.settled()
        return self.id()

    async def hear(
        self, kind: Feedback, n: int, id: str, *, stream: str = "offers", name: str = "p"
    ) -> int:
        people = [f"{name}{i}@people.example" for i in range(n)]
        heard = [await self.breaker.heard(kind, stream, id, person) for person in people]
        await self.breaker.settled()
        return sum(heard)

    async def paused(self) -> list[str]:
        """What the mail path reads, after asking for the state of the store."""
        await self.store.version()
        facts, _ = await self.store.read(OFFERS)
        known = facts.get(OFFERS.addresses[0])
        return [] if known is None else [one.subject for one in known.pauses if one.holds(self.at)]

    async def events(self) -> list[str]:
        return [f"{e.action} {e.subject} {e.cause}" for e in await self.store.stream_events()]


async def nothing() -> None:
    """Nothing happens meanwhile."""


@pytest.fixture
def here(any_database: Database) -> Process:
    return Process(any_database)


@pytest.fixture
def there(any_database: Database, here: Process) -> Process:
    return Process(any_database)


async def test_processes_count_together_and_all_learn_of_a_pause(
    here: Process, there: Process
) -> None:
    id = await here.send(600)
    await there.send(400)
    before = await there.store.version()
    assert await here.hear(Feedback.COMPLAINT, 1, id) == 1
    assert await there.hear(Feedback.COMPLAINT, 1, id, name="q") == 1
    assert (await here.paused(), await there.paused()) == ([], [])
    await there.hear(Feedback.COMPLAINT, 1, id, name="r")
    assert await here.store.version() != before
    assert (await here.paused(), await there.paused()) == (["stream:offers"], ["stream:offers"])
    assert await here.events() == ["paused stream:offers complaint"]


async def test_facts_have_the_current_pauses(here: Process, there: Process) -> None:
    """Even if the process never asks for the state of the store, like that of the API."""
    assert await here.store.facts(OFFERS) == {}
    id = await there.send(1_000)
    await there.hear(Feedback.COMPLAINT, 3, id)
    (known,) = (await here.store.facts(OFFERS)).values()
    assert [one.subject for one in known.pauses] == ["stream:offers"]


async def test_counts_and_pauses_outlive_the_processes(any_database: Database) -> None:
    first = Process(any_database)
    id = await first.send(1_000)
    await first.hear(Feedback.COMPLAINT, 2, id)
    await first.store.close()
    first.counts.close()
    second = Process(any_database)
    await second.hear(Feedback.COMPLAINT, 1, id, name="q")
    assert await second.paused() == ["stream:offers"]
    assert await Process(any_database).paused() == ["stream:offers"]


async def test_a_person_counts_once_however_often_and_under_any_tag(here: Process) -> None:
    """A token can be used a thousand times, and a thousand tags are one mailbox."""
    id = await here.send(1_000)
    people = [f"eve+{n}@people.example" for n in range(50)] + ["e.v.e@gmail.com", "eve@gmail.com"]
    heard = [
        await here.breaker.heard(Feedback.COMPLAINT, "offers", id, person)
        for person in people
        for _ in range(3)
    ]
    await here.breaker.settled()
    assert sum(heard) == 2
    assert await here.paused() == []


async def test_feedback_about_uncounted_messages_does_not_count(here: Process) -> None:
    early = here.id()
    here.at += DAY
    assert await here.hear(Feedback.COMPLAINT, 50, early) == 0  # nothing has been sent
    await here.send(1_000)
    assert await here.hear(Feedback.COMPLAINT, 50, early) == 0  # sent before counting began
    here.at += 8 * DAY
    await here.send(1_000)
    here.at -= 8 * DAY
    old = here.id()
    here.at += 8 * DAY
    assert await here.hear(Feedback.COMPLAINT, 50, old) == 0  # sent before the window
    assert await here.hear(Feedback.COMPLAINT, 50, here.id(), stream="gone") == 0
    assert await here.hear(Feedback.COMPLAINT, 50, here.id(), stream="receipts") == 0
    assert await here.events() == []


async def test_feedback_before_the_first_messages_are_counted_counts(here: Process) -> None:
    """Workers report once a second what they sent."""
    assert await here.hear(Feedback.COMPLAINT, 3, here.id()) == 3
    assert await here.paused() == []
    await here.send(1_000)
    assert await here.paused() == ["stream:offers"]


async def test_feedback_is_compared_with_all_mail_sent_until_then(
    here: Process, there: Process
) -> None:
    """3 % of 2,000 addresses are dead; another worker has not yet counted its half."""
    id = await here.send(1_000)

    async def another_counts() -> None:
        here.meanwhile = nothing
        await there.send(1_000)

    here.meanwhile = another_counts
    await here.hear(Feedback.DEAD_ADDRESS, 60, id)
    assert await here.paused() == []
    assert await here.events() == ["warned stream:offers dead_address"]


async def test_feedback_during_a_judgement_is_judged_next(here: Process, there: Process) -> None:
    id = await here.send(1_000)

    async def more_is_heard() -> None:
        here.meanwhile = nothing
        people = [f"q{i}@people.example" for i in range(30)]
        for person in people:
            await here.breaker.heard(Feedback.DEAD_ADDRESS, "offers", id, person)
        assert await here.paused() == [], "their messages might not be counted yet"

    here.meanwhile = more_is_heard
    await here.hear(Feedback.DEAD_ADDRESS, 25, id)
    assert await here.paused() == ["stream:offers"]
    assert await here.events() == [
        "paused stream:offers dead_address",
        "warned stream:offers dead_address",
    ]


async def test_a_resume_during_a_judgement_is_obeyed(here: Process) -> None:
    id = await here.send(1_000)

    async def resumed() -> None:
        here.at += HOUR
        paused = StreamEvent(here.at, "stream:offers", "paused", PERSON)
        assert await here.store.note_stream(paused)
        resumed = StreamEvent(here.at, "stream:offers", "resumed", PERSON)
        assert await here.store.note_stream(resumed)

    here.meanwhile = resumed
    await here.hear(Feedback.COMPLAINT, 3, id)
    assert await here.paused() == []


async def test_feedback_is_judged_later_if_the_store_is_unavailable(here: Process) -> None:
    async def database_is_away() -> None:
        here.meanwhile = nothing
        raise StoreUnavailable("gone")

    here.meanwhile = database_is_away
    id = await here.send(1_000)
    await here.breaker.heard(Feedback.COMPLAINT, "offers", id, "p0@people.example")
    await here.breaker.heard(Feedback.COMPLAINT, "offers", id, "p1@people.example")
    await here.hear(Feedback.COMPLAINT, 1, id, name="q")
    assert await here.paused() == []
    await here.hear(Feedback.BLOCK, 1, id)
    assert await here.paused() == ["stream:offers"]


async def test_late_feedback_does_not_count_against_later_mail(here: Process) -> None:
    last_week = await here.send(100_000)
    here.at += 6 * DAY
    await here.send(1_000)
    await here.hear(Feedback.COMPLAINT, 50, last_week)
    assert await here.events() == []
    here.at += 2 * DAY  # that mail has left the window, and its feedback with it
    await here.send(1)
    assert await here.paused() == []


async def test_more_mail_alone_can_reach_a_threshold(here: Process) -> None:
    """Three complaints about 499 messages are too few to judge; about 500 they count."""
    id = await here.send(499)
    await here.hear(Feedback.COMPLAINT, 3, id)
    assert await here.paused() == []
    await here.send(1)
    assert await here.paused() == ["stream:offers"]


async def test_a_warning_is_given_once_per_window(here: Process) -> None:
    id = await here.send(1_000)
    await here.hear(Feedback.UNSUBSCRIBE, 40, id)
    here.at += HOUR
    await here.hear(Feedback.UNSUBSCRIBE, 40, await here.send(1_000), name="q")
    assert await here.events() == ["warned stream:offers unsubscribe"]
    here.at += 8 * DAY
    await here.hear(Feedback.UNSUBSCRIBE, 40, await here.send(1_000), name="r")
    assert await here.events() == ["warned stream:offers unsubscribe"] * 2
    assert await here.paused() == []


async def test_mail_before_a_resume_does_not_count_again(here: Process) -> None:
    id = await here.send(1_000)
    await here.hear(Feedback.COMPLAINT, 5, id)
    here.at += HOUR
    resumed = StreamEvent(here.at, "stream:offers", "resumed", PERSON)
    assert await here.store.note_stream(resumed)
    assert not await here.store.note_stream(resumed)  # it is running already
    assert await here.paused() == []
    await here.hear(Feedback.COMPLAINT, 5, id, name="q")
    here.at += HOUR
    assert await here.paused() == []
    fresh = await here.send(1_000)
    await here.hear(Feedback.COMPLAINT, 3, fresh, name="r")
    assert await here.paused() == ["stream:offers"]


async def test_good_mail_before_a_resume_does_not_dilute_bad_mail_after_it(here: Process) -> None:
    await here.send(100_000)
    paused = StreamEvent(here.at, "stream:offers", "paused", PERSON)
    assert await here.store.note_stream(paused)
    here.at += HOUR
    assert await here.store.note_stream(StreamEvent(here.at, "stream:offers", "resumed", PERSON))
    here.at += HOUR
    await here.hear(Feedback.COMPLAINT, 3, await here.send(1_000))
    assert await here.paused() == ["stream:offers"]


async def test_mail_of_a_paused_stream_does_not_dilute_that_of_its_brand(here: Process) -> None:
    await here.send(100_000, "news")
    assert await here.store.note_stream(StreamEvent(here.at, "stream:news", "paused", PERSON))
    small = await here.send(600)
    await here.hear(Feedback.COMPLAINT, 3, small)
    assert set(await here.paused()) == {"stream:news", "stream:offers"}


async def test_a_stream_just_resumed_is_not_paused_for_earlier_mail(
    here: Process,
) -> None:
    id = await here.send(1_000)
    await here.hear(Feedback.COMPLAINT, 3, id)
    await here.hear(Feedback.BLOCK, 1, id)  # what is paused is now cached for a second
    assert await here.store.note_stream(StreamEvent(here.at, "stream:offers", "resumed", PERSON))
    await here.hear(Feedback.COMPLAINT, 1, id, name="q")
    assert await here.paused() == []


async def test_a_pause_ends_after_resume_after(any_database: Database) -> None:
    here = Process(any_database, BreakerSettings(resume_after=3_600.0))
    await here.hear(Feedback.DEAD_ADDRESS, 60, await here.send(1_000))
    assert await here.paused() == ["stream:offers"]
    here.at += HOUR
    assert await here.paused() == []  # nobody resumed it
    await here.send(1)
    assert await here.paused() == [], "for earlier mail"
    await here.breaker.resume_due()
    assert (await here.events())[0] == "resumed stream:offers time"
    assert await here.store.pauses() == []
    await here.send(1_000)
    assert await here.paused() == []


async def test_a_pause_that_ended_by_a_clock_ahead_is_not_repeated_for_earlier_mail(
    here: Process, there: Process
) -> None:
    """By the clock of another relay, or by this machine's before it was set back."""
    await here.hear(Feedback.COMPLAINT, 9, await here.send(1_000))
    assert await here.paused() == ["stream:offers"]
    here.at = T0 + HOUR
    end = StreamEvent(T0 + HOUR + timedelta(minutes=20), "stream:offers", "resumed", PERSON)
    assert await there.store.note_stream(end)
    await here.send(1)
    assert await here.paused() == []
    await here.hear(Feedback.COMPLAINT, 50, await here.send(1_000), name="q")
    assert await here.paused() == ["stream:offers"], "for what was sent since"


async def test_a_pause_that_follows_at_once_hides_no_end_of_the_one_before(
    any_database: Database,
) -> None:
    here = Process(any_database, BreakerSettings(resume_after=3_600.0))
    await here.hear(Feedback.COMPLAINT, 3, await here.send(1_000))
    here.at += 2 * HOUR
    await here.hear(Feedback.COMPLAINT, 3, await here.send(1_000), name="q")
    paused = "paused stream:offers complaint"
    assert await here.events() == [paused, "resumed stream:offers time", paused]


async def test_a_brand_is_paused_as_a_whole(here: Process) -> None:
    offers, news = await here.send(300), await here.send(300, "news")
    await here.hear(Feedback.COMPLAINT, 2, offers)
    await here.hear(Feedback.COMPLAINT, 1, news, stream="news", name="q")
    assert await here.paused() == ["brand:shoes"]


async def test_a_persons_pause_outranks_the_breaker(here: Process) -> None:
    own = StreamEvent(T0, "stream:offers", "paused", PERSON, until=T0 + DAY, reason="moving house")
    assert await here.store.note_stream(own)
    breaker = StreamEvent(T0 + HOUR, "stream:offers", "paused", "complaint")
    assert not await here.store.note_stream(breaker)
    pause = Pause("stream:offers", T0, PERSON, T0 + DAY, "moving house")
    assert await here.store.pauses() == [pause]
    longer = StreamEvent(T0 + HOUR, "stream:offers", "paused", PERSON)
    assert await here.store.note_stream(longer)
    assert (await here.store.pauses())[0].until is None


async def test_old_counts_are_pruned(here: Process) -> None:
    id = await here.send(10)
    await here.hear(Feedback.COMPLAINT, 3, id)
    assert await here.counts.prune(T0 - HOUR) == 0
    assert await here.counts.prune(T0 + HOUR) == 5  # two counts and three people
    assert await here.counts.prune(T0 + HOUR) == 0


async def test_a_clock_that_was_ahead_neither_dilutes_nor_stops_the_breaker(here: Process) -> None:
    here.at = T0 + 300 * DAY
    await here.send(100_000)
    ahead = here.id()
    await here.store.note_stream(StreamEvent(here.at, "stream:offers", "paused", PERSON))
    await here.store.note_stream(StreamEvent(here.at, "stream:offers", "resumed", PERSON))
    here.at = T0
    await here.counts.correct(T0)
    here.at += 30 * DAY
    id = await here.send(1_000)
    assert await here.hear(Feedback.COMPLAINT, 1, ahead, name="late") == 1
    later = await here.counts.tallies({"offers": T0 + 100 * DAY})
    assert later["offers"] == Tally()
    await here.hear(Feedback.COMPLAINT, 20, id)
    assert "offers" in " ".join(await here.paused())
