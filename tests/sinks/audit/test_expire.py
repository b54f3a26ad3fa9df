"""Retention: whole files are deleted after their period, and the chain records that."""

import json
from datetime import timedelta
from pathlib import Path

import pytest

from smtpproxy.sinks.audit.chain import Kind, Report
from smtpproxy.sinks.audit.expire import Expired, expirable, expire
from smtpproxy.sinks.audit.reader import read
from smtpproxy.sinks.audit.verify import verify
from tests.kit.journal import START, Clock, decided, journal, segments

DAY = timedelta(days=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "audit"


async def write_days(folder: Path, clock: Clock, days: int, worker: int = 0) -> None:
    """Write a file for each day, with three decisions."""
    for _ in range(days):
        log = journal(folder, clock, worker)
        for _ in range(3):
            await log.commit(decided(clock))
        log.close()
        clock.tick(days=1)


def sound(folder: Path) -> Report:
    report = verify(folder)
    assert list(report.faults()) == []
    return report


@pytest.mark.parametrize("days", [0, 1, 2.5, 3, 4])
async def test_files_with_only_old_lines_are_deleted(
    folder: Path, clock: Clock, days: float
) -> None:
    """The file of a day ends where that of the next begins."""
    await write_days(folder, clock, 5)
    before = START + timedelta(days=days)
    promised = expirable(folder, before)
    count = len(segments(folder))
    expired = expire(folder, before, now=clock.now)
    assert expired == promised
    assert len(expired.files) == int(days)
    assert (expired.lines, expired.octets > 0) == (4 * int(days), days >= 1)
    assert len(segments(folder)) == count - int(days)
    assert all(record.decided.at >= before - DAY for record in read(folder))
    assert [finding.kind for finding in sound(folder).notes()] == [Kind.EXPIRED] * (days >= 1)
    assert expire(folder, before) == Expired()


@pytest.mark.parametrize("years", [-20, 20])
async def test_a_wrong_clock_does_not_change_how_long_files_are_kept(
    folder: Path, clock: Clock, years: int
) -> None:
    """A clock that was ahead puts its time into the name of every later file."""
    wrong = timedelta(days=365 * years)
    await write_days(folder, clock, 2)
    clock.tick(days=wrong.days)
    await write_days(folder, clock, 1)
    clock.tick(days=-wrong.days)
    await write_days(folder, clock, 3)
    before = START + 4 * DAY
    assert len(expirable(folder, before, now=clock.now).files) == 4
    assert len(expire(folder, before, now=clock.now).files) == 4
    assert len(segments(folder)) == 2
    assert list(verify(folder, now=clock.now()).faults()) == []


async def test_a_file_is_kept_for_its_last_correctly_dated_lines(
    folder: Path, clock: Clock
) -> None:
    log = journal(folder, clock)
    for days in (0, 20, 4_000):
        clock.tick(days=days)
        await log.commit(decided(clock))
    log.close()
    await write_days(folder, clock, 1)
    clock.tick(days=-4_000)
    await write_days(folder, clock, 1)
    kept = [expirable(folder, START + days * DAY, now=clock.now).lines for days in (19, 21)]
    assert kept == [0, 8]


@pytest.mark.parametrize(("days", "asked"), [(29, False), (31, True), (-400, True)])
async def test_a_file_is_written_for_a_month_at_most(
    folder: Path, clock: Clock, days: int, asked: bool
) -> None:
    """Its first lines could not expire before its last."""
    log = journal(folder, clock)
    await log.commit(decided(clock))
    clock.tick(days=days)
    expire(folder, START - 9 * DAY, now=clock.now)
    assert (folder / "rotate").exists() == asked
    log.close()
    (folder / "rotate").unlink(missing_ok=True)
    expire(folder, START - 9 * DAY, now=clock.now)
    assert not (folder / "rotate").exists(), "nobody writes to it"


async def test_a_file_deleted_without_a_record_is_detected(folder: Path, clock: Clock) -> None:
    await write_days(folder, clock, 5)
    expire(folder, START + 2 * DAY, now=clock.now)
    segments(folder)[0].unlink()
    (finding,) = verify(folder).faults()
    assert finding.kind is Kind.MISSING
    assert "rows 9 to 12 are missing" in finding.what


async def test_a_record_of_retention_cannot_be_invented(folder: Path, clock: Clock) -> None:
    await write_days(folder, clock, 3)
    expire(folder, START + DAY, now=clock.now)
    path = folder / "anchors.ndjson"
    gone = segments(folder)[0]
    last = json.loads(gone.read_bytes().splitlines()[-1])
    text = path.read_text()
    row = next(line for line in text.splitlines() if '"kind":"expired"' in line)
    old = json.loads(row)["entry"]["files"][0]["last"]
    forged = row.replace(f'"n":{old["n"]}', f'"n":{last["n"]}').replace(old["hash"], last["hash"])
    assert forged != row
    path.write_text(text.replace(row, forged))
    gone.unlink()
    assert Kind.ANCHOR in [finding.kind for finding in verify(folder).faults()]


async def test_the_last_file_of_a_former_worker_expires_too(folder: Path, clock: Clock) -> None:
    await write_days(folder, clock, 1, worker=1)
    await write_days(folder, clock, 3, worker=0)
    assert len(expire(folder, START + 2 * DAY, now=clock.now).files) == 2
    assert {path.stem[-1] for path in segments(folder)} == {"0"}
    sound(folder)


async def test_the_chain_continues_after_everything_has_expired(folder: Path, clock: Clock) -> None:
    await write_days(folder, clock, 2)
    expire(folder, START + 9 * DAY, now=clock.now)
    assert segments(folder) == []
    sound(folder)
    await write_days(folder, clock, 2)
    report = sound(folder)
    assert [finding.kind for finding in report.notes()] == [Kind.EXPIRED]
    first = json.loads(segments(folder)[0].read_bytes().splitlines()[0])
    assert first["n"] == 9
    segments(folder)[0].unlink()
    assert verify(folder).wrong == 1


async def test_the_file_being_written_is_kept(folder: Path, clock: Clock) -> None:
    log = journal(folder, clock)
    await log.commit(decided(clock))
    assert expire(folder, START + 9 * DAY) == Expired()
    log.close()
    assert len(expire(folder, START + 9 * DAY).files) == 1


async def test_a_crash_before_the_deletion_is_made_up_for(
    folder: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write_days(folder, clock, 3)

    def crash(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", crash)
        with pytest.raises(KeyboardInterrupt):
            expire(folder, START + 2 * DAY, now=clock.now)
    sound(folder)
    assert len(expire(folder, START + 2 * DAY, now=clock.now).files) == 2
    sound(folder)


def test_an_empty_folder_has_nothing_to_delete(folder: Path) -> None:
    assert expire(folder, START) == Expired() == expirable(folder, START)
    assert not folder.exists()
