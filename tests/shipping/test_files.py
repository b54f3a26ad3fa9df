"""Copies of an audit log in a folder or an object store.

They are complete, verifiable at every moment, and free of erased people.
"""

import asyncio
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from moto.server import ThreadedMotoServer
from msgspec import structs

from smtpproxy.shipping.files import FileShipper, Shipped
from smtpproxy.shipping.position import AlreadyShipping, held
from smtpproxy.shipping.s3 import S3Target
from smtpproxy.shipping.targets import DirectoryTarget, FileTarget, TargetUnavailable, blocks
from smtpproxy.sinks.audit.anchors import take
from smtpproxy.sinks.audit.chain import Kind
from smtpproxy.sinks.audit.erase import pseudonymise
from smtpproxy.sinks.audit.expire import expire
from smtpproxy.sinks.audit.journal import Journal
from smtpproxy.sinks.audit.reader import read
from smtpproxy.sinks.audit.verify import verify
from tests.kit.disk import fill, tiny_disk
from tests.kit.journal import START, Clock, decided, journal, segments
from tests.kit.parts import needs

RELAY = "00112233445566aa"
ANNA = "anna@people.example"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "audit"


@pytest.fixture(scope="module")
def store() -> Iterator[Any]:
    """An object store that boto3 finds through its environment variables."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "eu-west-3",
        }.items():
            patch.setenv(name, value)
        import boto3

        client = boto3.client("s3")
        client.create_bucket(
            Bucket="record", CreateBucketConfiguration={"LocationConstraint": "eu-west-3"}
        )
        yield client
    server.stop()


class InFolder:
    """A target, and its content as a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root / "target"
        self.root.mkdir()

    def open(self) -> FileTarget:
        return DirectoryTarget(self.root, RELAY)

    def copy(self) -> Path:
        return self.root / RELAY


class InObjects:
    def __init__(self, root: Path, client: Any) -> None:
        self._client = client
        self._prefix = root.name
        self._copies = root / "copies"

    def open(self) -> FileTarget:
        return S3Target("record", self._prefix, RELAY)

    def copy(self) -> Path:
        """Download everything, as a synchronization tool would."""
        shutil.rmtree(self._copies, ignore_errors=True)
        folder = self._copies / RELAY
        folder.mkdir(parents=True)
        prefix = f"{self._prefix}/{RELAY}/"
        for one in self._client.list_objects_v2(Bucket="record", Prefix=prefix)["Contents"]:
            path = folder / one["Key"].removeprefix(prefix)
            self._client.download_file("record", one["Key"], str(path))
        return folder


@pytest.fixture(params=["folder", "objects"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> InFolder | InObjects:
    if request.param == "folder":
        return InFolder(tmp_path)
    return InObjects(tmp_path, request.getfixturevalue("store"))


def ship(folder: Path, target: FileTarget, rounds: int = 1) -> Shipped:
    """Ship like one run of the command, which remembers only its position."""
    done = Shipped()
    with held(folder.parent, "x") as position:
        for _ in range(rounds):
            done += FileShipper(folder, RELAY, "mx1.example", target, position).look()
    return done


async def write(log: Journal, clock: Clock, *people: str) -> None:
    for person in people:
        await log.commit(decided(clock, person))
        clock.tick(seconds=1)
    if (anchoring := log._anchor_scheduler._task) is not None:  # in a thread, at a file's beginning
        await asyncio.wait([anchoring])
    await asyncio.sleep(0)


def alike(folder: Path, copy: Path) -> bool:
    """Check that the copy has every complete line and nothing else."""
    files = [*segments(folder), folder / "anchors.ndjson"]
    return {path.name: path.read_bytes() for path in files} == {
        path.name: path.read_bytes() for path in copy.glob("*.ndjson")
    }


async def test_new_lines_are_added_to_the_copy(
    folder: Path, clock: Clock, place: InFolder | InObjects
) -> None:
    log = journal(folder, clock)
    await write(log, clock, ANNA, "paul@people.example")
    ship(folder, place.open(), rounds=2)
    assert list(verify(place.copy()).faults()) == []
    before = len(list(read(place.copy())))
    await write(log, clock, "eve@people.example")
    log.close()
    done = ship(folder, place.open())
    assert done.files == 2, "one file of rows, and the anchors"
    assert done.octets < sum(path.stat().st_size for path in segments(folder))
    assert (before, len(list(read(place.copy())))) == (2, 3)
    assert alike(folder, place.copy())
    assert ship(folder, place.open()) == Shipped()


async def test_lines_written_in_the_same_tick_of_the_file_system_are_added(
    folder: Path, clock: Clock, place: InFolder | InObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tick is some milliseconds: the file's time of change does not show the second write."""
    same_tick = lambda placed, status: placed.inode == status.st_ino  # noqa: E731
    monkeypatch.setattr("smtpproxy.shipping.files._is_same", same_tick)
    log = journal(folder, clock)
    await write(log, clock, ANNA)
    ship(folder, place.open())
    await write(log, clock, "paul@people.example")
    ship(folder, place.open())
    assert alike(folder, place.copy())
    log.close()


async def test_an_erasure_and_the_end_of_a_period_reach_the_copy(
    folder: Path, clock: Clock, place: InFolder | InObjects
) -> None:
    for _ in range(3):
        log = journal(folder, clock)
        await write(log, clock, ANNA, "paul@people.example")
        log.close()
        clock.tick(days=40)
    ship(folder, place.open())
    assert ANNA in "".join(path.read_text() for path in place.copy().iterdir())
    pseudonymise(folder, ANNA, now=clock.now)
    ship(folder, place.open())
    assert ANNA not in "".join(path.read_text() for path in place.copy().iterdir())
    assert verify(place.copy()).erased == 3
    expire(folder, START + timedelta(days=50), now=clock.now)
    assert ship(folder, place.open()).removed == 1
    report = verify(place.copy())
    assert list(report.faults()) == []
    assert report.counts[Kind.EXPIRED] == 1
    assert alike(folder, place.copy())


async def test_an_erasure_is_noticed_though_the_file_looks_like_the_one_before(
    folder: Path, clock: Clock
) -> None:
    """File systems reuse the inode number of a deleted file."""
    place = InFolder(folder.parent)
    log = journal(folder, clock)
    await write(log, clock, ANNA)
    log.close()
    ship(folder, place.open())
    (path,) = segments(folder)
    before = path.read_bytes()
    pseudonymise(folder, ANNA, now=clock.now)
    after = path.read_bytes()
    with held(folder.parent, "x") as position:
        placed = position.files[path.name]
        position.files[path.name] = structs.replace(placed, inode=path.stat().st_ino)
        position.save()
    assert len(before) != len(after)
    ship(folder, place.open())
    assert alike(folder, place.copy())


async def test_a_copy_taken_during_changes_verifies(
    folder: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = InFolder(folder.parent)
    log = journal(folder, clock)
    await write(log, clock, ANNA)

    def look_while(happens: Callable[[], object], step: str) -> None:
        with held(folder.parent, "x") as position:
            shipper = FileShipper(folder, RELAY, "mx1.example", place.open(), position)
            taken, pending = getattr(shipper, step), [happens]

            def taken_meanwhile(*given: Any) -> Any:
                while pending:
                    pending.pop()()
                return taken(*given)

            monkeypatch.setattr(shipper, step, taken_meanwhile)
            shipper.look()
        assert list(verify(place.copy()).faults()) == []

    def rotated_and_anchored() -> None:
        log.rotate()
        clock.tick(minutes=2)
        assert take(folder, "time", clock.now) is not None

    def anchored_in_a_row() -> None:
        clock.tick(minutes=2)
        anchor = take(folder, "time", clock.now)
        assert anchor is not None
        log._anchored(anchor)
        log._write()

    look_while(rotated_and_anchored, "_opened_anchors")
    await write(log, clock, ANNA)
    look_while(anchored_in_a_row, "_ship")
    assert not alike(folder, place.copy()), "the row waits for its anchor"
    ship(folder, place.open())
    assert alike(folder, place.copy())
    log.close()
    ship(folder, place.open())
    look_while(lambda: pseudonymise(folder, ANNA, now=clock.now), "_opened_anchors")
    ship(folder, place.open())
    assert alike(folder, place.copy())


async def test_files_deleted_here_stay_in_the_copy(folder: Path, clock: Clock) -> None:
    place = InFolder(folder.parent)
    for _ in range(2):
        log = journal(folder, clock)
        await write(log, clock, ANNA)
        log.close()
        clock.tick(hours=1)
    ship(folder, place.open())
    segments(folder)[0].unlink()
    ship(folder, place.open())
    assert list(verify(place.copy()).faults()) == []
    assert verify(folder).wrong


async def test_a_truncated_copy_contradicts_its_anchors(folder: Path, clock: Clock) -> None:
    place = InFolder(folder.parent)
    log = journal(folder, clock)
    await write(log, clock, ANNA, "paul@people.example")
    log.close()
    ship(folder, place.open())
    (copied,) = segments(place.copy())
    copied.write_bytes(b"".join(copied.read_bytes().splitlines(keepends=True)[:-1]))
    assert [finding.kind for finding in verify(place.copy()).faults()] == [Kind.CUT]
    ship(folder, place.open())
    assert list(verify(place.copy()).faults()) == []


async def test_the_copy_verifies_whatever_is_written_meanwhile(
    folder: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows and anchors arrive while files are read.

    No anchor may be copied before its rows, and no row before the anchor it names.
    """
    place = InFolder(folder.parent)
    logs = [journal(folder, clock, worker) for worker in (0, 1)]
    target: Any = place.open()

    def busy(work: Callable[..., None]) -> Callable[..., None]:
        def at_work(name: str, *rest: Any) -> None:
            clock.tick(minutes=2)
            anchor = take(folder, "time", clock.now)
            assert anchor is not None
            for log in logs:
                log._anchored(anchor)
                log._write()
            work(name, *rest)

        return at_work

    for name in ("put", "append"):
        monkeypatch.setattr(target, name, busy(getattr(target, name)))
    for number in range(4):
        for log in logs:
            await write(log, clock, f"{number}@people.example")
            if number == 2:
                log.rotate()
        ship(folder, target)
        assert list(verify(place.copy()).faults()) == []
    for log in logs:
        log.close()
    monkeypatch.undo()
    ship(folder, target, rounds=2)
    assert alike(folder, place.copy())


def broken_after(octets: int) -> Callable[..., Iterator[bytes]]:
    """A source, network or disk that fails inside a file."""

    def some(source: Any, begin: int, end: int) -> Iterator[bytes]:
        source.seek(begin)
        yield source.read(min(octets, end - begin))
        raise TargetUnavailable("no space left")

    return some


async def test_an_interrupted_upload_is_neither_present_nor_reported(
    folder: Path, clock: Clock, place: InFolder | InObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = journal(folder, clock)
    await write(log, clock, ANNA)
    ship(folder, place.open(), rounds=2)
    await write(log, clock, "paul@people.example")
    log.close()
    for module in ("targets", "s3"):
        monkeypatch.setattr(f"smtpproxy.shipping.{module}.blocks", broken_after(100))
    with pytest.raises(TargetUnavailable, match="no space"):
        ship(folder, place.open())
    assert len(list(read(place.copy()))) == 1
    monkeypatch.undo()
    ship(folder, place.open())
    assert alike(folder, place.copy())


async def test_a_target_that_lost_files_gets_them_again(folder: Path, clock: Clock) -> None:
    place = InFolder(folder.parent)
    log = journal(folder, clock)
    await write(log, clock, ANNA)
    log.close()
    ship(folder, place.open())
    (copied,) = segments(place.copy())
    os.truncate(copied, 100)
    ship(folder, place.open())
    assert alike(folder, place.copy())
    shutil.rmtree(place.copy())
    ship(folder, place.open())
    assert alike(folder, place.copy())
    log = journal(folder, clock)
    await write(log, clock, ANNA)
    ship(folder, place.open(), rounds=2)
    os.truncate(segments(place.copy())[-1], 100)
    await write(log, clock, ANNA)
    log.close()
    ship(folder, place.open())
    assert alike(folder, place.copy()), "nothing is appended to the remains"
    shutil.rmtree(folder.parent / "shipped")  # the position is lost
    ship(folder, place.open())
    assert alike(folder, place.copy())


async def test_a_target_that_was_away_is_examined_again(folder: Path, clock: Clock) -> None:
    place = InFolder(folder.parent)
    log = journal(folder, clock)
    await write(log, clock, ANNA)
    with held(folder.parent, "x") as position:
        shipper = FileShipper(folder, RELAY, "mx1.example", place.open(), position)
        shipper.look()
        shutil.rmtree(place.copy())
        await write(log, clock, ANNA)
        log.close()
        with pytest.raises(TargetUnavailable):
            shipper.look()
        shipper.look()
    assert alike(folder, place.copy())
    whose = json.loads((place.copy() / "relay.json").read_text())
    assert whose == {"relay": RELAY, "host": "mx1.example"}


async def test_only_their_owner_may_read_the_copies(folder: Path, clock: Clock) -> None:
    place = InFolder(folder.parent)
    log = journal(folder, clock)
    await write(log, clock, ANNA)
    log.close()
    mask = os.umask(0)
    try:
        ship(folder, place.open())
    finally:
        os.umask(mask)
    copies = [place.copy(), *place.copy().iterdir()]
    assert [path.name for path in copies if path.stat().st_mode & 0o077] == []
    (place.copy() / ".0.ndjson.shipping").touch()  # left by a killed run
    ship(folder, place.open())
    assert list(place.copy().glob(".*")) == []


def test_a_file_that_became_shorter_is_an_error() -> None:
    with pytest.raises(TargetUnavailable, match="shorter"):
        list(blocks(io.BytesIO(b"abc"), 0, 4))


async def test_only_new_lines_are_uploaded_to_an_object(
    folder: Path, clock: Clock, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above S3's minimum part size, the store itself copies the existing object."""
    for least in ("smtpproxy.shipping.s3._LEAST_PART", "moto.s3.models.S3_UPLOAD_PART_MIN_SIZE"):
        monkeypatch.setattr(least, 50_000)
    monkeypatch.setattr("smtpproxy.shipping.s3._PART", 60_000)
    sent: list[int] = []

    def counted(source: Any, begin: int, end: int) -> Iterator[bytes]:
        sent.append(end - begin)
        return blocks(source, begin, end)

    monkeypatch.setattr("smtpproxy.shipping.s3.blocks", counted)
    place = InObjects(folder.parent, store)
    log = journal(folder, clock)
    await write(log, clock, *[f"{n}@people.example" for n in range(250)])
    ship(folder, place.open(), rounds=2)
    assert alike(folder, place.copy())
    assert max(sent) == 60_000 < sum(sent), "in several parts"
    sent.clear()
    await write(log, clock, ANNA)
    log.close()
    with monkeypatch.context() as broken:
        broken.setattr("smtpproxy.shipping.s3.blocks", broken_after(100))
        with pytest.raises(TargetUnavailable):
            ship(folder, place.open())
    assert "Uploads" not in store.list_multipart_uploads(Bucket="record")
    assert 0 < ship(folder, place.open()).octets < 10_000
    assert sum(sent) < 20_000
    assert alike(folder, place.copy())


def test_two_runs_cannot_ship_to_one_target(tmp_path: Path) -> None:
    held_twice = pytest.raises(AlreadyShipping)
    with held(tmp_path, "x"), held(tmp_path, "y"), held_twice, held(tmp_path, "x"):
        pass


@needs("tmpfs")
async def test_a_full_target_is_a_failure_and_keeps_what_it_had(
    folder: Path, clock: Clock, tmp_path: Path
) -> None:
    log = journal(folder, clock)
    await write(log, clock, ANNA)
    with tiny_disk(tmp_path / "small") as disk:
        ship(folder, DirectoryTarget(disk, RELAY), rounds=2)
        filler = fill(disk)
        await write(log, clock, *[f"{n}@people.example" for n in range(20)])
        log.close()
        with pytest.raises(TargetUnavailable, match="No space left"):
            ship(folder, DirectoryTarget(disk, RELAY))
        assert list(verify(disk / RELAY).faults()) == []
        assert list((disk / RELAY).glob(".*")) == []
        filler.unlink()
        ship(folder, DirectoryTarget(disk, RELAY))
        assert alike(folder, disk / RELAY)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_the_relays_user_can_ship_after_root_did(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65534)
    with held(tmp_path, "x") as position:
        position.save()
    made = [tmp_path / "shipped", *(tmp_path / "shipped").iterdir()]
    assert [path.stat().st_uid for path in made] == [65534] * 3
