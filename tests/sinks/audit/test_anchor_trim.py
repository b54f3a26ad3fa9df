"""Anchors that no file refers to any more are deleted, and the chain records that."""

import json
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from smtpproxy.sinks.audit import anchors as anchor_log
from smtpproxy.sinks.audit.chain import Head, Kind, Report
from smtpproxy.sinks.audit.erase import pseudonymise
from smtpproxy.sinks.audit.expire import expire, trim
from smtpproxy.sinks.audit.files import ANCHORS, locked
from smtpproxy.sinks.audit.verify import verify
from tests.kit.journal import START, Clock, anchors, decided, journal, segments

DAY = timedelta(days=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "audit"


async def write_days(folder: Path, clock: Clock, days: int) -> None:
    """Write a file for each day, with three decisions and some anchors."""
    for _ in range(days):
        log = journal(folder, clock)
        for _ in range(3):
            await log.commit(decided(clock))
            anchor_log.take(folder, "asked", clock.now)
        log.close()
        clock.tick(days=1)


def sound(folder: Path) -> Report:
    report = verify(folder)
    assert list(report.faults()) == []
    return report


def first_anchor(folder: Path) -> int:
    return anchors(folder)[0].n


async def test_anchors_go_with_the_files_that_refer_to_them(folder: Path, clock: Clock) -> None:
    await write_days(folder, clock, 6)
    before = anchors(folder)
    expire(folder, START + 4 * DAY, now=clock.now)
    cut = trim(folder, now=clock.now, worth=1)
    assert cut > 0
    assert [a.head for a in anchors(folder)][: len(before) - cut] == [a.head for a in before[cut:]]
    assert anchors(folder)[0].row.at >= START + 3 * DAY
    notes = [finding.kind for finding in sound(folder).notes()]
    assert notes == [Kind.EXPIRED]
    await write_days(folder, clock, 2)
    sound(folder)


async def test_repeated_trimming_keeps_what_counts(folder: Path, clock: Clock) -> None:
    """Rows expired or erased long ago are still recognised as such."""
    await write_days(folder, clock, 4)
    log = journal(folder, clock)
    await log.commit(decided(clock, "anna@people.example"))
    log.close()
    pseudonymise(folder, "anna@people.example", now=clock.now)
    await write_days(folder, clock, 3)
    trimmed = 0
    for days in (1, 2, 3):
        expire(folder, START + days * DAY, now=clock.now)
        trimmed += trim(folder, now=clock.now, worth=1)
        report = sound(folder)
        assert {finding.kind for finding in report.notes()} == {Kind.EXPIRED, Kind.ERASED}
        assert report.erased == 1
    assert first_anchor(folder) == trimmed + 1
    expire(folder, START + 99 * DAY, now=clock.now)
    assert segments(folder) == []
    trim(folder, now=clock.now, worth=1)
    assert len(anchors(folder)) == 2, "the newest, and the record of trimming"
    sound(folder)
    await write_days(folder, clock, 1)
    sound(folder)
    segments(folder)[0].unlink()
    assert verify(folder).wrong == 1


async def test_expired_files_of_a_former_worker_are_known_after_every_trimming(
    folder: Path, clock: Clock
) -> None:
    for comes in (True, False, False, True, False, False):
        if comes:
            other = journal(folder, clock, 1)
            await other.commit(decided(clock))
            other.close()
        await write_days(folder, clock, 3)
        expire(folder, clock.now() - 2 * DAY, now=clock.now)
        assert trim(folder, now=clock.now, worth=1) > 0
        sound(folder)


async def test_anchors_removed_by_hand_are_detected(folder: Path, clock: Clock) -> None:
    await write_days(folder, clock, 3)
    path = folder / ANCHORS
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[2:]))
    assert Kind.ANCHOR in [finding.kind for finding in verify(folder).faults()]


async def test_removing_more_than_recorded_is_detected(folder: Path, clock: Clock) -> None:
    await write_days(folder, clock, 6)
    expire(folder, START + 2 * DAY, now=clock.now)
    trim(folder, now=clock.now, worth=1)
    path = folder / ANCHORS
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[1:]))
    assert Kind.ANCHOR in [finding.kind for finding in verify(folder).faults()]


async def test_a_record_of_trimming_cannot_be_invented(folder: Path, clock: Clock) -> None:
    await write_days(folder, clock, 6)
    expire(folder, START + 2 * DAY, now=clock.now)
    trim(folder, now=clock.now, worth=1)
    path = folder / ANCHORS
    first = anchors(folder)[0]
    text = path.read_text()
    row = next(line for line in text.splitlines() if '"kind":"trimmed"' in line)
    old = json.loads(row)["entry"]["last"]
    forged = row.replace(f'"n":{old["n"]}', f'"n":{first.n}').replace(old["hash"], first.hash)
    lines = text.replace(row, forged).splitlines(keepends=True)[1:]
    path.write_text("".join(lines))
    assert Kind.ANCHOR in [finding.kind for finding in verify(folder).faults()]


async def test_copies_of_trimmed_anchors_are_accepted(folder: Path, clock: Clock) -> None:
    """The log collector has them all, and still proves the remaining ones."""
    await write_days(folder, clock, 6)
    copies = [anchor.head for anchor in anchors(folder)]
    expire(folder, START + 4 * DAY, now=clock.now)
    cut = trim(folder, now=clock.now, worth=1)
    assert list(verify(folder, kept=copies).faults()) == []
    for n in (cut, cut + 1):
        wrong = Head(n, "f" * 64)
        (finding,) = verify(folder, kept=[wrong]).faults()
        assert finding.kind is Kind.ANCHOR


async def test_a_crash_leaves_either_all_anchors_or_the_trimmed_file(
    folder: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write_days(folder, clock, 4)
    log = journal(folder, clock)
    await log.commit(decided(clock, "anna@people.example"))
    log.close()
    pseudonymise(folder, "anna@people.example", now=clock.now)
    await write_days(folder, clock, 2)
    expire(folder, START + 2 * DAY, now=clock.now)
    trim(folder, now=clock.now, worth=1)
    expire(folder, START + 3 * DAY, now=clock.now)

    def crash(path: Path, target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", crash)
        with pytest.raises(KeyboardInterrupt):
            trim(folder, now=clock.now, worth=1)
    assert sound(folder).erased == 1
    assert trim(folder, now=clock.now, worth=1) > 0
    assert sound(folder).erased == 1


async def test_a_writer_waiting_for_the_anchors_writes_to_the_new_file(
    folder: Path, clock: Clock
) -> None:
    """The file is replaced meanwhile: nothing may be written to the old one."""
    await write_days(folder, clock, 4)
    expire(folder, START + 2 * DAY, now=clock.now)
    taken = []

    def wait_and_take() -> None:
        taken.append(anchor_log.take(folder, "asked", clock.now))

    with locked(folder / ANCHORS):
        waiting = threading.Thread(target=wait_and_take)
        waiting.start()
        copy = folder / "copy"
        copy.write_bytes((folder / ANCHORS).read_bytes())
        copy.replace(folder / ANCHORS)
    waiting.join(10)
    assert anchors(folder)[-1].head == taken[0].head
    sound(folder)


async def test_a_short_file_is_not_trimmed(folder: Path, clock: Clock) -> None:
    await write_days(folder, clock, 4)
    inode = (folder / ANCHORS).stat().st_ino
    expire(folder, START + 2 * DAY, now=clock.now)
    assert (folder / ANCHORS).stat().st_ino == inode
    assert trim(folder, now=clock.now) == 0
    assert first_anchor(folder) == 1
