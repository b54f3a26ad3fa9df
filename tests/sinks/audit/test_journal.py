"""Writing the audit journal: committed rows survive whatever happens next."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from smtpproxy.events import Decided
from smtpproxy.policy.model import (
    ConsentAct,
    Contact,
    Evidence,
    MessageFeatures,
    Origin,
    RecipientFacts,
    Suppression,
)
from smtpproxy.sinks.audit.journal import AuditUnavailable, Journal
from smtpproxy.sinks.audit.reader import Record, find, read
from tests.kit.disk import fill, tiny_disk
from tests.kit.journal import START, WRITER, Clock, decided, journal, modes, relayed, segments
from tests.kit.parts import needs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "audit"


async def test_a_committed_decision_is_in_the_file(folder: Path, clock: Clock) -> None:
    log = journal(folder, clock)
    entry = decided(clock)
    await log.commit(entry)
    (file,) = segments(folder)
    begin, line = map(json.loads, file.read_text().splitlines())
    assert (begin["entry"]["kind"], begin["entry"]["file"]) == ("begin", file.name)
    assert line["entry"]["id"] == entry.id
    assert find(folder, entry.id) == [Record(entry)]


async def test_a_decision_is_read_back_with_the_facts_it_was_based_on(
    folder: Path, clock: Clock
) -> None:
    act = ConsentAct("offers", START, method="double_opt_in", evidence=Evidence("v3", "192.0.2.7"))
    contact = Contact("a@b.example", occupations=frozenset({"finance"}), acts=(act,))
    suppression = Suppression("marketing", Origin.UNSUBSCRIBE, START, note="née “x”\n\0")
    entry = decided(
        clock,
        facts={"a@b.example": RecipientFacts((suppression,), contact)},
        features=MessageFeatures(from_domains=("shop.example",), one_click=True),
        message_id="<1@shop.example>",
        subject='"id":"x" \\ 🎉 \u2028',
        header_from=None,
    )
    await journal(folder, clock).commit(entry)
    assert find(folder, entry.id)[0].decided == entry


@pytest.mark.parametrize(("sync", "count"), [("os", 1), ("os", 400), ("disk", 50)])
def test_committed_rows_survive_kill_9(folder: Path, sync: str, count: int) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), sync],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    )
    assert writer.stdout is not None
    with writer.stdout:
        acknowledged = [writer.stdout.readline().strip() for _ in range(count)]
        writer.send_signal(signal.SIGKILL)
        acknowledged += writer.stdout.read().split(b"\n")[:-1]
    assert writer.wait(10) == -signal.SIGKILL
    recorded = {record.decided.id for record in read(folder)}
    assert len(acknowledged) >= count
    assert {id.decode() for id in acknowledged} <= recorded


async def test_only_the_owner_may_read_it(folder: Path, clock: Clock) -> None:
    await journal(folder, clock).commit(decided(clock))
    assert modes(folder) == [0o700, 0o600]


async def test_each_worker_writes_its_own_files(folder: Path, clock: Clock) -> None:
    logs = [journal(folder, clock, worker) for worker in range(3)]
    entries = [decided(clock) for _ in logs]
    for log, entry in zip(logs, entries, strict=True):
        await log.commit(entry)
    assert {file.stem.partition("-")[2] for file in segments(folder)} == {"0", "1", "2"}
    assert {record.decided.id for record in read(folder)} == {entry.id for entry in entries}


async def test_a_finished_file_is_never_written_again(folder: Path, clock: Clock) -> None:
    log = journal(folder, clock)
    await log.commit(decided(clock))
    log.close()
    (old,) = segments(folder)
    content = old.read_bytes()
    await journal(folder, clock).commit(decided(clock))
    assert old.read_bytes() == content
    assert len(segments(folder)) == 2


async def test_segments_rotate_by_size(folder: Path, clock: Clock) -> None:
    log = journal(folder, clock, segment_size=5_000)
    entries = []
    for _ in range(50):
        entries.append(decided(clock))
        await log.commit(entries[-1])
        clock.tick(seconds=1)
    sizes = [file.stat().st_size for file in segments(folder)]
    assert len(sizes) > 5
    assert all(5_000 <= size < 7_000 for size in sizes[:-1])
    assert [record.decided for record in read(folder)] == entries
    for entry in entries:
        assert find(folder, entry.id) == [Record(entry)]


async def commit_many(log: Journal, clock: Clock, entries: list[Decided]) -> None:
    for _ in range(1000):
        entry = decided(clock)
        await log.commit(entry)
        entries.append(entry)


@needs("tmpfs")
async def test_a_full_disk_is_an_error_and_leaves_a_readable_file(
    folder: Path, clock: Clock
) -> None:
    with tiny_disk(folder, "64k"):
        log = journal(folder, clock)
        entries: list[Decided] = []
        with pytest.raises(AuditUnavailable, match=r"wrote \d+ of \d+ bytes|No space left"):
            await commit_many(log, clock, entries)
        assert len(entries) > 10
        log.outcome(relayed(entries[0].id))
        with pytest.raises(AuditUnavailable):
            await log.commit(decided(clock))
        assert [record.decided for record in read(folder)] == entries
        assert segments(folder)[0].read_bytes().endswith(b"\n")


@needs("tmpfs")
@pytest.mark.parametrize("sync", ["os", "disk"])
async def test_the_journal_continues_once_the_disk_has_room(
    folder: Path, clock: Clock, sync: str
) -> None:
    with tiny_disk(folder, "64k"):
        log = journal(folder, clock, sync=sync)
        before = decided(clock)
        await log.commit(before)
        log.outcome(relayed(before.id))
        filler = fill(folder)
        with pytest.raises(AuditUnavailable):
            await commit_many(log, clock, [])
        filler.unlink()
        after = decided(clock)
        await log.commit(after)
        records = {record.decided.id: record for record in read(folder)}
        assert {before.id, after.id} <= set(records)
        outcome = records[before.id].outcome
        assert outcome is not None
        assert outcome.code == 250
        log.close()


async def test_a_missing_folder_is_an_error(clock: Clock) -> None:
    with pytest.raises(AuditUnavailable):
        await journal(Path(__file__), clock).commit(decided(clock))


def take_away(file: Path, what: str) -> None:
    if what == "file removed":
        file.unlink()
    elif what == "file moved":
        file.rename(file.parents[1] / file.name)
    else:
        file.parent.rename(file.parents[1] / "moved")


@pytest.mark.parametrize("what", ["file removed", "file moved", "folder moved"])
async def test_a_moved_file_is_not_written_any_further(
    folder: Path, clock: Clock, what: str
) -> None:
    """Nobody would find the rows."""
    log = journal(folder, clock)
    await log.commit(decided(clock))
    (file,) = segments(folder)
    take_away(file, what)
    after = [decided(clock), decided(clock)]
    for each in after:
        await log.commit(each)
    (new,) = segments(folder)
    assert new.name != file.name
    assert [record.decided for record in read(folder)] == after
    begin = json.loads(new.read_text().splitlines()[0])
    assert begin["entry"]["after"]["file"] == file.name  # so that verify reports it as missing
    log.close()


async def test_a_decision_that_hit_a_bug_is_not_recorded_later(
    folder: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had no effect: the client was answered 421."""
    log = journal(folder, clock)
    before, faulty, after = decided(clock), decided(clock), decided(clock)
    await log.commit(before)

    def broken(*_: object) -> None:
        raise ZeroDivisionError("a fault")

    with monkeypatch.context() as patch:
        patch.setattr("smtpproxy.sinks.audit.segment.SegmentWriter.append", broken)
        with pytest.raises(ZeroDivisionError):
            await log.commit(faulty)
    await log.commit(after)
    assert [record.decided for record in read(folder)] == [before, after]
    log.close()
