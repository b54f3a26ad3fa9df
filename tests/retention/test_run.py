"""A whole purge over store and journal: what goes, what is renewed, what stays provable."""

import fcntl
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from smtpproxy import purge_runs
from smtpproxy.config import parse
from smtpproxy.config.warnings import warnings
from smtpproxy.policy.model import (
    ConsentAct,
    Contact,
    Origin,
    Purchase,
    RecipientFacts,
    Source,
    Stream,
    Suppression,
)
from smtpproxy.policy.periods import parse_cap
from smtpproxy.retention import AlreadyRunning, Purged, purge
from smtpproxy.settings import Settings
from smtpproxy.sinks.audit.chain import Kind as Found
from smtpproxy.sinks.audit.verify import verify
from smtpproxy.store import (
    open_answers,
    open_bulk_counter,
    open_confirmation_limit,
    open_copies,
    open_mailings,
    open_store,
)
from smtpproxy.store.import_jobs import KEPT, ImportJob, ImportJobs, JobEnd
from smtpproxy.store.records import SuppressionEntry
from smtpproxy.store.register import RelayState, relay_id
from smtpproxy.store.sql.store import Store
from tests.kit.journal import Clock, decided, journal, segments
from tests.kit.relay import STREAMS, relay_config
from tests.kit.toml import to_toml

DAY = timedelta(days=1)
NOW = datetime(2040, 6, 1, 12, tzinfo=UTC)
EDGE = datetime(2037, 6, 1, 12, tzinfo=UTC)
AUDIT_EDGE = datetime(2035, 6, 1, 12, tzinfo=UTC)
ANNA, EVE = "anna@people.example", "eve@people.example"
COUNTS = {"bulk": "bulk", "copies": "copy", "answers": "answer", "confirmations": "confirmation"}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    text = to_toml(relay_config(tmp_path, "127.0.0.1:25"))
    Path(tmp_path / "state").mkdir()
    return parse(text, "relay.toml")


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[Store]:
    opened = open_store(settings.store, settings.server.state_dir)
    yield opened
    await opened.close()


def audit(settings: Settings) -> Path:
    return settings.server.state_dir / "audit"


async def run(settings: Settings, store: Store, at: datetime = NOW, *, dry: bool = False) -> Purged:
    return await purge(settings, store, at=at, clock=lambda: at, dry_run=dry)


async def mailed(
    settings: Settings,
    at: datetime,
    *people: str,
    matched: bool = True,
    domain: str | None = None,
) -> None:
    """Decisions of that time, in a separate file."""
    clock = Clock()
    clock.time = at
    log = journal(audit(settings), clock)
    order = Suppression("all", Origin.COMPLAINT, at - DAY, domain=domain)
    for person in people:
        facts = {person: RecipientFacts((order,))} if matched else {}
        await log.commit(decided(clock, person, facts=facts))
    log.close()


def order(address: str, since: datetime = EDGE - DAY) -> SuppressionEntry:
    return SuppressionEntry(address, "all", Origin.COMPLAINT, since)


async def test_each_kind_is_purged_by_its_own_period_and_recorded(
    settings: Settings, store: Store
) -> None:
    old = Contact(ANNA, source=Source.DIRECT, collected_at=EDGE - DAY)
    await store.put_contacts([old, Contact(EVE, collected_at=EDGE)])
    await store.add_suppressions([order("a@b.example"), order("c@b.example", EDGE)])
    await store.add_suppressions([order("l@b.example", EDGE - 9 * DAY)])
    await store.remove_suppression("l@b.example", at=EDGE - DAY, reason="by phone")
    await mailed(settings, AUDIT_EDGE - 9 * DAY, "x@b.example", matched=False)
    await mailed(settings, AUDIT_EDGE - DAY, "y@b.example", matched=False)
    await mailed(settings, AUDIT_EDGE + DAY, "z@b.example", matched=False)
    dry = await run(settings, store, dry=True)
    assert purge_runs.newest_run(settings.server.state_dir) is None
    wet = await run(settings, store)
    assert wet.removed == dry.removed
    assert {kind: removed.rows for kind, removed in wet.removed.items()} == {
        "contacts": 1,
        "suppressions": 1,
        "lifted_suppressions": 1,
        "mailings": 0,
        "reports": 0,
        "audit": 2,  # the first day's file with its first line
    }
    assert wet.removed["contacts"].oldest == EDGE - DAY
    last = purge_runs.newest_run(settings.server.state_dir)
    assert last is not None
    assert last.removed == wet.removed
    again = await run(settings, store)
    assert sum(removed.rows for removed in again.removed.values()) == 0
    report = verify(audit(settings))
    assert list(report.faults()) == []
    assert [note.kind for note in report.notes()] == [Found.EXPIRED]


async def test_suppressions_matched_by_mail_are_renewed_even_if_the_record_goes(
    settings: Settings, store: Store
) -> None:
    await store.add_suppressions([order(ANNA), order(EVE)])
    await mailed(settings, EDGE, ANNA)
    await mailed(settings, EDGE - DAY, EVE)
    dry = await run(settings, store, dry=True)
    assert (dry.removed["suppressions"].rows, dry.matched) == (1, 2)
    wet = await run(settings, store)
    assert (wet.removed["suppressions"].rows, wet.matched) == (1, 2)
    assert len(await store.suppressions(ANNA)) == 1
    assert await store.suppressions(EVE) == ()
    # The next run continues from there; the record may go.
    await mailed(settings, NOW - DAY, ANNA)
    later = await run(settings, store, NOW + DAY)
    assert (later.matched, later.removed["suppressions"].rows) == (1, 0)
    end = datetime(2043, 5, 31, 12, tzinfo=UTC)  # three years after the newest match
    assert (await run(settings, store, end)).removed["suppressions"].rows == 0
    for path in segments(audit(settings)):
        path.unlink()
    gone = await run(settings, store, end + timedelta(microseconds=1))
    assert gone.removed["suppressions"].rows == 1


async def test_suppressions_wait_until_every_relay_has_reported_its_matches(
    settings: Settings, store: Store, tmp_path: Path
) -> None:
    """Their journals have the same slot numbers and similar host names."""
    other = replace(settings, server=replace(settings.server, state_dir=tmp_path / "other"))
    other.server.state_dir.mkdir()
    for _ in range(3):
        await mailed(settings, EDGE - DAY, EVE, matched=False)
    await run(settings, store)
    await run(other, store)
    await store.add_suppressions([order(ANNA), order(EVE)])
    await mailed(other, NOW, ANNA)
    dry = await run(settings, store, NOW + DAY, dry=True)
    first = await run(settings, store, NOW + DAY)
    for waited in dry, first:
        assert waited.behind == [other.server.hostname]
        assert waited.removed["suppressions"].rows == 0
    second = await run(other, store, NOW + DAY)
    assert (second.behind, second.matched) == ([], 1)
    assert second.removed["suppressions"].rows == 1
    assert len(await store.suppressions(ANNA)) == 1
    gone = await run(settings, store, NOW + timedelta(days=40))
    assert gone.behind == [], "a removed relay is not waited for"
    now = NOW + timedelta(days=41)
    await store.tell(
        relay_id(other.server.state_dir), RelayState(other.server.hostname, {}), at=now
    )
    waited = await run(settings, store, now)
    assert waited.behind == [other.server.hostname], "it is there, but its purges fail"


async def test_suppressions_wait_for_a_relay_that_has_never_purged(
    settings: Settings, store: Store
) -> None:
    await store.add_suppressions([order(ANNA)])
    await store.tell("new", RelayState("two.example", {}), at=NOW)
    waited = await run(settings, store)
    assert (waited.behind, waited.removed["suppressions"].rows) == (["two.example"], 0)


async def test_a_report_dated_by_a_fast_clock_does_not_count(
    settings: Settings, store: Store, tmp_path: Path
) -> None:
    other = replace(settings, server=replace(settings.server, state_dir=tmp_path / "other"))
    other.server.state_dir.mkdir()
    await run(other, store, NOW + 900 * DAY)
    await store.add_suppressions([order(ANNA)])
    waited = await run(settings, store)
    assert (waited.behind, waited.removed["suppressions"].rows) == ([other.server.hostname], 0)
    await run(other, store)
    assert (await run(settings, store)).behind == []


async def test_suppressions_matched_by_mail_are_moved_to_a_new_key(
    settings: Settings, store: Store
) -> None:
    """Their addresses are known only from the record."""
    await store.add_suppressions([order(ANNA, NOW - DAY), order(EVE, NOW - DAY)])
    await store.start_rekey(at=NOW)
    await mailed(settings, NOW - DAY, ANNA)
    await run(settings, store, dry=True)
    assert [key.suppressions for key in await store.keys()] == [2, 0]
    await run(settings, store)
    assert [key.suppressions for key in await store.keys()] == [1, 1]
    assert await store.suppressions(ANNA)


async def test_mail_that_matches_a_whole_domain_renews_and_moves_its_suppression(
    settings: Settings, store: Store
) -> None:
    await store.add_suppressions([order("@people.example"), order("*.old.example")])
    await store.start_rekey(at=NOW)
    await mailed(settings, EDGE, ANNA, domain="@people.example")
    wet = await run(settings, store)
    assert wet.removed["suppressions"].rows == 1
    assert [one.domain for one in await store.suppressions(ANNA)] == ["@people.example"]
    assert [key.suppressions for key in await store.keys()] == [0, 1]


async def test_a_period_of_for_ever_never_ends(
    settings: Settings, store: Store, tmp_path: Path
) -> None:
    keep = {"suppressions": "forever", "lifted_suppressions": "forever"}
    text = to_toml(relay_config(tmp_path, "127.0.0.1:25", {"retention": keep}))
    await store.add_suppressions([order(ANNA, NOW - DAY), order(EVE, NOW - DAY)])
    await store.remove_suppression(EVE, at=EDGE - DAY, reason="by phone")
    purged = await run(parse(text, "relay.toml"), store, NOW.replace(year=2090))
    assert purged.removed["suppressions"].rows == purged.removed["lifted_suppressions"].rows == 0
    assert len(await store.suppressions(ANNA)) == 1


async def test_two_runs_never_overlap(settings: Settings, store: Store) -> None:
    path = settings.server.state_dir / "purge.lock"
    with path.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(AlreadyRunning):
            await run(settings, store)
        await run(settings, store, dry=True)
    await run(settings, store)


async def test_counted_messages_go_when_no_cap_needs_them(settings: Settings, store: Store) -> None:
    offers = Stream("offers", purpose="offers", frequency_cap=parse_cap("3/60d"))
    settings = replace(settings, streams={"offers": offers})
    log = open_mailings(settings.store)
    for number, age in enumerate((61 * DAY, 60 * DAY, DAY)):
        await log.reserve(f"{number}", offers, [ANNA], NOW - age)
    dry = await run(settings, store, dry=True)
    wet = await run(settings, store)
    assert wet.removed["mailings"].rows == dry.removed["mailings"].rows == 1
    known = (await log.known([ANNA]))[ANNA]
    assert [mailing.at for mailing in known.mailings] == [NOW - 60 * DAY, NOW - DAY]
    assert known.first_at == NOW - 61 * DAY
    log.close()


async def test_expired_counts_are_removed_though_nothing_more_is_counted(
    settings: Settings, store: Store
) -> None:
    day = NOW - 6 * DAY
    with closing(open_bulk_counter(settings.store)) as texts:
        await texts.count(b"text", [ANNA], day, 3600, 100)
    with closing(open_copies(settings.store, lambda: day)) as copies:
        await copies.note("", lambda: b"digest", f"<{ANNA}>")
    with closing(open_answers(settings.store, lambda: day)) as answers:
        await answers.begin("crm", "key", b"asked")
    with closing(open_confirmation_limit(settings.store)) as mails:
        await mails.take(ANNA, day, per_address=1, per_day=1)
    left = {}
    for at in (day, NOW):
        await run(settings, store, at)
        for part, table in COUNTS.items():
            file = settings.server.state_dir / f"smtpproxy-{part}.db"
            with closing(sqlite3.connect(file)) as database:
                (left[at, part],) = database.execute(f"SELECT count(*) FROM {table}").fetchone()
    assert left == {(at, part): at == day for at in (day, NOW) for part in COUNTS}


async def test_messages_counted_by_a_fast_clock_do_not_defer_until_that_day(
    settings: Settings, store: Store
) -> None:
    offers = Stream("offers", purpose="offers", frequency_cap=parse_cap("1/7d"))
    settings = replace(settings, streams={"offers": offers})
    log = open_mailings(settings.store)
    await log.reserve("1", offers, [ANNA], NOW + 200 * DAY)
    await run(settings, store, dry=True)
    assert (await log.known([ANNA]))[ANNA].mailings[0].at == NOW + 200 * DAY
    await run(settings, store)
    (mailing,) = (await log.known([ANNA]))[ANNA].mailings
    assert mailing.at == NOW
    log.close()


def asking(tmp_path: Path, **retention: str) -> Settings:
    """Settings with a stream for permission requests."""
    renewal = {**STREAMS[0], "name": "renewal", "class": "permission"}
    more = {
        "stream": [*STREAMS, renewal],
        "web": {"public_url": "https://confirm.shop.example"},
        "confirmation": {"sender": "hello@shop.example"},
        "retention": retention,
    }
    return parse(to_toml(relay_config(tmp_path, "127.0.0.1:25", more)), "relay.toml")


@pytest.mark.parametrize(
    ("kept", "oldest"),
    [
        ({}, datetime(2037, 5, 2, 12, tzinfo=UTC)),  # three years and a window of 30 days earlier
        ({"prospects": "5 years"}, datetime(2035, 6, 1, 12, tzinfo=UTC)),
        ({"prospects": "1y"}, datetime(2039, 6, 1, 12, tzinfo=UTC)),  # their basis never ends here
    ],
)
async def test_people_stay_while_they_may_be_asked_for_permission(
    tmp_path: Path, store: Store, kept: dict[str, str], oldest: datetime
) -> None:
    settings = asking(tmp_path, **kept)
    tick = timedelta(microseconds=1)
    gone = Contact(ANNA, source=Source.DIRECT, collected_at=oldest - tick)
    await store.put_contacts([gone, Contact(EVE, collected_at=oldest)])
    await run(settings, store)
    assert await store.contact(ANNA) is None
    assert await store.contact(EVE) is not None


def test_check_warns_if_nobody_would_be_left_to_ask(tmp_path: Path) -> None:
    (warned,) = [one for one in warnings(asking(tmp_path, prospects="1y")) if "renewal" in one][:1]
    assert "retention.prospects (1 year) removes them before" in warned
    assert not [one for one in warnings(asking(tmp_path)) if "removes them" in one]


async def test_customers_stay_equally_long(tmp_path: Path, store: Store) -> None:
    bought = datetime(2037, 5, 2, 12, tzinfo=UTC)
    people = [
        Contact(address, collected_at=EDGE - 999 * DAY, purchases=(Purchase("shoes", at),))
        for address, at in ((ANNA, bought - DAY), (EVE, bought))
    ]
    await store.put_contacts(people)
    await run(asking(tmp_path), store)
    assert await store.contact(ANNA) is None
    assert await store.contact(EVE) is not None


async def test_the_record_that_somebody_was_asked_stays_equally_long(
    tmp_path: Path, store: Store
) -> None:
    settings = asking(tmp_path)
    log = open_mailings(settings.store)
    await log.reserve("1", settings.streams["renewal"], [ANNA], NOW - 30 * DAY)
    await run(settings, store)
    (mailing,) = (await log.known([ANNA]))[ANNA].mailings
    assert mailing.stream == "permission:default"
    log.close()


@pytest.mark.parametrize(("valid", "kept"), [("7d", 31), ("60d", 60)])
async def test_a_request_stays_while_its_link_works(
    tmp_path: Path, store: Store, valid: str, kept: int
) -> None:
    settings = asking(tmp_path)
    assert settings.confirmation is not None
    seconds = {"7d": 7, "60d": 60}[valid] * 86_400.0
    settings = replace(settings, confirmation=replace(settings.confirmation, valid_for=seconds))
    for address, age in ((ANNA, kept + 1), (EVE, kept)):
        act = ConsentAct("offers", NOW - age * DAY, method="double_opt_in", pending=True)
        await store.record_act(address, act)
    await run(settings, store)
    assert await store.contact(ANNA) is None
    assert await store.contact(EVE) is not None


async def test_rejected_lines_of_an_import_that_ended_by_a_clock_ahead_go_a_week_later(
    settings: Settings, store: Store
) -> None:
    jobs, id = ImportJobs(settings.server.state_dir), "01JKB3Q00020CT1R0RZ1H6E7B1"
    jobs.receive(id)
    jobs.accept(ImportJob(id, "contacts", "me", NOW, False, 1))
    jobs.finish(id, JobEnd("complete", NOW + 365 * DAY))
    jobs.rejected(id).write_text("# line 2: no\na@p.example\n")
    await purge(settings, store, at=NOW, clock=lambda: NOW)
    jobs.expire(NOW + KEPT)
    assert jobs.rejected(id).exists()
    jobs.expire(NOW + KEPT + DAY)
    assert not jobs.rejected(id).exists()
