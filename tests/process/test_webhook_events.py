"""Summaries of refusals and campaign trials: each sent once, even if workers are killed."""

import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from smtpproxy.events import JudgedRecipient, UlidFactory
from smtpproxy.mailbox.acting import heard_event
from smtpproxy.policy.campaign import Trial
from smtpproxy.policy.model import Action, Basis, Decision, Reason, Verdict
from smtpproxy.process.webhook_events import (
    CAMPAIGNS,
    REFUSALS,
    CampaignTrials,
    RefusalSummaries,
    _forget_others,
)
from smtpproxy.settings import StoreSettings
from smtpproxy.store import open_stream_counts
from smtpproxy.store.propagation import LoggedEvent
from smtpproxy.store.streams import StreamEvent
from smtpproxy.webhooks.delivery import message
from tests.kit import journal
from tests.kit.store import TrialStore
from tests.kit.traffic import OFFERS, RECEIPTS, TRIAL

ALLOWED = Verdict(Action.ALLOW, basis=Basis.CONSENT)
UNKNOWN = Verdict(Action.REFUSE, Reason.NO_RECORD)
CAPPED = Verdict(Action.DEFER, Reason.FREQUENCY_CAP)
HOUR = timedelta(hours=1)


@pytest.fixture
async def store() -> AsyncIterator[TrialStore]:
    async with TrialStore() as store:
        yield store


async def logged(store: TrialStore) -> list[Mapping[str, Any]]:
    found = await store.changes(0, 1000)
    return [one.data for one in found if isinstance(one, LoggedEvent)]


class Recorded:
    """A journal written by a test, and its summarizer."""

    def __init__(self, folder: Path, store: TrialStore) -> None:
        self.clock = journal.Clock()
        self.id = folder.name
        self.folder = folder
        self.store = store
        self.ending = Event()
        self.summaries = self.another()

    def another(self, period: float = 3600.0) -> RefusalSummaries:
        return RefusalSummaries(
            self.store, "relay.example", self.id, self.folder, period, self.clock.now, self.ending
        )

    async def write(
        self, *verdicts: Verdict, stream: Any = OFFERS, worker: int = 0, **more: Any
    ) -> None:
        people = tuple(
            JudgedRecipient(f"p{n}@b.example", f"p{n}@b.example", v) for n, v in enumerate(verdicts)
        )
        decision = Decision(stream, stream.rulebook, verdicts)
        log = journal.journal(self.folder, self.clock, worker)
        await log.commit(journal.decided(self.clock, decision=decision, recipients=people, **more))
        log.close()

    async def look(self, **later: float) -> list[Mapping[str, Any]]:
        self.clock.tick(**later)
        await self.summaries.look()
        return await logged(self.store)


@pytest.fixture
def recorded(tmp_path: Path, store: TrialStore) -> Recorded:
    return Recorded(tmp_path / "audit", store)


async def test_a_summary_counts_outcomes_for_each_stream(recorded: Recorded) -> None:
    await recorded.write(UNKNOWN)
    assert await recorded.look(minutes=10) == [], "earlier decisions were not requested"
    await recorded.write(ALLOWED, UNKNOWN, UNKNOWN)
    await recorded.write(ALLOWED, stream=RECEIPTS, worker=1)
    await recorded.write(CAPPED, stream=TRIAL, observed=True)
    assert await recorded.look(minutes=49) == []
    (told,) = await recorded.look(minutes=1, seconds=2)
    nothing: dict[str, Any] = {
        "refused": {},
        "deferred": {},
        "would_be_refused": {},
        "would_be_deferred": {},
    }
    assert told == {
        "relay": "relay.example",
        "since": "2026-03-01T00:10:00Z",
        "until": "2026-03-01T01:00:02Z",
        "period": 3600.0,
        "streams": [
            {"stream": "offers", "passed": 1, **nothing, "refused": {"no_record": 2}},
            {"stream": "receipts", "passed": 1, **nothing},
            {"stream": "trial", "passed": 0, **nothing, "would_be_deferred": {"frequency_cap": 1}},
        ],
    }
    assert "@" not in json.dumps(told)


async def test_each_decision_is_in_one_summary(recorded: Recorded) -> None:
    """Even if a worker is killed and another starts, and whatever the journal holds."""
    await recorded.look()
    for hour in range(1, 5):
        for worker in range(2):
            await recorded.write(*[UNKNOWN] * hour, worker=worker)
        if hour == 3:  # no summary ran for an hour
            recorded.clock.tick(hours=1)
            continue
        recorded.summaries = recorded.another()
        await recorded.look(hours=1)
    (recorded.folder / "01JN9PZK7R4T6W8Y0A2C4E6G8J-7.ndjson").write_bytes(b"{\n\xff\xff\n{}\ntorn")
    told = await recorded.look(hours=1)
    counts = [
        sum(chain.from_iterable(s["refused"].values() for s in each["streams"])) for each in told
    ]
    assert counts == [2, 4, 14, 0]
    assert [each["since"] for each in told[1:]] == [each["until"] for each in told[:-1]]
    assert told[-1]["streams"] == []


async def test_relays_with_one_store_and_host_name_report_their_own_mail(
    recorded: Recorded, tmp_path: Path, store: TrialStore
) -> None:
    other = Recorded(tmp_path / "other", store)
    await recorded.look()
    await other.look()
    await recorded.write(UNKNOWN)
    await other.write(UNKNOWN, UNKNOWN)
    await recorded.look(hours=1)
    told = await other.look(hours=1)
    assert [(one["relay"], one["streams"][0]["refused"]) for one in told] == [
        ("relay.example", {"no_record": 1}),
        ("relay.example", {"no_record": 2}),
    ]


async def test_a_summarizer_told_to_end_logs_nothing_and_starts_over(recorded: Recorded) -> None:
    await recorded.look()
    await recorded.write(UNKNOWN)
    recorded.ending.set()
    assert await recorded.look(hours=1) == []
    recorded.ending.clear()
    assert len(await recorded.look()) == 1


TRIED = Trial(10, wait=3600.0)


class Tried:
    """Campaigns counted by a test, and their reporter."""

    def __init__(self, store: TrialStore, folder: Path) -> None:
        self.counts = open_stream_counts(StoreSettings(f"sqlite://{folder}/smtpproxy.db"))
        self.now = datetime(2026, 3, 1, 10, tzinfo=UTC)
        self.store = store
        self.new_id = UlidFactory(lambda: int(self.now.timestamp() * 1000), lambda n: b"\0" * n)
        self.trials = self.another()

    def another(self) -> CampaignTrials:
        return CampaignTrials(self.store, self.counts, {"offers": TRIED}, lambda: self.now)

    async def send(self, campaign: str, *people: int, strangers: int = 0) -> str:
        who = {f"p{n}@people.example": n < strangers for n in people}
        id = self.new_id()
        await self.counts.count_campaign("offers", campaign, id, who, self.now, 20)
        return id

    async def look(self) -> list[tuple[Any, ...]]:
        await self.trials.look()
        return [
            (one["campaign"], one["action"], one["at"], one.get("until", ""))
            for one in await logged(self.store)
        ]


@pytest.fixture
def tried(store: TrialStore, tmp_path: Path) -> Iterator[Tried]:
    tried = Tried(store, tmp_path)
    yield tried
    tried.counts.close()


async def test_the_beginning_and_end_of_a_trial_are_reported(tried: Tried) -> None:
    await tried.look()
    await tried.send("spring", *range(9))
    assert await tried.look() == [], "a text to a few people is no campaign"
    tried.now += HOUR
    await tried.send("spring", 9)
    begun = ("spring", "trial_begun", "2026-03-01T10:00:00Z", "")
    assert await tried.look() == [begun]
    await tried.send("spring", *range(10, 20))
    tried.now += HOUR
    ended = ("spring", "trial_ended", "2026-03-01T11:00:00Z", None)
    assert await tried.look() == [begun, ended]
    tried.trials = tried.another()
    assert await tried.look() == [begun, ended], "once, even after a kill"


async def test_the_end_of_the_wait_is_reported_and_so_are_changes(tried: Tried) -> None:
    await tried.look()
    id = await tried.send("spring", *range(20), strangers=12)
    assert (await tried.look())[1:] == [
        ("spring", "trial_ended", "2026-03-01T10:00:00Z", "2026-03-01T11:00:00Z")
    ]
    tried.now += HOUR / 2
    for n in range(3):
        await tried.counts.campaign_bounced(id, f"p{n}@people.example", tried.now, 50_000, 3)
    later = ("spring", "trial_ended", "2026-03-01T10:30:00Z", "2026-03-01T11:30:00Z")
    assert (await tried.look())[2:] == [later]
    tried.trials = tried.another()
    assert (await tried.look())[2:] == [later]


async def test_trials_over_before_the_first_request_are_not_reported(tried: Tried) -> None:
    await tried.send("spring", *range(20))
    tried.now += HOUR
    assert await tried.look() == []
    await tried.send("summer", *range(20))
    assert {one[0] for one in await tried.look()} == {"summer"}


async def test_many_campaigns_are_reported_in_batches(tried: Tried) -> None:
    await tried.look()
    for n in range(120):
        await tried.send(f"c{n}", *range(20))
    assert 100 <= len(await tried.look()) < 240
    assert len(await tried.look()) == 100 + 100
    assert len(await tried.look()) == 240


def documented() -> dict[str, list[dict[str, Any]]]:
    """The changes in the examples of docs/propagation.md, by type of message."""
    text = Path("docs/propagation.md").read_text()
    found: dict[str, list[dict[str, Any]]] = {}
    for block in re.findall(r"```json\n(\{\"type\".*?)```", text, re.DOTALL):
        body = json.loads(block)
        assert body["data"]["next"] == body["data"]["changes"][-1]["seq"]
        found.setdefault(body["type"], []).extend(body["data"]["changes"])
    return found


async def test_the_documented_examples_match_what_is_sent(tried: Tried, recorded: Recorded) -> None:
    await tried.look()
    await recorded.look()
    event = StreamEvent(tried.now, "stream:offers", "paused", "complaint", 61, 20_000, 3_000)
    await tried.store.note_stream(event)
    await tried.send("spring", *range(20), strangers=12)
    await tried.look()
    dead = heard_event(
        b"1",
        at=tried.now,
        report="r1",
        heard="dead",
        stream="offers",
        decision="a",
        suppressed="all",
    )
    await tried.store.log_events([dead])
    await recorded.write(ALLOWED, UNKNOWN)
    await recorded.look(hours=1)
    sent: dict[str, list[dict[str, Any]]] = {}
    for change in await tried.store.changes(0, 100):
        body = json.loads(message("msg_1", [change], change.seq).body)
        sent.setdefault(body["type"], []).extend(body["data"]["changes"])
    examples = documented()
    assert examples.pop("suppression.changes")
    assert {name: list(map(shape, some)) for name, some in sent.items()} == {
        name: list(map(shape, some)) for name, some in examples.items()
    }


def shape(value: Any) -> Any:
    """The keys of an object and the types of their values; counts by reason are alike."""
    if isinstance(value, dict):
        if all(type(each) is int for each in value.values()):
            return "counts"
        return {key: shape(each) for key, each in value.items()}
    if isinstance(value, list):
        return [shape(each) for each in value]
    return type(value).__name__


async def test_only_event_sources_no_webhook_wants_are_forgotten(
    store: TrialStore,
) -> None:
    wanted, theirs = f"{REFUSALS}:mine:3600", f"{REFUSALS}:theirs:60"
    for source in (CAMPAIGNS, f"{REFUSALS}:mine:60", wanted, theirs):
        await store.log_events((), (source, "read"))
    await _forget_others(store, "mine", [wanted])
    assert set(await store.event_sources()) == {wanted, theirs}
