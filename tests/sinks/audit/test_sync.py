"""The audit journal with sync = "disk": what waits for the disk, and for how long."""

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from smtpproxy.sinks.audit.journal import AuditUnavailable
from smtpproxy.sinks.audit.reader import read
from tests.kit.journal import Clock, decided, journal, segments
from tests.kit.ports import wait_for


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "audit"


class Disk:
    """Stands in for fdatasync: counts calls, and waits if told to."""

    def __init__(self) -> None:
        self.calls = 0
        self.error: Exception | None = None
        self.tells_once = False
        self.go = threading.Event()
        self.go.set()

    def __call__(self, file: int) -> None:
        self.calls += 1
        assert self.go.wait(10)
        error = self.error
        if self.tells_once:
            self.error = None
        if error is not None:
            raise error
        REAL_FDATASYNC(file)


REAL_FDATASYNC = os.fdatasync


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    fake = Disk()
    monkeypatch.setattr(os, "fdatasync", fake)
    yield fake
    fake.go.set()


async def test_sync_os_does_not_wait_for_the_disk(folder: Path, clock: Clock, disk: Disk) -> None:
    log = journal(folder, clock, sync="os", segment_size=1000)
    for _ in range(5):
        await log.commit(decided(clock))
    log.close()
    assert disk.calls == 0


async def test_sync_disk_returns_once_the_row_is_on_the_disk(
    folder: Path, clock: Clock, disk: Disk
) -> None:
    disk.go.clear()
    log = journal(folder, clock, sync="disk")
    commit = asyncio.ensure_future(log.commit(decided(clock)))
    await asyncio.to_thread(wait_for, lambda: disk.calls, "fdatasync")
    assert not commit.done()
    disk.go.set()
    await asyncio.wait_for(commit, 5)


async def test_all_waiting_rows_share_one_fdatasync(folder: Path, clock: Clock, disk: Disk) -> None:
    disk.go.clear()
    log = journal(folder, clock, sync="disk")
    commits = [asyncio.ensure_future(log.commit(decided(clock)))]
    await asyncio.to_thread(wait_for, lambda: disk.calls, "fdatasync")
    commits += [asyncio.ensure_future(log.commit(decided(clock))) for _ in range(200)]
    await asyncio.sleep(0)  # they are written and waiting
    disk.go.set()
    await asyncio.wait_for(asyncio.gather(*commits), 5)
    assert disk.calls == 2
    assert len(list(read(folder))) == 201


async def test_a_line_written_during_fdatasync_waits_for_the_next(
    folder: Path, clock: Clock, disk: Disk
) -> None:
    disk.go.clear()
    log = journal(folder, clock, sync="disk")
    first = asyncio.ensure_future(log.commit(decided(clock)))
    await asyncio.to_thread(wait_for, lambda: disk.calls, "fdatasync")
    second = asyncio.ensure_future(log.commit(decided(clock)))
    await asyncio.sleep(0)
    disk.go.set()
    await asyncio.wait_for(first, 5)
    await asyncio.wait_for(second, 5)
    assert disk.calls == 2


async def test_a_failing_disk_fails_all_waiting_rows(
    folder: Path, clock: Clock, disk: Disk
) -> None:
    log = journal(folder, clock, sync="disk")
    disk.error = OSError(5, "Input/output error")
    commits = [log.commit(decided(clock)) for _ in range(3)]
    outcomes = await asyncio.gather(*commits, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [AuditUnavailable] * 3
    disk.error = None
    await log.commit(decided(clock))


async def test_leaving_a_segment_during_fdatasync_does_no_harm(
    folder: Path, clock: Clock, disk: Disk
) -> None:
    log = journal(folder, clock, sync="disk", segment_size=1)
    commits = [log.commit(decided(clock)) for _ in range(20)]
    await asyncio.wait_for(asyncio.gather(*commits), 10)
    assert len(segments(folder)) == 20
    assert len(list(read(folder))) == 20


async def test_nothing_waits_for_ever_whatever_goes_wrong(
    folder: Path, clock: Clock, disk: Disk
) -> None:
    log = journal(folder, clock, sync="disk")
    await log.commit(decided(clock))
    disk.error = RuntimeError("cannot schedule new futures after shutdown")
    with pytest.raises(AuditUnavailable, match="cannot schedule"):
        await asyncio.wait_for(log.commit(decided(clock)), 5)
    disk.error = None
    await asyncio.wait_for(log.commit(decided(clock)), 5)
    log.close()


async def test_what_was_written_while_the_disk_failed_is_not_on_it(
    folder: Path, clock: Clock, disk: Disk
) -> None:
    """fdatasync reports a loss once: the next call would say that all is well."""
    log = journal(folder, clock, sync="disk")
    disk.go.clear()
    first = asyncio.ensure_future(log.commit(decided(clock)))
    await asyncio.to_thread(wait_for, lambda: disk.calls, "fdatasync")
    second = asyncio.ensure_future(log.commit(decided(clock)))
    await asyncio.sleep(0)
    disk.error, disk.tells_once = OSError(5, "Input/output error"), True
    disk.go.set()
    with pytest.raises(AuditUnavailable):
        await asyncio.wait_for(first, 5)
    with pytest.raises(AuditUnavailable):
        await asyncio.wait_for(second, 5)
    await asyncio.wait_for(log.commit(decided(clock)), 5)


@pytest.mark.parametrize("asked", [False, True], ids=["full", "asked"])
async def test_nor_is_what_was_written_to_a_file_that_could_not_be_closed(
    folder: Path, clock: Clock, disk: Disk, asked: bool
) -> None:
    log = journal(folder, clock, sync="disk", segment_size=10**6 if asked else 1)
    first = asyncio.ensure_future(log.commit(decided(clock)))
    disk.error = OSError(5, "Input/output error")
    if asked:
        log.rotate()
    else:
        with pytest.raises(AuditUnavailable):
            await log.commit(decided(clock))
    disk.error = None
    with pytest.raises(AuditUnavailable):
        await asyncio.wait_for(first, 5)
    await asyncio.wait_for(log.commit(decided(clock)), 5)
