"""Reading the audit journal by id, recipient and time, with the outcome of messages."""

import asyncio
import itertools
import os
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryFile

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpproxy.events import UlidFactory
from smtpproxy.report.counting import Selection, count
from smtpproxy.sinks.audit import files
from smtpproxy.sinks.audit.reader import Record, decision, find, read
from smtpproxy.sinks.audit.verify import verify
from tests.kit import traffic
from tests.kit.journal import START, Clock, decided, journal, relayed, segments
from tests.kit.ports import wait_for


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "audit"


async def test_decisions_are_found_by_recipient_stream_and_time(folder: Path, clock: Clock) -> None:
    log = journal(folder, clock)
    entries = []
    for number, stream in itertools.product(range(4), (traffic.OFFERS, traffic.RECEIPTS)):
        entry = decided(clock, to=f"Person{number}@b.example")
        entry = msgspec.structs.replace(
            entry, decision=traffic.decided(stream, traffic.ALLOWED).decision
        )
        await log.commit(entry)
        entries.append(entry)
        clock.tick(minutes=1)
    assert [r.decided for r in read(folder, recipient="person1@b.example")] == entries[2:4]
    assert [r.decided for r in read(folder, stream="receipts")] == entries[1::2]
    since, until = entries[2].at, entries[5].at
    assert [r.decided for r in read(folder, since=since)] == entries[2:]
    assert [r.decided for r in read(folder, until=until)] == entries[:5]
    assert [r.decided for r in read(folder, since=since, until=until)] == entries[2:5]
    assert [
        r.decided for r in read(folder, recipient="person2@b.example", stream="offers", since=since)
    ] == [entries[4]]
    assert list(read(folder, recipient="person@b.example")) == []
    since, until = files.EARLIEST, files.LATEST
    assert [r.decided for r in read(folder, since=since, until=until)] == entries
    assert count(folder, Selection(since, until)).decisions == len(entries)


async def test_an_address_is_found_only_where_it_was_a_recipient(
    folder: Path, clock: Clock
) -> None:
    """Not where the same text is in another field."""
    await journal(folder, clock).commit(decided(clock, subject="c@d.example"))
    assert list(read(folder, recipient="c@d.example")) == []
    assert len(list(read(folder, recipient="a@b.example"))) == 1


async def test_records_of_a_period_are_found_in_any_segment(folder: Path, clock: Clock) -> None:
    log = journal(folder, clock, segment_size=3_000)
    entries = []
    for _ in range(60):
        entries.append(decided(clock))
        await log.commit(entries[-1])
        clock.tick(seconds=0.3)
    assert len(segments(folder)) > 5
    for first, last in itertools.combinations(range(0, 60, 7), 2):
        found = read(folder, since=entries[first].at, until=entries[last].at)
        assert [record.decided for record in found] == entries[first:last]


async def test_ten_thousand_decisions(folder: Path, clock: Clock) -> None:
    log = journal(folder, clock, segment_size=2 << 20)
    ids = []
    for number in range(10_000):
        entry = decided(clock, to=f"{number}@b.example")
        await log.commit(entry)
        log.outcome(relayed(entry.id))
        ids.append(entry.id)
        clock.tick(milliseconds=50)
    log.close()
    assert len(segments(folder)) > 3
    seen = [record.decided.id for record in read(folder) if record.outcome is not None]
    assert sorted(seen) == ids
    for number in range(0, 10_000, 2_000):
        (by_id,) = find(folder, ids[number].lower())
        (by_recipient,) = read(folder, recipient=f"{number}@b.example")
        assert by_id == by_recipient
        assert by_id.decided.id == ids[number]
        assert by_id.outcome is not None


def test_an_invalid_id_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="is not a decision id"):
        find(folder, "nonsense")


# outcomes


async def test_the_outcome_is_joined(folder: Path, clock: Clock) -> None:
    log = journal(folder, clock)
    accepted, rejected, unknown = (decided(clock) for _ in range(3))
    for entry in (accepted, rejected, unknown):
        await log.commit(entry)
    log.outcome(relayed(rejected.id, 554))
    log.outcome(relayed(accepted.id))
    log.close()
    outcomes = {record.decided.id: record.outcome for record in read(folder)}
    assert {id: outcome and outcome.code for id, outcome in outcomes.items()} == {
        accepted.id: 250,
        rejected.id: 554,
        unknown.id: None,
    }
    (record,) = find(folder, accepted.id)
    assert record.outcome is not None
    assert (record.outcome.reply, record.outcome.at) == ("250 2.0.0 queued", START)


async def test_an_outcome_is_written_promptly_without_another_decision(
    folder: Path, clock: Clock
) -> None:
    log = journal(folder, clock)
    entry = decided(clock)
    await log.commit(entry)
    log.outcome(relayed(entry.id))
    await asyncio.to_thread(
        wait_for, lambda: find(folder, entry.id)[0].outcome, "the outcome", timeout=5
    )


async def test_a_refusal_has_no_outcome(folder: Path, clock: Clock) -> None:
    log = journal(folder, clock)
    id = clock.new_id()
    at_rcpt = decided(clock, id=id, stage="rcpt", relayed=False)
    at_data = decided(clock, id=id, to="c@d.example")
    await log.commit(at_rcpt)
    await log.commit(at_data)
    log.outcome(relayed(id))
    log.close()
    first, second = find(folder, id)
    assert first == Record(at_rcpt)
    assert second.decided == at_data
    assert second.outcome is not None


@pytest.mark.parametrize("count", [1, 3])
async def test_an_outcome_in_the_next_segment_is_joined(
    folder: Path, clock: Clock, count: int
) -> None:
    log = journal(folder, clock, segment_size=1)
    entries = []
    for number in range(count):
        entries.append(decided(clock, to=f"{number}@b.example"))
        await log.commit(entries[-1])
        clock.tick(seconds=1)
    log.outcome(relayed(entries[-1].id))
    log.close()
    assert len(segments(folder)) == count + 1
    (found,) = find(folder, entries[-1].id)
    (by_recipient,) = read(folder, recipient=f"{count - 1}@b.example")
    (by_all,) = (record for record in read(folder) if record.decided == entries[-1])
    (by_time,) = read(folder, since=entries[-1].at, until=entries[-1].at + timedelta(seconds=1))
    for record in (found, by_recipient, by_all, by_time):
        assert record.decided == entries[-1]
        assert record.outcome is not None


@pytest.mark.parametrize("wrong", [timedelta(days=365), timedelta(hours=1), timedelta(days=-2)])
async def test_decisions_around_a_clock_change_are_found(
    folder: Path, clock: Clock, wrong: timedelta
) -> None:
    """A file started while the clock is behind the previous one sorts just after it."""
    entries = []
    for ahead in (timedelta(), timedelta(), wrong, -wrong, timedelta(), timedelta()):
        clock.time += ahead
        clock.new_id = UlidFactory(lambda: int(clock.time.timestamp() * 1000), os.urandom)
        log = journal(folder, clock)
        for _ in range(2):
            entries.append(decided(clock))
            await log.commit(entries[-1])
            clock.tick(minutes=10)
        log.close()
    for entry in entries:
        assert [record.decided for record in find(folder, entry.id)] == [entry]
        assert decision(folder, entry.id) == entry
        since, until = entry.at, entry.at + timedelta(minutes=1)
        assert entry in [record.decided for record in read(folder, since=since, until=until)]
        assert count(folder, Selection(since, until), processes=1).decisions
        assert verify(folder, since=since, until=until).decisions


async def test_ids_of_a_process_whose_clock_was_set_back_are_found(
    folder: Path, clock: Clock
) -> None:
    log, entries = journal(folder, clock), []
    for step in (1, -3600, 1, 1):
        clock.tick(seconds=step)
        entries.append(decided(clock))
        await log.commit(entries[-1])
        log.rotate()
    log.close()
    for entry in entries:
        assert [record.decided for record in find(folder, entry.id)] == [entry]


# what is broken


@pytest.mark.parametrize(
    "torn", [b'{"kind":"decision","decided":{"id":"01J9', b"\0" * 600, b"\xff", b"{}", b'{"kind":']
)
async def test_a_torn_last_line_is_skipped(folder: Path, clock: Clock, torn: bytes) -> None:
    log = journal(folder, clock)
    entry = decided(clock)
    await log.commit(entry)
    with segments(folder)[0].open("ab") as file:
        file.write(torn)
    assert [record.decided for record in read(folder)] == [entry]
    assert find(folder, entry.id) == [Record(entry)]
    after = decided(clock)
    await journal(folder, clock).commit(after)
    assert [record.decided for record in read(folder)] == [entry, after]


async def test_a_decision_torn_anywhere_is_not_read(folder: Path, clock: Clock) -> None:
    log = journal(folder, clock)
    entry = decided(clock)
    await log.commit(entry)
    (file,) = segments(folder)
    whole = file.read_bytes()
    for length in range(0, len(whole), 7):
        file.write_bytes(whole[:length])
        assert list(read(folder)) == find(folder, entry.id) == []
        assert list(read(folder, recipient="a@b.example")) == []


async def test_other_files_in_the_folder_are_ignored(folder: Path, clock: Clock) -> None:
    entry = decided(clock)
    await journal(folder, clock).commit(entry)
    for name in ("notes.ndjson", "01J9-0.ndjson", "x.txt", f"{clock.new_id()}-0.ndjson.gz"):
        (folder / name).write_text("hello\n")
    (folder / f"{clock.new_id()}-0.ndjson").touch()
    assert [record.decided for record in read(folder)] == [entry]
    assert find(folder, entry.id) == [Record(entry)]


def test_before_the_first_decision_nothing_is_found(folder: Path, clock: Clock) -> None:
    assert list(read(folder)) == find(folder, clock.new_id()) == []


async def test_one_decision_is_found_in_a_journal_of_any_size(folder: Path, clock: Clock) -> None:
    """With several workers, some of whose messages took long."""
    logs = [journal(folder, clock, worker, segment_size=700_000) for worker in range(2)]
    entries = []
    for number in range(4_000):
        entry = decided(clock, to=f"person{number}@b.example")
        late = timedelta(minutes=40 if number % 500 == 7 else 0)
        entry = msgspec.structs.replace(entry, at=entry.at + late)
        await logs[number % 2].commit(entry)
        entries.append(entry)
        clock.tick(seconds=2)
    assert len(segments(folder)) > 3
    for entry in (*entries[::97], *entries[7::500], entries[0], entries[-1]):
        assert decision(folder, entry.id) == entry
    assert decision(folder, clock.new_id()) is None
    assert decision(folder / "none", entries[0].id) is None
    with pytest.raises(ValueError, match="not a decision id"):
        decision(folder, "x")


async def test_truncating_a_file_being_read_is_reported(
    folder: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When files were mapped into memory, this killed the reader with SIGBUS."""
    monkeypatch.setattr(files, "_BLOCK", 1024)
    log = journal(folder, clock)
    for _ in range(20):
        await log.commit(decided(clock))
    log.close()
    (path,) = segments(folder)
    with files.opened(path) as found:
        assert found.find(b'"kind":"begin"') > 0
        os.truncate(path, 2000)
        with pytest.raises(OSError, match="cut short while it was read"):
            found.find(b"nowhere")


def test_a_failing_disk_is_reported_with_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(file: int, size: int, start: int) -> bytes:
        raise OSError(5, "Input/output error")

    path = tmp_path / "one.ndjson"
    path.write_bytes(b"a line\n")
    monkeypatch.setattr(os, "pread", fails)
    with files.opened(path) as found, pytest.raises(OSError, match=r"one\.ndjson"):
        found.find(b"nowhere")


@given(st.text("ab\n", max_size=40), st.text("ab\n", min_size=1, max_size=9), st.integers(0, 40))
def test_a_file_is_searched_octet_by_octet(text: str, wanted: str, position: int) -> None:
    octets, needle = text.encode(), wanted.encode()
    with TemporaryFile() as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_BLOCK", 8)
        file.write(octets)
        file.seek(0)
        found = files.Octets(file)
        place = min(position, len(octets))
        assert found.line_start(place) == octets.rfind(b"\n", 0, place) + 1
        for start, end in ((0, None), (place, None), (0, place), (place, place + 12)):
            assert found.find(needle, start, end) == octets.find(needle, start, end)
            assert found[start:end] == octets[start:end]
