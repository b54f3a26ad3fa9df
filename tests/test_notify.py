"""systemd's notification protocol on a real datagram socket."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from smtpproxy.process.notifier import Notifier


@pytest.fixture(params=["path", "abstract"])
def listener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """The socket that systemd would hold, and its name in NOTIFY_SOCKET."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        if request.param == "path":
            name = str(tmp_path / "notify")
            sock.bind(name)
        else:
            sock.bind("")  # the kernel picks an abstract name
            name = "@" + sock.getsockname()[1:].decode()
        sock.settimeout(5)
        yield sock, name


def test_every_message_arrives(listener: tuple[socket.socket, str]) -> None:
    sock, name = listener
    notifier = Notifier({"NOTIFY_SOCKET": name})
    notifier.ready()
    notifier.status("2 workers\nREADY=0")
    notifier.watchdog()
    notifier.stopping()
    assert [sock.recv(200) for _ in range(4)] == [
        b"READY=1",
        b"STATUS=2 workers READY=0",
        b"WATCHDOG=1",
        b"STOPPING=1",
    ]


def test_without_systemd_nothing_happens() -> None:
    notifier = Notifier({})
    notifier.ready()
    notifier.watchdog()
    assert notifier.watchdog_interval is None


def test_a_missing_listener_is_no_failure(tmp_path: Path) -> None:
    name = str(tmp_path / "notify")
    notifier = Notifier({"NOTIFY_SOCKET": name})
    notifier.ready()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name)
        sock.settimeout(5)
        notifier.watchdog()
        assert sock.recv(200) == b"WATCHDOG=1", "a later listener is told"


def test_a_listener_that_does_not_read_does_not_block(tmp_path: Path) -> None:
    name = str(tmp_path / "notify")
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other,
    ):
        sock.bind(name)
        sock.setblocking(False)
        other.setblocking(False)
        notifier = Notifier({"NOTIFY_SOCKET": name})
        for _ in range(2_000):
            notifier.watchdog()
        with pytest.raises(BlockingIOError):
            other.sendto(b"", name)  # the socket is full
        assert sock.recv(200) == b"WATCHDOG=1"
        notifier.stopping()
        heard = []
        with contextlib.suppress(BlockingIOError):
            while True:
                heard.append(sock.recv(200))
    assert set(heard[:-1]) == {b"WATCHDOG=1"}
    assert heard[-1] == b"STOPPING=1", "it is told as soon as there is room"


@pytest.mark.parametrize(
    ("environ", "interval"),
    [
        ({"WATCHDOG_USEC": "60000000"}, 15.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_heartbeats_are_sent_four_times_as_often_as_required(
    environ: dict[str, str], interval: float | None
) -> None:
    assert Notifier(environ).watchdog_interval == interval
