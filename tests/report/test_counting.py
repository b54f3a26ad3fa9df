"""A report counts what the journal says, however the journal is divided."""

import asyncio
import tempfile
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpproxy.events import Client, Decided, JudgedRecipient
from smtpproxy.policy.model import (
    Action,
    Basis,
    Decision,
    Mode,
    Reason,
    Stream,
    StreamClass,
    Verdict,
)
from smtpproxy.report import counting
from smtpproxy.report.counting import Selection, count
from smtpproxy.report.counts import OTHERS, PEOPLE, Counts, Fault, RecipientOutcome
from smtpproxy.report.judgement import StreamReport
from smtpproxy.sinks.audit.reader import read
from tests.kit.journal import START, Clock, decided, journal, relayed, segments
from tests.kit.soak import times
from tests.kit.traffic import OFFERS, RECEIPTS, TRIAL

ALLOWED = Verdict(Action.ALLOW, basis=Basis.CONSENT)
VERDICTS = [
    ALLOWED,
    Verdict(Action.ALLOW, basis=Basis.TRANSACTIONAL),
    Verdict(Action.REFUSE, Reason.NO_RECORD),
    Verdict(Action.REFUSE, Reason.SUPPRESSED_UNSUBSCRIBE, detail="unsubscribed on 2026-01-01"),
    Verdict(Action.DEFER, Reason.FREQUENCY_CAP),
]
MESSAGES = [None, Verdict(Action.ALLOW), Verdict(Action.REFUSE, Reason.UNSUBSCRIBE_MISSING)]
APPS = [Client("apps", "192.0.2.1", "a"), Client("shop", "192.0.2.2", "b", "shop@example.com")]

what_came = st.lists(
    st.tuples(
        st.sampled_from([OFFERS, RECEIPTS, TRIAL]),
        st.sampled_from(APPS),
        st.sampled_from(MESSAGES),
        st.lists(st.sampled_from(VERDICTS), min_size=1, max_size=4),
        st.sampled_from(["data", "rcpt", "notice", "again"]),
        st.booleans(),  # observed only
        st.sampled_from(["News <news@shop.example>", '"a, b" <X@SHOP.example>', "?", None]),
        st.integers(0, 90_000),  # seconds until the next one
    ),
    max_size=30,
)


def write(folder: Path, came: Sequence[Any], workers: int = 2) -> None:
    """Record it, with several workers taking turns."""
    clock = Clock()

    async def act() -> None:
        journals = [journal(folder, clock, worker, segment_size=4_000) for worker in range(workers)]
        for index, (stream, app, message, verdicts, stage, observed, author, wait) in enumerate(
            came
        ):
            people = [f"p{index}-{n}@d{n}.example" for n in range(len(verdicts))]
            entry = decided(
                clock,
                stage="rcpt" if stage == "again" else stage,
                client=app,
                decision=Decision(stream, "fr", tuple(verdicts), message),
                recipients=tuple(map(JudgedRecipient, people, people, verdicts)),
                observed=observed,
                header_from=author,
                permitted_before=("consent",) * len(verdicts) if stage == "again" else (),
            )
            await journals[index % workers].commit(entry)
            if index % 2:
                journals[index % workers].outcome(relayed(entry.id))
            clock.tick(seconds=wait)
        for each in journals:
            each.close()

    asyncio.run(act())


def slow_count(entries: Sequence[Decided]) -> tuple[Counter[Any], Counter[Any], Counter[Any]]:
    """Count days, applications and faults of messages one by one, as defined in words."""
    days: Counter[Any] = Counter()
    apps: Counter[Any] = Counter()
    faults: Counter[Any] = Counter()
    for entry in entries:
        if entry.stage == "notice":
            continue
        message, stream, day = (
            entry.decision.message,
            entry.decision.stream.name,
            str(entry.at.date()),
        )
        if message is not None:
            faults[Fault(day, stream, entry.observed, message.reason)] += 1
        for recipient in entry.recipients:
            verdict = recipient.verdict
            if verdict.action is Action.ALLOW and message and message.action is not Action.ALLOW:
                verdict = message
            word = verdict.basis if verdict.action is Action.ALLOW else verdict.reason
            what = RecipientOutcome(stream, entry.observed, verdict.action, word or "")
            days[day, what] += 1
            app = f"{entry.client.listener}/{entry.client.login or entry.client.peer}"
            apps[app, what] += 1
            if entry.permitted_before:
                before = RecipientOutcome(stream, entry.observed, Action.ALLOW, Basis.CONSENT)
                days[day, before] -= 1
                apps[app, before] -= 1
    return days, apps, faults


def words(entry: Decided) -> set[str]:
    message = entry.decision.message
    at_fault = message is not None and message.action is not Action.ALLOW
    return {what.word for _, what in slow_count([entry])[0]} | (
        {message.reason} if at_fault and message else set()
    )


def flat(rows: dict[str, dict[RecipientOutcome, int]]) -> Counter[Any]:
    return Counter({(name, what): n for name, row in rows.items() for what, n in row.items()})


@settings(max_examples=times(20, 1_000), deadline=None)
@given(what_came, st.integers(200, 5_000), st.sampled_from([None, 1, 3]), st.booleans())
def test_a_report_equals_a_slow_count(
    came: Sequence[Any], piece: int, days_left_out: int | None, one_stream: bool
) -> None:
    since = None if days_left_out is None else START + timedelta(days=days_left_out)
    stream = "offers" if one_stream else None
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        write(folder, came)
        patch.setattr(counting, "_PIECE", piece)
        found = count(folder, Selection(since, None, stream), processes=1)
        entries = [record.decided for record in read(folder, since=since, stream=stream)]
    days, apps, faults = slow_count(entries)
    assert flat(found.days) == days
    assert flat(found.apps.shown()) == apps
    assert found.messages == faults
    assert found.decisions == sum(entry.stage != "notice" for entry in entries)
    for (of, reason), ids in found.examples.items():
        mine = [e.id for e in entries if e.stage != "notice" and e.decision.stream.name == of
                and reason in words(e)]  # fmt: skip
        assert ids == sorted(mine, reverse=True)[:3]


def recipients(*addresses: str, **over: Any) -> list[Any]:
    return [(address, over) for address in addresses]


def recorded(folder: Path, *messages: tuple[str, dict[str, Any]]) -> Path:
    """Record messages to one recipient each, an hour apart."""
    clock = Clock()

    async def act() -> None:
        log = journal(folder, clock)
        for address, over in messages:
            await log.commit(decided(clock, address, **over))
            clock.tick(hours=1)
        log.close()

    asyncio.run(act())
    return folder


def test_several_processes_count_the_same_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = [f"p{n}@firm{n % 3}.example" for n in range(60)]
    folder = recorded(tmp_path, *recipients(*people))
    selection = Selection(senders=True, domains=True)
    one = count(folder, selection, processes=1)
    monkeypatch.setattr(counting, "_PIECE", 5_000)
    several = count(folder, selection, processes=2)
    assert several == one
    assert several.decisions == 60


def test_a_domain_that_could_name_a_person_has_no_row(tmp_path: Path) -> None:
    many = [f"p{n}@firm.example" for n in range(PEOPLE)]
    often = ["jeanne@jeanne.example"] * (3 * PEOPLE)
    counts = count(recorded(tmp_path, *recipients(*many, *often)), Selection(domains=True))
    rows = {name: sum(row.values()) for name, row in counts.domains.shown().items()}
    assert rows == {"firm.example": PEOPLE, OTHERS: 3 * PEOPLE}


def test_a_sender_of_little_mail_has_no_row(tmp_path: Path) -> None:
    news = recipients(*["a@b.example"] * PEOPLE, header_from="News <News@shop.example>")
    ada = recipients("a@b.example", header_from="Ada <ada@shop.example>")
    bounce = recipients(
        *["a@b.example"] * PEOPLE, header_from=None, reverse_path="v+jo=x.example@b.example"
    )
    counts = count(recorded(tmp_path, *news, *ada, *bounce), Selection(senders=True))
    rows = {name: sum(row.values()) for name, row in counts.senders.shown().items()}
    assert rows == {"@b.example": PEOPLE, "news@shop.example": PEOPLE, OTHERS: 1}


def test_memory_is_bounded_and_nothing_is_lost(tmp_path: Path) -> None:
    counts = Counts()
    breakdown = counting.Breakdown(10)
    what = RecipientOutcome("offers", True, Action.ALLOW, "consent")
    for n in range(1_000):
        for name in ("large", f"small{n}"):
            row = breakdown.row(name)
            row[what] = row.get(what, 0) + 1
    counts.apps.merge(breakdown)
    assert len(breakdown.rows) <= 21
    told = breakdown.shown()
    assert next(iter(told)) == "large"
    assert sum(told["large"].values()) == 1_000
    assert sum(sum(row.values()) for row in told.values()) == 2_000


def test_torn_erased_and_malformed_lines_are_skipped(tmp_path: Path) -> None:
    folder = recorded(tmp_path, *recipients("a@b.example", "c@d.example"))
    (file,) = segments(folder)
    content = file.read_bytes()
    torn = content + b'{"hash":"00","n":9,"entry":{"kind":"decision","id":\n' + content[-300:-20]
    file.write_bytes(torn)
    counts = count(folder, Selection(domains=True))
    assert (counts.decisions, counts.unreadable) == (2, 1)
    assert count(tmp_path / "nothing", Selection()) == Counts()


def test_streams_are_distinguished_by_name(tmp_path: Path) -> None:
    letters = Decision(Stream("letters"), "fr", (ALLOWED,))
    folder = recorded(tmp_path, ("a@b.example", {}), ("a@b.example", {"decision": letters}))
    assert set(count(folder, Selection()).classes) == {"offers", "letters"}
    assert count(folder, Selection(stream="letters")).decisions == 1


def test_a_fault_names_its_application_though_it_refused_nobody(
    tmp_path: Path,
) -> None:
    """Their recipients are refused anyway, for other reasons."""
    no = Verdict(Action.REFUSE, Reason.SUPPRESSED_UNSUBSCRIBE)
    fault = Verdict(Action.REFUSE, Reason.UNSUBSCRIBE_MISSING)
    over = {
        "client": APPS[0],
        "decision": Decision(OFFERS, "fr", (no,), fault),
        "recipients": (JudgedRecipient("a@b.example", "a@b.example", no),),
    }
    folder = recorded(tmp_path, ("a@b.example", over), ("a@b.example", over))
    counts = count(folder, Selection())
    report = StreamReport("offers", StreamClass.MARKETING, Mode.OBSERVE, counts)
    [found] = [one for one in report.figures if one.reason == Reason.UNSUBSCRIBE_MISSING]
    assert (found.recipients, found.messages) == (0, 2)
    assert found.apps == [("apps/192.0.2.1", 2)]
    assert len(found.examples) == 2


def test_a_message_with_refused_recipients_has_no_fault_itself(tmp_path: Path) -> None:
    no = Verdict(Action.REFUSE, Reason.NO_RECORD)
    whole = Verdict(Action.REFUSE, Reason.RECIPIENTS_REFUSED)
    judged = (JudgedRecipient("a@b.example", "a@b.example", no),)
    over = {"decision": Decision(OFFERS, "fr", (no,), whole), "recipients": judged}
    counts = count(recorded(tmp_path, ("a@b.example", over)), Selection())
    report = StreamReport("offers", StreamClass.MARKETING, Mode.ENFORCE, counts)
    assert [one.reason for one in report.figures] == [Reason.NO_RECORD]


def test_in_observe_mode_only_permitted_recipients_count_as_mailed(
    tmp_path: Path,
) -> None:
    no = Verdict(Action.REFUSE, Reason.NO_RECORD)
    people = [JudgedRecipient(f"{n}@b.example", f"{n}@b.example", ALLOWED) for n in "abc"]
    mixed: dict[str, Any] = {
        "decision": Decision(OFFERS, "fr", (ALLOWED, ALLOWED, no)),
        "recipients": (*people[:2], JudgedRecipient(people[2].address, people[2].canonical, no)),
        "observed": True,
    }
    alike = {**mixed, "decision": Decision(OFFERS, "fr", (ALLOWED,) * 3), "recipients": people}
    enforced = {**mixed, "observed": False}
    messages = [("", over) for over in (mixed, mixed, alike, enforced)]
    counts = count(recorded(tmp_path, *messages), Selection())
    assert counts.alongside == {"offers": 4}
    counts.merge(counts)
    assert counts.alongside == {"offers": 8}
    notes = StreamReport("offers", StreamClass.MARKETING, Mode.OBSERVE, counts).judgement.notes
    assert [one.values for one in notes if one.key == "alongside"] == [{"count": 8}]


def test_the_newest_examples_are_kept() -> None:
    counts = Counts()
    for id in ("B", "D", "A", "C", "D", "E"):
        counts.example("offers", "no_record", id)
    assert counts.examples == {("offers", "no_record"): ["E", "D", "C"]}


def test_a_recipient_refused_after_all_counts_once(tmp_path: Path) -> None:
    """An MTA asked about two was told yes, and no at DATA since one was suppressed."""
    clock = Clock()
    no = Verdict(Action.REFUSE, Reason.SUPPRESSED_UNSUBSCRIBE)
    whole = Verdict(Action.REFUSE, Reason.RECIPIENTS_REFUSED)
    people = [JudgedRecipient(f"{n}@b.example", f"{n}@b.example", ALLOWED) for n in "ab"]

    async def act() -> None:
        log = journal(tmp_path, clock)
        for one in people:
            asked = Decision(OFFERS, "fr", (ALLOWED,))
            await log.commit(
                decided(clock, id="A", stage="rcpt", decision=asked, recipients=(one,))
            )
        at_data = Decision(OFFERS, "fr", (no, ALLOWED), whole)
        after_all = (JudgedRecipient("a@b.example", "a@b.example", no), people[1])
        await log.commit(
            decided(
                clock,
                id="A",
                stage="rcpt",
                decision=at_data,
                recipients=after_all,
                permitted_before=("consent", "consent"),
            )
        )
        log.close()

    asyncio.run(act())
    found = count(tmp_path, Selection(senders=True, domains=True), processes=1)
    counted = {
        RecipientOutcome("offers", False, Action.REFUSE, Reason.SUPPRESSED_UNSUBSCRIBE): 1,
        RecipientOutcome("offers", False, Action.REFUSE, Reason.RECIPIENTS_REFUSED): 1,
    }
    for rows in (found.days, found.apps.shown(), found.senders.shown(), found.domains.shown()):
        (row,) = rows.values()
        assert {what: n for what, n in row.items() if n} == counted
