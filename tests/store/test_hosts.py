"""Among several hosts in a URL the right one is used, even if another is silent."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from smtpproxy.store.postgres.connection import Database, Target
from smtpproxy.store.postgres.hosts import Hosts, each_host
from smtpproxy.store.records import StoreMisconfigured, StoreUnavailable
from tests.kit import postgres
from tests.kit.parts import needs
from tests.kit.ports import LOOPBACK

_OTHERS = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


@pytest.mark.parametrize(
    ("url", "urls"),
    [
        (
            "postgresql://smtpproxy@db1.example,10.0.0.22:5433/mail?sslmode=require",
            [
                "postgresql://smtpproxy@db1.example/mail?sslmode=require",
                "postgresql://smtpproxy@10.0.0.22:5433/mail?sslmode=require",
            ],
        ),
        ("postgresql://a:p%40w@db/mail", ["postgresql://a:p%40w@db/mail"]),
        ("postgresql:///mail?host=/run/pg&port=6", ["postgresql:///mail?host=/run/pg&port=6"]),
        ("postgresql:///mail?user=a", ["postgresql:///mail?user=a"]),
    ],
)
def test_a_url_is_split_into_one_per_host(url: str, urls: list[str]) -> None:
    assert each_host(url) == urls


@pytest.mark.parametrize(
    ("ports", "each"),
    [("", ["", ""]), ("&port=7", ["&port=7"] * 2), ("&port=7,8", ["&port=7", "&port=8"])],
)
def test_hosts_among_the_parameters_keep_their_ports(ports: str, each: list[str]) -> None:
    one, two = each_host(f"postgresql:///mail?user=a&host=db1,db2{ports}")
    assert one.partition("?")[2] == f"user=a&host=db1{each[0]}"
    assert two.partition("?")[2] == f"user=a&host=db2{each[1]}"


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A server that accepts connections and then stays silent."""
    with closing(socket.create_server((LOOPBACK, 0))) as server:
        server.setblocking(False)
        yield server


def _met(server: socket.socket) -> int:
    """How many clients have connected."""
    for count in range(100):
        try:
            server.accept()[0].close()
        except BlockingIOError:
            return count
    raise AssertionError("far too many connections")


def test_the_pause_leaves_time_for_every_host_and_does_not_hold_up_commands() -> None:
    assert [Target("", timeout, 1).pause for timeout in (0.4, 2.0, 30.0)] == [0.1, 0.5, 0.5]


@needs("postgresql")
@pytest.mark.parametrize("kind", ["primary", "prefer-standby"])
async def test_a_silent_host_does_not_keep_us_from_the_next(
    silent: socket.socket, kind: str
) -> None:
    cluster = postgres.cluster()
    port = silent.getsockname()[1]
    url = (
        f"postgresql:///postgres?user={postgres.USER}"
        f"&host={LOOPBACK},{cluster.root}&port={port},{cluster.port}"
    )
    target = Target(url, 4.0, 2, server="primary" if kind == "primary" else "prefer-standby")
    database = Database(target)
    try:
        async with database.connection() as one:
            assert await one.fetchval("SELECT 1") == 1
            assert _met(silent)
            async with database.connection() as two:
                assert await two.fetchval("SELECT 1") == 1
        assert kind != "primary" or not _met(silent), "the one that worked is asked first"
    finally:
        database.terminate()


@needs("postgresql")
async def test_an_asynchronous_primary_is_reported_even_beside_a_silent_host(
    silent: socket.socket,
) -> None:
    cluster = postgres.cluster()
    url = (
        f"postgresql:///postgres?user={postgres.USER}"
        f"&host={LOOPBACK},{cluster.root}&port={silent.getsockname()[1]},{cluster.port}"
    )
    database = Database(Target(url, 2.0, 2, synchronous=True))
    try:
        with pytest.raises(StoreUnavailable, match="do not wait for a standby"):
            async with database.connection():
                raise AssertionError("connected")
    finally:
        database.terminate()


@needs("postgresql")
async def test_without_a_primary_the_silent_host_is_waited_for(
    silent: socket.socket,
) -> None:
    port = silent.getsockname()[1]
    url = f"postgresql://{LOOPBACK}:{port},{LOOPBACK}:{_refusing()}/postgres"
    database = Database(Target(url, 0.4, 2))
    try:
        with pytest.raises(StoreUnavailable, match="did not answer in time"):
            async with asyncio.timeout(10), database.connection():
                raise AssertionError("connected")
    finally:
        database.terminate()


@needs("postgresql")
async def test_a_cancelled_connection_attempt_is_closed() -> None:
    """Otherwise it would use up `max_connections` until the process ends."""
    cluster = postgres.cluster()
    url = cluster.url(cluster.create())
    admitted = asyncio.Event()

    async def admit(_: object) -> None:
        admitted.set()

    attempt = asyncio.create_task(
        Hosts(url, 1.0, admit).connect("", target_session_attrs="prefer-standby")
    )
    await admitted.wait()
    await asyncio.sleep(0)
    attempt.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attempt
    watching = await Hosts(url, 1.0, admit).connect("", target_session_attrs="primary")
    async with asyncio.timeout(10):
        while await watching.fetchval(_OTHERS):
            pass
    await watching.close()


async def test_a_missing_root_certificate_is_reported_on_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    database = Database(Target("postgresql://db1,db2/mail?sslmode=verify-full", 1.0, 2))
    try:
        with pytest.raises(StoreMisconfigured, match=r"^store\.url: .*root\.crt.* HINT: .*$"):
            async with database.connection():
                raise AssertionError("connected")
    finally:
        database.terminate()


def _refusing() -> int:
    with closing(socket.create_server((LOOPBACK, 0))) as server:
        return int(server.getsockname()[1])
