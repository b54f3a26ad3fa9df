"""I have root on the relay's host. I lack only the anchors at the log collector.

I want the record to show what did not happen, or to hide what did.
"""

import asyncio
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smtpproxy.events import UlidFactory
from smtpproxy.sinks.audit import anchor_scheduler as journal_scheduler
from smtpproxy.sinks.audit import anchors
from smtpproxy.sinks.audit.anchors import ExpiredFile, ExpiredRow, TrimmedRow
from smtpproxy.sinks.audit.chain import Chain, Head, Kind, Report, take_apart
from smtpproxy.sinks.audit.erase import pseudonymise
from smtpproxy.sinks.audit.expire import expire
from smtpproxy.sinks.audit.lines import (
    BeginEntry,
    ClockEntry,
    DecisionEntry,
    LineMaker,
    plain,
    read_line,
)
from smtpproxy.sinks.audit.reader import find, read
from smtpproxy.sinks.audit.verify import Seal, State, seal, verify
from tests.kit.journal import START, Clock, decided, journal, relayed, segments
from tests.kit.soak import times

ANN, BEA = "ann@people.example", "bea@people.example"
PAST = datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)


@dataclass
class Record:
    """A journal of two workers over three days, and the anchors that the collector has."""

    folder: Path
    collected: list[Head]
    clock: Clock
    before: Path  # a copy from before Ann was erased

    def verified(self) -> Report:
        return verify(self.folder, kept=self.collected)

    def collect(self) -> None:
        taken = anchors.take(self.folder, "asked", self.clock.now)
        assert taken is not None
        self.collected.append(taken.head)


def faults(report: Report) -> list[Kind]:
    return [finding.kind for finding in report.faults()]


def notes(report: Report, kind: Kind) -> list[str]:
    return [finding.what for finding in report.notes() if finding.kind is kind]


async def _days(folder: Path, clock: Clock, days: int = 3) -> None:
    for day in range(days):
        logs = [journal(folder, clock, worker) for worker in range(2)]
        for number in range(4):
            for log, person in zip(logs, (ANN, BEA), strict=True):
                to = person if number == 2 else f"p{day}.{number}@people.example"
                entry = decided(clock, to=to)
                await log.commit(entry)
                log.outcome(relayed(entry.id))
                clock.tick(minutes=5)
            if number == 1:
                anchors.take(folder, "asked", clock.now)
        for log in logs:
            log.close()
        clock.tick(days=1)


def _made(folder: Path) -> tuple[Clock, list[Head]]:
    clock = Clock()
    asyncio.run(_days(folder, clock))
    shutil.copytree(folder, folder.with_name("before"))
    pseudonymise(folder, ANN, now=clock.now)
    clock.tick(minutes=1)
    taken = anchors.take(folder, "time", clock.now)
    assert taken is not None
    clock.tick(minutes=1)
    return clock, [taken.head]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Clock, list[Head]]:
    folder = tmp_path_factory.mktemp("made") / "audit"
    return folder, *_made(folder)


@pytest.fixture
def record(made: tuple[Path, Clock, list[Head]], tmp_path: Path) -> Record:
    folder, clock, collected = made
    mine = Clock()
    mine.time = clock.time
    shutil.copytree(folder.parent, tmp_path / "copy")
    return Record(tmp_path / "copy" / "audit", list(collected), mine, tmp_path / "copy" / "before")


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def write(path: Path, changed: Sequence[bytes]) -> None:
    path.write_bytes(b"".join(changed))


def of(folder: Path, slot: int) -> list[Path]:
    return [path for path in segments(folder) if path.stem.endswith(f"-{slot}")]


def forged(at: datetime, to: str = "victim@people.example") -> tuple[bytes, Sequence[bytes]]:
    """A decision that I invent: they agreed, and were mailed."""
    clock = Clock()
    clock.time = at
    return LineMaker().decision(decided(clock, to=to))


def append(path: Path, at: datetime, *entries: tuple[bytes, Sequence[bytes]]) -> int:
    chain = Chain(take_apart(lines(path)[-1]).head)
    with path.open("ab") as file:
        for entry in entries or (forged(at),):
            file.write(chain.seal(*entry))
    return chain.n


def file_of_a_new_slot(folder: Path, at: datetime, slot: int = 7) -> Path:
    name = f"{UlidFactory(lambda: int(at.timestamp() * 1000), lambda n: bytes(n))()}-{slot}.ndjson"
    chain = Chain()
    begin = plain(BeginEntry(name, at, None, {}, None, 1))
    (folder / name).write_bytes(chain.seal(*begin) + chain.seal(*forged(at)))
    return folder / name


def add_anchor(folder: Path, make: Callable[[datetime, anchors.Heads], anchors.Row]) -> None:
    """Append an invented row to anchors.ndjson, correctly sealed."""
    newest = anchors.newest(folder)
    assert newest is not None
    row = make(newest.row.at + timedelta(seconds=1), newest.row.heads)
    with (folder / "anchors.ndjson").open("ab") as file:
        file.write(Chain(newest.head).seal(msgspec.json.encode(row)))


def test_i_did_nothing_and_nothing_is_wrong(record: Record) -> None:
    report = record.verified()
    assert faults(report) == []
    assert (report.unproven, report.erased) == (0, 3)
    assert report.witness is not None
    assert report.witness.kept


# what never happened


def test_i_append_a_row_dated_a_year_ago(record: Record) -> None:
    n = append(of(record.folder, 0)[-1], PAST)
    report = record.verified()
    assert faults(report) == [Kind.BACKDATED]
    (unproven,) = notes(report, Kind.UNPROVEN)
    assert f"row {n} comes after the last anchor" in unproven


def test_i_append_a_row_of_today(record: Record) -> None:
    """Nothing contradicts it, but nothing proves it either, and verify says so."""
    append(of(record.folder, 0)[-1], record.clock.now())
    report = record.verified()
    assert faults(report) == []
    assert report.unproven == 1
    assert len(notes(report, Kind.UNPROVEN)) == 1


def test_i_append_a_row_and_have_the_relay_anchor_it(record: Record) -> None:
    """Now it is sealed, but not with a date before the anchor that lacked it."""
    append(of(record.folder, 0)[-1], record.clock.now() - timedelta(hours=12))
    record.collect()
    report = record.verified()
    assert faults(report) == [Kind.BACKDATED]
    assert report.unproven == 0


def test_i_append_a_row_and_anchor_it_myself(record: Record) -> None:
    """Nobody else keeps that anchor: it proves nothing."""
    append(of(record.folder, 0)[-1], record.clock.now())
    anchors.take(record.folder, "asked", record.clock.now)
    report = record.verified()
    assert faults(report) == []
    assert report.unproven == 1


def test_i_say_that_the_clock_went_back_first(record: Record) -> None:
    """Verify reports that too."""
    step = plain(ClockEntry(PAST, record.clock.now()))
    append(of(record.folder, 0)[-1], PAST, step, forged(PAST))
    report = record.verified()
    assert report.unproven == 2
    assert "the time goes back from 2026-03-0" in notes(report, Kind.CLOCK)[0]


def test_i_hide_the_date_in_a_second_member_of_that_name(record: Record) -> None:
    """A reader uses the last one."""
    entry, parts = forged(record.clock.now())
    for twice in (
        entry[:-1] + b',"at":"2025-01-02T03:04:05Z"}',
        entry[:-1] + b',"\\u0061t":"2025-01-02T03:04:05Z"}',
    ):
        copy = Path(shutil.copytree(record.folder, record.folder.with_name(f"{len(twice)}")))
        append(of(copy, 0)[-1], PAST, (twice, parts))
        assert faults(verify(copy, kept=record.collected)) == [Kind.BACKDATED]


def test_i_date_a_row_in_the_future(record: Record) -> None:
    later = record.clock.now() + timedelta(days=300)
    append(of(record.folder, 0)[-1], later)
    report = verify(record.folder, kept=record.collected, now=record.clock.now())
    assert faults(report) == [Kind.POSTDATED]
    record.collect()
    assert faults(record.verified()) == [Kind.POSTDATED]


def test_i_date_a_row_in_the_future_long_after_a_clock_was_set_back(record: Record) -> None:
    record.clock.tick(days=-1)
    for _ in range(3):
        append(of(record.folder, 0)[-1], record.clock.now())
        record.collect()
        record.clock.tick(hours=1)
    before = faults(record.verified())
    append(of(record.folder, 0)[-1], record.clock.now() + timedelta(days=300))
    record.collect()
    assert faults(record.verified()) == [*before, Kind.POSTDATED]


def test_i_create_a_file_of_a_slot_that_never_existed(record: Record) -> None:
    file_of_a_new_slot(record.folder, PAST)
    report = record.verified()
    assert faults(report) == [Kind.UNKNOWN]
    assert report.unproven == 2
    record.collect()
    assert faults(record.verified()) == [Kind.UNKNOWN], "today's anchor does not prove the past"


def test_i_create_a_file_of_a_new_slot_that_starts_now(record: Record) -> None:
    file_of_a_new_slot(record.folder, record.clock.now())
    report = record.verified()
    assert faults(report) == []
    assert report.unproven == 2


def test_i_copy_a_line_of_one_slot_into_another(record: Record) -> None:
    first, second = of(record.folder, 0)[1], of(record.folder, 1)[1]
    changed = lines(second)
    write(second, [*changed[:3], lines(first)[3], *changed[3:]])
    assert record.verified().wrong


def test_i_write_a_line_of_one_slot_at_the_end_of_another(record: Record) -> None:
    line = take_apart(lines(of(record.folder, 0)[0])[2])
    entry = line.rest.partition(b'"entry":')[2].removesuffix(b',"personal":[')
    append(of(record.folder, 1)[-1], PAST, (entry, line.parts))
    assert faults(record.verified()) == [Kind.BACKDATED]


# what did happen


def cut_off(record: Record) -> None:
    last = of(record.folder, 0)[-1]
    write(last, lines(last)[:-2])


def cut_off_with_the_anchors(record: Record) -> None:
    cut_off(record)
    path = record.folder / "anchors.ndjson"
    write(path, lines(path)[:-4])


def replace_a_file(record: Record) -> None:
    path = of(record.folder, 0)[1]
    first, *rest = lines(path)
    chain = Chain(take_apart(first).head)
    write(path, [first, *(chain.seal(*forged(START + timedelta(days=1))) for _ in rest)])


def delete_a_slot(record: Record) -> None:
    for path in of(record.folder, 1):
        path.unlink()


def rename_a_slot(record: Record) -> None:
    for path in of(record.folder, 1):
        path.rename(path.with_name(path.name.replace("-1.", "-5.")))


def swap_files(record: Record) -> None:
    first, second = of(record.folder, 0)[:2]
    one, other = first.read_bytes(), second.read_bytes()
    first.write_bytes(other)
    second.write_bytes(one)


def put_the_old_folder_back(record: Record) -> None:
    shutil.rmtree(record.folder)
    shutil.copytree(record.before, record.folder)


def delete_the_newest_anchor(record: Record) -> None:
    path = record.folder / "anchors.ndjson"
    write(path, lines(path)[:-1])


def delete_the_anchors(record: Record) -> None:
    (record.folder / "anchors.ndjson").unlink()


def say_that_the_anchors_are_gone_by_retention(record: Record) -> None:
    """Rebuild everything, with a chain of anchors that starts after the collected ones."""
    asyncio.run(_rebuilt(record))
    path = record.folder / "anchors.ndjson"
    old = [anchors.read_anchor(line) for line in lines(path)]
    last = Head(1_000, "0" * 63 + "1")
    chain = Chain(last)
    rows: list[anchors.Row] = [anchor.row for anchor in old]
    rows.append(TrimmedRow(rows[-1].at, rows[-1].heads, last, ()))
    write(path, [chain.seal(msgspec.json.encode(row)) for row in rows])


async def _rebuilt(record: Record) -> None:
    shutil.rmtree(record.folder)
    clock = Clock()
    log = journal(record.folder, clock)
    await log.commit(decided(clock, to="victim@people.example"))
    log.close()


DEEDS = [
    cut_off, cut_off_with_the_anchors, replace_a_file, delete_a_slot, rename_a_slot, swap_files,
    put_the_old_folder_back, delete_the_newest_anchor, delete_the_anchors,
    say_that_the_anchors_are_gone_by_retention,
]  # fmt: skip


@pytest.mark.parametrize("deed", DEEDS, ids=lambda deed: deed.__name__)
def test_the_collected_anchors_expose_it(record: Record, deed: Callable[[Record], None]) -> None:
    deed(record)
    assert record.verified().wrong


def claim_retention(record: Record, before: datetime, slot: int = 0, file: int = 0) -> list[str]:
    """Delete the first file of a slot, and claim that it had expired."""
    path = of(record.folder, slot)[file]
    last = take_apart(lines(path)[-1]).head
    first = read_line(lines(path)[0]).entry
    assert isinstance(first, BeginEntry)
    after = Head(0, "0" * 64) if first.after is None else Head(first.after.n, first.after.hash)
    claimed = ExpiredFile(path.name, slot, after, last)
    add_anchor(record.folder, lambda at, heads: ExpiredRow(at, heads, before, (claimed,)))
    path.unlink()
    return [path.name]


def test_i_claim_retention_for_rows_that_did_not_exist_yet(record: Record) -> None:
    """They would be older than noon of day 1, but an anchor from then lacks them."""
    claim_retention(record, START + timedelta(minutes=1))
    assert Kind.MISSING in faults(record.verified())


def test_i_claim_retention_for_the_newest_rows(record: Record) -> None:
    """Retention deletes the oldest first."""
    claim_retention(record, record.clock.now(), file=-1)
    assert Kind.CUT in faults(record.verified())
    record.collect()
    assert Kind.CUT in faults(record.verified())


def test_i_claim_retention_for_rows_in_the_middle(record: Record) -> None:
    claim_retention(record, record.clock.now(), file=1)
    assert Kind.MISSING in faults(record.verified())


def test_i_claim_retention_after_the_last_anchor(record: Record) -> None:
    """It may be true but is unproven, and verify says so."""
    (name,) = claim_retention(record, START + timedelta(days=2))
    report = record.verified()
    assert faults(report) == []
    unproven = [finding for finding in report.notes() if finding.kind is Kind.UNPROVEN]
    assert [finding.file for finding in unproven] == [name]


# erased people


def whole_lines(record: Record) -> tuple[Path, list[bytes]]:
    """The first file of slot 0 before the erasure."""
    path = of(record.folder, 0)[0]
    return path, lines(record.before / path.name)


def test_i_put_an_erased_person_back(record: Record) -> None:
    path, old = whole_lines(record)
    assert path.read_bytes() != b"".join(old)
    write(path, old)
    assert faults(record.verified()) == [Kind.RESTORED]


def test_i_put_one_back_and_hide_another_instead(record: Record) -> None:
    path, old = whole_lines(record)
    other = next(n for n, line in enumerate(old) if b"p0.3@" in line)
    old[other] = take_apart(old[other]).without({0})
    write(path, old)
    assert sorted(faults(record.verified())) == [Kind.HIDDEN, Kind.RESTORED]


def test_i_swap_the_digests_of_two_erased_people(record: Record) -> None:
    path = of(record.folder, 0)[0]
    changed = lines(path)
    number = next(n for n, line in enumerate(changed) if take_apart(line).erased)
    part = take_apart(changed[number]).parts[0]
    changed[number] = changed[number].replace(part, b'"' + b"0" * 64 + b'"')
    write(path, changed)
    assert faults(record.verified()) == [Kind.CHANGED]


def test_i_hide_somebody_and_claim_that_they_asked_for_it(record: Record) -> None:
    """An entry that nobody collected proves nothing, and verify says so."""
    path = of(record.folder, 0)[0]
    changed = lines(path)
    sealed = take_apart(changed[2])
    changed[2] = sealed.without({0})
    row = anchors.ErasingRow(START, {}, "contact erase", path.name, 0, ((sealed.n, 0),))

    def make(at: datetime, heads: anchors.Heads) -> anchors.Row:
        return msgspec.structs.replace(row, at=at, heads=heads)

    add_anchor(record.folder, make)
    write(path, changed)
    report = record.verified()
    assert faults(report) == []
    assert "1 personal part is erased by anchors after" in notes(report, Kind.UNPROVEN)[0]


def test_i_remove_the_entry_of_an_erasure(record: Record) -> None:
    """And undo the erasure: the collected anchor seals the entry."""
    path, old = whole_lines(record)
    write(path, old)
    found = record.folder / "anchors.ndjson"
    newest = [line for line in lines(found) if b'"kind":"eras' not in line]
    chain, rows = Chain(), [anchors.read_anchor(line).row for line in newest]
    write(found, [chain.seal(msgspec.json.encode(row)) for row in rows])
    assert record.verified().wrong


# what happens to honest relays


async def test_setting_the_clock_back_a_little_is_ignored(tmp_path: Path) -> None:
    clock, folder = Clock(), tmp_path / "audit"
    log = journal(folder, clock)
    for seconds in (0, 20, -15, 20, -25, 3):
        clock.tick(seconds=seconds)
        await log.commit(decided(clock))
    log.close()
    report = verify(folder)
    assert faults(report) == []
    assert notes(report, Kind.CLOCK) == []


@pytest.mark.parametrize("restart", [False, True])
async def test_setting_the_clock_back_a_lot_is_noted_by_the_relay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, restart: bool
) -> None:
    monkeypatch.setattr(journal_scheduler, "CHECK_SECONDS", 0.01)
    clock, folder = Clock(), tmp_path / "audit"
    log, other = journal(folder, clock), journal(folder, clock, 1)
    for each in (log, other):
        await each.commit(decided(clock))
        clock.tick(hours=5)
        await each.commit(decided(clock))
    anchors.take(folder, "asked", clock.now)
    await asyncio.sleep(0.2)  # each worker looks at the clock
    if restart:
        log.close()
    clock.time -= timedelta(hours=3)
    if restart:
        log = journal(folder, clock)
    for _ in range(3):
        await log.commit(decided(clock))
        clock.tick(seconds=1)
    await asyncio.sleep(0.2)
    assert State.BROKEN not in [seal(folder, [one]).state for one in read(folder)], "noted at once"
    assert faults(verify(folder, now=clock.now())) == []
    anchors.take(folder, "asked", clock.now)
    await other.commit(decided(clock))
    log.close()
    other.close()
    assert State.BROKEN not in [seal(folder, [one]).state for one in read(folder)]
    report = verify(folder)
    assert faults(report) == []
    assert len(notes(report, Kind.CLOCK)) >= 2, "once in the rows, once in the anchors"


@pytest.mark.parametrize("restart", [False, True])
async def test_a_clock_ahead_between_two_anchors_is_noted(tmp_path: Path, restart: bool) -> None:
    """The next anchor is older than the rows it covers."""
    clock, folder = Clock(), tmp_path / "audit"
    log = journal(folder, clock)
    await log.commit(decided(clock))
    anchors.take(folder, "asked", clock.now)
    clock.tick(hours=1)
    await log.commit(decided(clock))
    clock.tick(seconds=20 - 3600)
    if restart:  # killed
        log._segment.close()
        log = journal(folder, clock)
    await log.commit(decided(clock))
    anchors.take(folder, "asked", clock.now)
    log.close()
    report = verify(folder, now=clock.now())
    assert faults(report) == []
    assert len(notes(report, Kind.CLOCK)) == 1


async def test_an_erasure_is_anchored_even_without_any_mail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a minute an anchor seals its entry and goes to the log."""
    monkeypatch.setattr(journal_scheduler, "CHECK_SECONDS", 0.01)
    monkeypatch.setattr(journal_scheduler, "ANCHOR_SECONDS", 0.05)
    clock, folder = Clock(), tmp_path / "audit"
    log = journal(folder, clock)
    await log.commit(decided(clock, to=ANN))
    log.rotate()
    await asyncio.sleep(0.3)
    clock.tick(minutes=5)
    pseudonymise(folder, ANN, now=clock.now)
    erased = anchors.newest(folder)
    assert erased is not None
    clock.tick(minutes=5)
    await asyncio.sleep(0.5)
    newest = anchors.newest(folder)
    assert newest is not None
    assert newest.n == erased.n + 1, "and only once"
    log.close()


async def test_a_decision_that_waited_for_the_upstream_is_noted(tmp_path: Path) -> None:
    clock, folder = Clock(), tmp_path / "audit"
    log = journal(folder, clock)
    waiting = decided(clock)
    clock.tick(minutes=3)
    await log.commit(decided(clock))
    await log.commit(waiting)
    await log.commit(decided(clock))
    log.close()
    report = verify(folder)
    assert faults(report) == []
    assert len(notes(report, Kind.CLOCK)) == 1


EVENTS = ["more", "fewer", "back", "kill", "erase", "expire", "disk", "tick"]


@settings(max_examples=10, deadline=None)
@given(st.lists(st.sampled_from(EVENTS), max_size=9))
def test_the_record_of_an_honest_relay_is_sound_whatever_happens(
    tmp_path_factory: pytest.TempPathFactory, events: list[str]
) -> None:
    folder, clock = tmp_path_factory.mktemp("honest") / "audit", Clock()

    async def live() -> None:
        workers = 2
        for event in events:
            logs = [journal(folder, clock, worker, segment_size=6_000) for worker in range(workers)]
            for number in range(6):
                for log in logs:
                    await log.commit(decided(clock, to=ANN if number % 2 else BEA))
                    clock.tick(seconds=40)
            if event == "kill":  # its last anchors are missing and its last line is truncated
                for log in logs:
                    log._anchor_scheduler._timer = None
            for log in logs:
                log.close()
            if event == "disk":
                with segments(folder)[-1].open("ab") as file:
                    file.write(b'{"hash":"')
            elif event == "back":
                clock.time -= timedelta(hours=7)
            elif event == "erase":
                pseudonymise(folder, ANN, now=clock.now)
            elif event == "expire":
                expire(folder, clock.now() - timedelta(days=1), now=clock.now)
            elif event == "tick":
                clock.tick(days=1)
            workers += (event == "more") - (event == "fewer" and workers > 1)
            assert faults(verify(folder)) == [], event

    asyncio.run(live())
    shutil.rmtree(folder.parent)


def test_an_erasure_interrupted_by_a_crash_is_completed(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the next erasure or deletion; nobody has to name the person again."""

    def crash(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("smtpproxy.sinks.audit.erase._replace", crash)
        with pytest.raises(KeyboardInterrupt):
            pseudonymise(record.folder, BEA, now=record.clock.now)
    report = verify(record.folder)
    assert faults(report) == []
    assert any("more are recorded, but still there" in note for note in notes(report, Kind.ERASED))
    expire(record.folder, START, now=record.clock.now)
    report = verify(record.folder)
    assert faults(report) == []
    assert not any("still there" in note for note in notes(report, Kind.ERASED))
    assert report.erased == 4
    assert anchors.unfinished(record.folder) == {}


# whatever I do


def one_deed(content: bytes, random: Random) -> bytes:
    position, all_lines = random.randrange(len(content)), content.splitlines(keepends=True)
    number, other = random.randrange(len(all_lines)), random.randrange(len(all_lines))
    match random.randrange(5):
        case 0:
            flipped = content[position] ^ (1 << random.randrange(8))
            return content[:position] + bytes([flipped]) + content[position + 1 :]
        case 1:
            del all_lines[number]
        case 2:
            all_lines.insert(other, all_lines[number])
        case 3:
            all_lines[number], all_lines[other] = all_lines[other], all_lines[number]
        case _:
            sealed = take_apart(all_lines[number])
            all_lines[number] = sealed.without(set(range(len(sealed.parts))))
    return b"".join(all_lines)


@settings(
    max_examples=times(30, 1_000), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
@given(st.integers(0, 2**32))
def test_any_single_tampering_with_proven_rows_is_found(
    made: tuple[Path, Clock, list[Head]], tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    """The unproven end stays unproven."""
    source, _, collected = made
    random = Random(seed)
    folder = Path(shutil.copytree(source, tmp_path_factory.mktemp("deed") / "audit"))
    path = random.choice([*segments(folder), folder / "anchors.ndjson"])
    content = path.read_bytes()
    changed = one_deed(content, random)
    tail = of(folder, 0)[-1]
    append(tail, START + timedelta(days=5))
    end = tail.read_bytes()[len(content) :] if path == tail else b""
    path.write_bytes(changed + end)
    report = verify(folder, kept=collected)
    assert (report.wrong > 0) == (changed != content), path.name
    shutil.rmtree(folder.parent)


# what the record says about one decision


def told(record: Record, at: datetime, *, kept: bool = True) -> list[Seal]:
    """How each decision on the victim, dated `at`, is proven."""
    found = list(read(record.folder, recipient="victim@people.example"))
    assert found
    assert {r.decided.at for r in found} == {at}
    return [seal(record.folder, [r], record.collected if kept else ()) for r in found]


@pytest.mark.parametrize("kept", [False, True])
def test_my_forgery_is_not_reported_as_genuine(record: Record, *, kept: bool) -> None:
    append(of(record.folder, 0)[-1], PAST)
    file_of_a_new_slot(record.folder, PAST)
    for one in told(record, PAST, kept=kept):
        assert one.state is State.BROKEN
        assert "it is dated 2025-01-02 03:04:05, but anchor" in str(one.what)


def test_todays_anchor_does_not_make_my_forgery_genuine(record: Record) -> None:
    append(of(record.folder, 0)[-1], PAST)
    file_of_a_new_slot(record.folder, PAST)
    record.collect()
    assert {one.state for one in told(record, PAST)} == {State.BROKEN}


def test_what_i_add_now_is_reported_as_unproven(record: Record) -> None:
    append(of(record.folder, 0)[-1], record.clock.now())
    assert [one.state for one in told(record, record.clock.now())] == [State.UNPROVEN]


def test_what_only_i_anchored_is_reported_as_unproven(record: Record) -> None:
    now = record.clock.now()
    append(of(record.folder, 0)[-1], now)
    anchors.take(record.folder, "asked", lambda: now)
    assert [one.state for one in told(record, now)] == [State.UNPROVEN]
    assert [one.state for one in told(record, now, kept=False)] == [State.LOCAL]


def test_genuine_decisions_are_reported_as_proven_everywhere(record: Record) -> None:
    records = list(read(record.folder))
    assert len(records) == 24
    for one in records:
        found = seal(record.folder, [one], record.collected)
        assert (found.state, found.what) == (State.KEPT, None)
        assert found.at is not None
        assert found.at >= one.decided.at
        assert seal(record.folder, [one]).state is State.LOCAL
    assert seal(record.folder, records, record.collected).state is State.KEPT


def test_my_edits_are_reported(record: Record) -> None:
    """Even with its hash and those of the rest of its slot recomputed."""
    path = of(record.folder, 1)[1]
    id = edit(path)
    (edited,) = find(record.folder, id)
    (sound,) = find(record.folder, find_id(lines(path)[1]))
    for one in ([edited], [edited, sound], [sound, edited]):
        assert seal(record.folder, one, record.collected).state is State.BROKEN
    recompute_hashes(path)
    (edited,) = find(record.folder, id)
    assert "the anchor saw another row" in str(seal(record.folder, [edited], record.collected).what)


@pytest.mark.parametrize("anew", [False, True])
def test_my_edits_of_rows_and_anchors_are_reported(record: Record, *, anew: bool) -> None:
    """Even with the hashes of all anchors but the collected one recomputed."""
    path, at = of(record.folder, 1)[-1], record.folder / "anchors.ndjson"
    before = lines(path)
    id = edit(path)
    recompute_hashes(path)
    seen = at.read_bytes()
    for was, now in zip(before, lines(path), strict=True):
        seen = seen.replace(take_apart(was).hash, take_apart(now).hash)
    at.write_bytes(seen)
    if anew:
        chain = Chain()
        rows = [anchors.read_anchor(line).row for line in lines(at)]
        write(at, [chain.seal(msgspec.json.encode(row)) for row in rows])
    (edited,) = find(record.folder, id)
    found = seal(record.folder, [edited], record.collected)
    assert found.state is State.BROKEN
    assert ("differs from the one that was kept" if anew else "was altered") in str(found.what)


def edit(path: Path) -> str:
    """Change a verdict; return its id."""
    all_lines = lines(path)
    all_lines[3] = all_lines[3].replace(b'"action":"allow"', b'"action":"defer"')
    write(path, all_lines)
    return find_id(all_lines[3])


def recompute_hashes(path: Path) -> None:
    all_lines = lines(path)
    chain = Chain(take_apart(all_lines[2]).head)
    for number, line in enumerate(all_lines[3:], 3):
        sealed = take_apart(line)
        before, _, entry = sealed.rest.removesuffix(b',"personal":[').partition(b'"entry":')
        all_lines[number] = chain.seal(entry, sealed.parts, before.split(b",", 2)[2])
    write(path, all_lines)


def find_id(line: bytes) -> str:
    entry = read_line(line).entry
    assert isinstance(entry, DecisionEntry)
    return entry.id


def test_an_outcome_after_the_last_anchor_makes_a_decision_unproven(record: Record) -> None:
    """I claim that the MTA accepted what it never answered."""
    clock = record.clock
    entry = decided(clock, to="victim@people.example")
    append(of(record.folder, 0)[-1], clock.now(), LineMaker().decision(entry))
    record.collect()
    answer = LineMaker().personal_answer(relayed(entry.id), clock.now())
    assert [one.state for one in told(record, clock.now())] == [State.KEPT]
    append(of(record.folder, 0)[-1], clock.now(), answer)
    assert [one.state for one in told(record, clock.now())] == [State.UNPROVEN]
