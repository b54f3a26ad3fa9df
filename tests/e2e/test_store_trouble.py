"""The store cannot answer: mail waits at the sender, and flows again without a restart."""

import contextlib
import os
import shutil
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.kit.audit import records
from tests.kit.messages import marketing, message
from tests.kit.ports import wait_for
from tests.kit.relay import RelayProcess, listener
from tests.kit.store import address
from tests.kit.upstream import FakeUpstream

StartFilled = Callable[..., RelayProcess]
Trouble = Callable[[Path], AbstractContextManager[None]]


def config(mode: str) -> dict[str, object]:
    return {
        "listener": [
            listener("apps", "offers", "receipts", default="offers"),
            listener("shop", "offers", default="offers"),
            listener("till", "receipts", default="receipts"),
        ],
        "policy": {"mode": mode},
        "store": {"timeout": "300ms"},
        "web": {},
    }


@pytest.fixture(scope="module")
def enforcing(mta: FakeUpstream, filled: StartFilled) -> RelayProcess:
    return filled(mta.address, config("enforce"))


@pytest.fixture(scope="module")
def observing(mta: FakeUpstream, filled: StartFilled) -> RelayProcess:
    return filled(mta.address, config("observe"))


def database(relay: RelayProcess) -> Path:
    return Path(relay.config["store"]["url"].removeprefix("sqlite://"))


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Replace it by a copy that another process has locked."""
    copy = path.with_suffix(".copy")
    _checkpoint(path)
    shutil.copy(path, copy)
    with contextlib.closing(sqlite3.connect(copy, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("BEGIN EXCLUSIVE")
        with _replaced(path, copy):
            yield


@contextmanager
def removed(path: Path) -> Iterator[None]:
    away = path.rename(path.with_suffix(".away"))
    try:
        yield
    finally:
        away.rename(path)


@contextmanager
def replaced(path: Path) -> Iterator[None]:
    """Replace it by another program's database."""
    other = path.with_suffix(".other")
    with contextlib.closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE notes (text)")
    with _replaced(path, other):
        yield


@contextmanager
def corrupted(path: Path) -> Iterator[None]:
    """Overwrite the file in place, like a failing disk."""
    _checkpoint(path)
    good = path.read_bytes()
    with path.open("r+b") as file:
        file.write(b"\xa5" * len(good))
    try:
        yield
    finally:
        with path.open("r+b") as file:
            file.write(good)


@contextmanager
def emptied(path: Path) -> Iterator[None]:
    _checkpoint(path)
    good = path.read_bytes()
    with path.open("r+b") as file:
        file.truncate(0)
    try:
        yield
    finally:
        with path.open("r+b") as file:
            file.write(good)


@contextmanager
def _replaced(path: Path, other: Path) -> Iterator[None]:
    with removed(path):
        other.rename(path)
        try:
            yield
        finally:
            path.rename(other)


def _checkpoint(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


TROUBLES = [held, removed, replaced, corrupted, emptied]
every_trouble = pytest.mark.parametrize("trouble", TROUBLES)


@every_trouble
def test_nothing_passes_until_it_is_over(
    trouble: Trouble, enforcing: RelayProcess, mta: FakeUpstream
) -> None:
    newsletter, receipt = marketing(), message(stream="receipts")
    before = len(mta.messages)
    failures = enforcing.metric("smtpproxy_failures_total", part="store")
    with trouble(database(enforcing)):
        for mail, via in ((newsletter, "shop"), (newsletter, "apps"), (receipt, "till")):
            code, text = enforcing.send(mail, address("consent"), listener=via)
            assert (code, text) == (451, "4.3.0 temporary_failure")
    assert len(mta.messages) == before
    assert enforcing.metric("smtpproxy_failures_total", part="store") == failures + 3
    # It is over: the same process continues, with everything it knew.
    assert enforcing.send(newsletter, address("consent"), listener="shop")[0] == 250
    code, text = enforcing.send(newsletter, address("withdrawn"), listener="shop")
    assert code == 550
    assert "consent_withdrawn" in text
    assert len(mta.messages) == before + 1


@every_trouble
def test_observe_mode_lets_the_mail_pass_and_counts_it(
    trouble: Trouble, observing: RelayProcess, mta: FakeUpstream
) -> None:
    before = len(mta.messages)
    undecided = observing.metric("smtpproxy_undecided_total", stream="offers")
    with trouble(database(observing)):
        for name in ("consent", "complained"):
            for via in ("shop", "apps"):
                assert observing.send(marketing(), address(name), listener=via)[0] == 250
    assert len(mta.messages) == before + 4
    assert observing.metric("smtpproxy_undecided_total", stream="offers") == undecided + 4
    *_, entry = records(observing)
    assert (entry.decided.undecided, entry.decided.observed) == (True, True)
    assert entry.decided.recipients[0].verdict.reason == "temporary_failure"


def test_a_writer_does_not_stop_the_mail(enforcing: RelayProcess) -> None:
    """An import of a million contacts holds the write lock for a long time."""
    path = database(enforcing)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        assert enforcing.send(marketing(), address("consent"), listener="shop")[0] == 250
        assert enforcing.send(marketing(), address("withdrawn"), listener="shop")[0] == 550
        connection.execute("ROLLBACK")


def test_a_disk_that_cannot_read_a_mapped_page_ends_a_worker_only_once(
    filled: StartFilled, mta: FakeUpstream
) -> None:
    """The kernel sends SIGBUS then. Unmapped, such a page is an error, and mail gets 451."""
    relay = filled(mta.address, {**config("enforce"), "server": {"workers": 1}})

    def maps() -> bool:
        assert relay.send(message(stream="receipts"), address("consent"))[0] == 250
        return any(Path(f"/proc/{pid}/maps").read_text().find(f"{database(relay)}\n") >= 0
                   for pid in relay.workers)  # fmt: skip

    assert maps()
    (worker,) = relay.workers
    os.kill(worker, signal.SIGBUS)
    wait_for(lambda: relay.workers not in ([worker], []), "another worker")
    assert not maps()
    (told,) = [line for line in relay.log if line["event"] == "child ended"]
    assert "see df and the kernel's log" in told["outcome"]
