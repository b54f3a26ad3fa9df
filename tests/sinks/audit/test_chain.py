"""The chain continues through restarts, crashes, full disks and clocks set back."""

import asyncio
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from smtpproxy.events import Decided, JudgedRecipient
from smtpproxy.policy.model import MessageFeatures, RecipientFacts, Suppression, Verdict
from smtpproxy.sinks.audit import anchor_scheduler as journal_scheduler
from smtpproxy.sinks.audit import anchors
from smtpproxy.sinks.audit.anchors import AnchorRow
from smtpproxy.sinks.audit.chain import Kind, Report
from smtpproxy.sinks.audit.journal import AuditUnavailable
from smtpproxy.sinks.audit.reader import Record, find, read
from smtpproxy.sinks.audit.verify import verify
from tests.kit import traffic
from tests.kit.disk import fill, tiny_disk
from tests.kit.journal import START, WRITER, Clock, decided, journal, relayed, segments
from tests.kit.journal import anchors as taken
from tests.kit.parts import needs
from tests.kit.ports import wait_for


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "audit"


def lines(folder: Path) -> list[dict[str, Any]]:
    """All whole lines: kill -9 may tear the last line of a file, which `verify` reports."""
    found = [line for path in segments(folder) for line in path.open("rb")]
    return [json.loads(line) for line in found if line.endswith(b"\n")]


def sound(folder: Path) -> Report:
    report = verify(folder)
    assert list(report.faults()) == []
    return report


def kinds(report: Report) -> list[Kind]:
    return [finding.kind for finding in report.findings]


# what a line holds


async def test_numbers_ascend_over_files_and_restarts(folder: Path, clock: Clock) -> None:
    for _ in range(3):
        log = journal(folder, clock, segment_size=2_000)
        for _ in range(5):
            await log.commit(decided(clock))
            clock.tick(seconds=1)
        log.close()
    assert len(segments(folder)) > 5
    assert [line["n"] for line in lines(folder)] == list(range(1, len(lines(folder)) + 1))
    sound(folder)


async def test_the_first_line_of_a_file_refers_to_the_last_of_the_previous_one(
    folder: Path, clock: Clock
) -> None:
    for _ in range(2):
        log = journal(folder, clock)
        await log.commit(decided(clock))
        log.close()
        clock.tick(seconds=1)
    first, second = segments(folder)
    last = json.loads(first.read_bytes().splitlines()[-1])
    begin = json.loads(second.read_bytes().splitlines()[0])["entry"]
    assert begin["after"] == {"file": first.name, "n": last["n"], "hash": last["hash"]}
    newest = [anchor.head for anchor in taken(folder) if anchor.row.at <= START]
    assert begin["anchor"] == {"n": newest[-1].n, "hash": newest[-1].hash}


def detailed(person: str) -> Verdict:
    return msgspec.structs.replace(traffic.ALLOWED, detail=f"of {person}")


def message(clock: Clock, *people: str, **over: Any) -> Decided:
    """A decision with every field that may be personal."""
    known = RecipientFacts((Suppression("marketing", "manual", START, note="of {0}"),))
    entry = decided(
        clock,
        recipients=tuple(
            JudgedRecipient(person.title(), person, detailed(person)) for person in people
        ),
        facts=dict.fromkeys(people, known),
        features=MessageFeatures(unsubscribe_https=("https://shop.example/u/secret",)),
        reverse_path="bounce+secret@shop.example",
        message_id="<secret@shop.example>",
        subject="secret",
        header_from="secret <news@shop.example>",
        **over,
    )
    verdicts = tuple(recipient.verdict for recipient in entry.recipients)
    decision = msgspec.structs.replace(entry.decision, recipients=verdicts)
    return msgspec.structs.replace(entry, decision=decision)


@pytest.mark.parametrize("count", [1, 2, 5])
async def test_personal_data_is_in_a_part_of_its_own_only(
    folder: Path, clock: Clock, count: int
) -> None:
    people = [f"person{number}@people.example" for number in range(count)]
    entry = message(clock, *people)
    await journal(folder, clock).commit(entry)
    (record,) = find(folder, entry.id)
    assert record.decided == entry
    line = lines(folder)[1]
    assert len(line["personal"]) == (1 if count == 1 else 1 + count)
    assert len({part["salt"] for part in line["personal"]}) == len(line["personal"])
    open_part = json.dumps({name: line[name] for name in line if name != "personal"}).casefold()
    for secret in ("person", "secret", "@"):
        assert secret not in open_part


async def test_a_reply_that_names_a_person_is_personal_too(folder: Path, clock: Clock) -> None:
    log = journal(folder, clock)
    entry = decided(clock)
    await log.commit(entry)
    reply = "550 5.1.1 <a@b.example> unknown"
    log.outcome(msgspec.structs.replace(relayed(entry.id, 550), reply=reply))
    log.close()
    assert "a@b.example" not in json.dumps(lines(folder)[2]["entry"])
    (record,) = find(folder, entry.id)
    assert record.outcome is not None
    assert (record.outcome.code, record.outcome.reply) == (550, reply)
    assert list(read(folder, recipient="a@b.example")) == [record]


def test_every_field_of_a_decision_is_on_record(clock: Clock) -> None:
    """A field added to `Decided` must be given a place in the lines."""
    from smtpproxy.sinks.audit.lines import DecisionEntry, Personal

    kept = set(DecisionEntry.__struct_fields__) | set(Personal.__struct_fields__)
    elsewhere = {"decision"}  # stream, rulebook, verdicts and details, one by one
    assert set(Decided.__struct_fields__) - elsewhere <= kept


# crashes


def test_the_chain_continues_after_kill_9(folder: Path) -> None:
    counts = (30, 300, 30)
    for count in counts:
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder), "os"],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[3],
        )
        assert writer.stdout is not None
        with writer.stdout:
            for _ in range(count):
                writer.stdout.readline()
            writer.kill()
        writer.wait(10)
    report = sound(folder)
    assert report.decisions >= sum(counts)
    assert [line["n"] for line in lines(folder)] == list(range(1, report.lines + 1))


@pytest.mark.parametrize("torn", [1, 20, 70, 300, 500])
async def test_a_torn_end_is_distinguished_from_tampering(
    folder: Path, clock: Clock, torn: int
) -> None:
    log = journal(folder, clock)
    for _ in range(3):
        await log.commit(decided(clock))
    log.close()
    (path,) = segments(folder)
    line = path.read_bytes().splitlines(keepends=True)[-1]
    with path.open("ab") as file:
        file.write(line[:torn])
    assert kinds(sound(folder)) == [Kind.TORN]
    clock.tick(seconds=1)
    log = journal(folder, clock)
    await log.commit(decided(clock))
    log.close()
    report = sound(folder)
    assert kinds(report) == [Kind.TORN]
    assert report.findings[0].file == path.name
    assert f"{torn} octet" in report.findings[0].what


async def test_a_crash_at_the_start_of_a_file_does_no_harm(folder: Path, clock: Clock) -> None:
    log = journal(folder, clock)
    await log.commit(decided(clock))
    log.close()
    begin = segments(folder)[0].read_bytes().splitlines()[0]
    for left in (b"", begin[:50]):
        clock.tick(seconds=1)
        (folder / f"{clock.new_id()}-0.ndjson").write_bytes(left)
        clock.tick(seconds=1)
        log = journal(folder, clock)
        await log.commit(decided(clock))
        log.close()
    assert kinds(sound(folder)) == [Kind.TORN]


@pytest.mark.parametrize("left", [b'{"hash":"', b"\0" * 600], ids=["torn", "zeros"])
async def test_nor_does_one_at_the_start_of_the_first_file(
    folder: Path, clock: Clock, left: bytes
) -> None:
    await asyncio.to_thread(folder.mkdir)
    (folder / f"{clock.new_id()}-0.ndjson").write_bytes(left)
    clock.tick(seconds=1)
    log = journal(folder, clock)
    await log.commit(decided(clock))
    log.close()
    assert kinds(sound(folder)) == [Kind.TORN]


async def test_setting_the_clock_back_does_not_mix_up_the_files(folder: Path, clock: Clock) -> None:
    entries = []
    for hours in (0, -5, 3):
        clock.tick(hours=hours)
        clock = Clock() if hours else clock
        clock.tick(hours=hours)
        log = journal(folder, clock)
        entries.append(decided(clock))
        await log.commit(entries[-1])
        log.close()
    sound(folder)
    assert [record.decided for record in read(folder)] == entries


async def test_a_damaged_last_line_is_found_and_mail_goes_on(folder: Path, clock: Clock) -> None:
    log = journal(folder, clock)
    for _ in range(3):
        await log.commit(decided(clock))
    log.close()
    (path,) = segments(folder)
    with path.open("ab") as file:
        file.write(b"\0" * 500 + b"\n")
    clock.tick(seconds=1)
    await journal(folder, clock).commit(decided(clock))
    assert [finding.kind for finding in verify(folder).faults()] == [Kind.UNREADABLE]


@needs("tmpfs")
async def test_the_chain_continues_after_a_full_disk(folder: Path, clock: Clock) -> None:
    with tiny_disk(folder, "96k"):
        log = journal(folder, clock, segment_size=20_000)
        refused = 0
        for _ in range(4):
            filler = fill(folder)
            for _ in range(20):
                try:
                    entry = decided(clock, subject="x" * 700)
                    await log.commit(entry)
                    log.outcome(relayed(entry.id))
                except AuditUnavailable:
                    refused += 1
            filler.unlink()
            for _ in range(3):
                entry = decided(clock)
                await log.commit(entry)
                log.outcome(relayed(entry.id))
                clock.tick(seconds=1)
        log.close()
        assert refused > 20
        assert kinds(sound(folder)) == []
        clock.tick(seconds=1)
        await journal(folder, clock).commit(decided(clock))
        sound(folder)


class ShortDisk:
    """Stands in for os.write: takes only `take` octets of the next write."""

    def __init__(self, take: int) -> None:
        self.take: int | None = take

    def __call__(self, file: int, data: bytes) -> int:
        take, self.take = self.take, None
        return REAL_WRITE(file, data if take is None else data[:take])


REAL_WRITE = __import__("os").write


@pytest.mark.parametrize("truncates", [True, False])
@pytest.mark.parametrize("take", [0, 1, 100, 240, 400, 700])
async def test_a_short_write_leaves_whole_lines(
    folder: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, take: int, truncates: bool
) -> None:
    """Even if it cannot be undone: then the file is left, and its end recorded as torn."""
    log = journal(folder, clock)
    first, refused, last = (decided(clock) for _ in range(3))
    await log.commit(first)
    reply = "250 2.0.0 <a@b.example> queued"  # on a line of its own
    log.outcome(msgspec.structs.replace(relayed(first.id), reply=reply))
    clock.tick(seconds=1)

    def fails(file: int, size: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("os.write", ShortDisk(take))
        if not truncates:
            patch.setattr("os.ftruncate", fails)
        with pytest.raises(AuditUnavailable):
            await log.commit(refused)
    await log.commit(last)
    log.close()
    assert [record.decided for record in read(folder)] in ([first, last], [last, first])
    assert find(folder, first.id)[0].outcome is not None
    torn = [] if truncates or not take else [Kind.TORN]
    assert kinds(sound(folder)) in (torn, [])
    assert len(segments(folder)) == (1 if truncates else 2)


async def test_two_relays_in_one_folder_do_not_fork_the_chain(folder: Path, clock: Clock) -> None:
    logs = [journal(folder, clock) for _ in range(2)]
    for _ in range(3):
        for log in logs:
            await log.commit(decided(clock))
            clock.tick(seconds=1)
    for log in logs:
        log.close()
    assert len({path.stem.partition("-")[2] for path in segments(folder)}) == 2
    sound(folder)


# anchors


async def test_an_anchor_that_is_not_on_the_disk_is_not_there(
    folder: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one would continue from a row that a power cut may take away."""
    log = journal(folder, clock)
    await log.commit(decided(clock))
    log.close()
    before = (folder / "anchors.ndjson").read_bytes()

    def fails(file: int) -> None:
        if "anchors" in str(Path(f"/proc/self/fd/{file}").readlink()):
            raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fails)
        with pytest.raises(OSError, match="Input/output"):
            anchors.take(folder, "asked", clock.now)
    assert (folder / "anchors.ndjson").read_bytes() == before
    clock.tick(seconds=1)
    anchors.take(folder, "asked", clock.now)
    sound(folder)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_scheduler, "CHECK_SECONDS", 0.02)
    monkeypatch.setattr(journal_scheduler, "ANCHOR_SECONDS", 0.05)


def why(folder: Path) -> list[str]:
    if not (folder / "anchors.ndjson").exists():
        return []
    return [anchor.row.why for anchor in taken(folder) if isinstance(anchor.row, AnchorRow)]


async def until(condition: Any, what: str) -> None:
    await asyncio.to_thread(wait_for, condition, what, timeout=30)


async def test_no_anchor_follows_the_final_one(
    folder: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    under_way, take = threading.Event(), journal_scheduler.take

    def slowly(*args: Any, **options: Any) -> Any:
        under_way.set()
        time.sleep(0.1)
        return take(*args, **options)

    monkeypatch.setattr(journal_scheduler, "take", slowly)
    log = journal(folder, clock)
    await log.commit(decided(clock))
    await asyncio.to_thread(under_way.wait, 10)
    log.close()
    assert why(folder) == ["begin", "end"]
    log = journal(folder, clock)
    await log.commit(decided(clock))
    log.close()  # before the thread has started, or after it has finished
    await asyncio.sleep(0.3)
    assert why(folder)[-1] == "end"


async def test_anchors_are_taken_at_the_start_while_there_is_news_and_at_the_end(
    folder: Path, clock: Clock, quick: None
) -> None:
    log = journal(folder, clock)
    await log.commit(decided(clock))
    await until(lambda: why(folder) == ["begin"], "the first anchor")
    clock.tick(minutes=2)
    await log.commit(decided(clock))
    await until(lambda: why(folder) == ["begin", "time"], "an anchor of the time")
    await asyncio.sleep(0.3)
    assert why(folder) == ["begin", "time"], "without news there is no anchor"
    log.close()
    assert why(folder) == ["begin", "time", "end"]
    newest = anchors.newest(folder)
    assert newest is not None
    assert newest.row.heads["0"].n == lines(folder)[-1]["n"]
    assert sound(folder).compared >= 3


async def test_rows_written_while_an_anchor_is_taken_count_as_news(
    folder: Path, clock: Clock, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_go_on, take = threading.Event(), journal_scheduler.take

    def taken_slowly(*args: Any, **options: Any) -> anchors.Anchor | None:
        anchor = take(*args, **options)
        assert may_go_on.wait(30)
        return anchor

    monkeypatch.setattr(journal_scheduler, "take", taken_slowly)
    log = journal(folder, clock)
    await log.commit(decided(clock))
    await until(lambda: why(folder) == ["begin"], "the first anchor")
    clock.tick(minutes=2)
    await log.commit(decided(clock))  # the scheduler does not know its anchor yet
    may_go_on.set()
    await until(lambda: why(folder) == ["begin", "time"], "an anchor of the time")
    log.close()


async def test_many_rows_cause_an_anchor(
    folder: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_scheduler, "CHECK_SECONDS", 0.02)
    monkeypatch.setattr(journal_scheduler, "ANCHOR_LINES", 5)
    log = journal(folder, clock)
    await log.commit(decided(clock))
    await until(lambda: why(folder) == ["begin"], "the first anchor")
    for _ in range(8):
        await log.commit(decided(clock))
    await until(lambda: why(folder) == ["begin", "lines"], "an anchor of the lines")
    log.close()


async def test_an_anchor_is_in_the_log_without_any_address(folder: Path, clock: Clock) -> None:
    log = journal(folder, clock)
    await log.commit(decided(clock))
    with capture_logs() as logged:
        log.close()
    (entry,) = logged
    newest = anchors.newest(folder)
    assert newest is not None
    assert (entry["event"], entry["log_level"]) == ("audit anchor", "info")
    assert (entry["n"], entry["hash"]) == (newest.n, newest.hash)
    assert "@" not in str(entry)


async def test_an_anchor_that_cannot_be_written_does_not_stop_mail(
    folder: Path, clock: Clock
) -> None:
    (folder / "anchors.ndjson").mkdir(parents=True)
    log = journal(folder, clock)
    with capture_logs() as logged:
        entry = decided(clock)
        await log.commit(entry)
        log.close()
    assert find(folder, entry.id) == [Record(entry)]
    assert [line["event"] for line in logged] == ["no audit anchor"]


async def test_an_anchor_cut_short_by_a_crash_does_not_count(folder: Path, clock: Clock) -> None:
    log = journal(folder, clock)
    await log.commit(decided(clock))
    log.close()
    path = folder / "anchors.ndjson"
    with path.open("ab") as file:
        file.write(path.read_bytes()[:100])
    assert kinds(sound(folder)) == [Kind.TORN]
    clock.tick(seconds=1)
    log = journal(folder, clock)
    await log.commit(decided(clock))
    log.close()
    assert kinds(sound(folder)) == []
