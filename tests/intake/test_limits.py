"""How many connections a listener accepts, and what the others are told."""

from contextlib import ExitStack
from typing import Any

import pytest

from smtpproxy.events import ConnectionOpened, ConnectionRefused, ProxyHeaderRead
from smtpproxy.intake.limits import ConnectionLimits
from smtpproxy.settings import ListenerSettings, TcpAddress
from tests.intake.conftest import Listen
from tests.kit.ports import wait_for

TOO_MANY = "421 4.3.2 too many connections; try again later"


@pytest.mark.parametrize(
    ("keys", "cause"),
    [
        ({"max_connections": 3}, "limit"),
        ({"max_connections_per_address": 3}, "address_limit"),
    ],
)
def test_one_connection_too_many_is_refused(
    listen: Listen, keys: dict[str, int], cause: str
) -> None:
    intake = listen(**keys)
    with ExitStack() as stack:
        taken = [stack.enter_context(intake.client()) for _ in range(3)]
        for client in taken:
            client.greet()
        with intake.client() as refused:
            assert refused.rest() == [TOO_MANY]
        assert [event.cause for event in intake.of(ConnectionRefused)] == [cause]
        assert taken[0].say("QUIT").startswith("221 ")
        intake.wait_closed(1)
        with intake.client() as late:
            late.greet()
        for client in taken[1:]:
            assert client.say("NOOP") == "250 2.0.0 OK"
    assert len(intake.of(ConnectionOpened)) == 4


@pytest.mark.parametrize("keys", [{}, {"proxy_protocol": True, "proxy_trusted": ["127.0.0.1"]}])
def test_a_worker_short_of_files(
    listen: Listen, monkeypatch: pytest.MonkeyPatch, keys: dict[str, Any]
) -> None:
    with monkeypatch.context() as short:
        short.setattr("smtpproxy.intake.listener.room_for_clients", lambda: 3)
        intake = listen(**keys)
    with intake.client() as refused:
        assert refused.rest() == ([] if keys else [TOO_MANY])
    if keys:
        wait_for(lambda: intake.of(ProxyHeaderRead), "the end of the connection")
    else:
        assert [event.cause for event in intake.of(ConnectionRefused)] == ["files"]


def test_refused_connections_do_not_count(listen: Listen) -> None:
    intake = listen(max_connections=1)
    with intake.client() as first:
        first.greet()
        for _ in range(5):
            with intake.client() as refused:
                assert refused.rest() == [TOO_MANY]
    intake.wait_closed(1)
    for _ in range(3):
        with intake.client() as client:
            client.greet()
            client.say("QUIT")
            client.rest()
        wait_for(lambda: not intake.door._sessions, "the session to end")


def test_refused_recipients_do_not_end_a_session(listen: Listen) -> None:
    """Nor does the DATA that an MTA pipelines behind them, message after message."""
    intake = listen(streams=["offers"], default_stream="offers", max_errors=3)
    with intake.client() as client:
        client.greet()
        for _ in range(10):
            client.send(
                "MAIL FROM:<news@shop.example>", "RCPT TO:<stranger@people.example>", "DATA"
            )
            assert [reply[:9] for reply in client.replies(3)] == [
                "250 2.1.0",
                "550 5.7.1",
                "550 5.7.1",
            ]
            assert client.say("RSET") == "250 2.0.0 OK"


def limits(total: int, each: int, workers: int = 1) -> ConnectionLimits:
    listener = ListenerSettings(
        "apps",
        TcpAddress("127.0.0.1", 25),
        max_connections=total,
        max_connections_per_address=each,
    )
    return ConnectionLimits(listener, workers)


def test_connections_are_counted_per_address() -> None:
    counted = limits(10, 2)
    for peer in ("192.0.2.1", "192.0.2.1", "2001:db8::1"):
        assert counted.refusal(peer) is None
        counted.opened(peer)
    assert counted.refusal("192.0.2.1") == "address_limit"
    assert counted.refusal("2001:db8::1") is None
    counted.closed("192.0.2.1")
    assert counted.refusal("192.0.2.1") is None
    assert counted.open == 2
    counted.opened("192.0.2.1")
    assert counted.refusal("192.0.2.1") == "address_limit"
    assert counted.open == 3


@pytest.mark.parametrize(
    ("total", "workers", "share"), [(10, 1, 10), (10, 2, 5), (10, 3, 4), (1, 4, 1)]
)
def test_workers_share_a_limit_rounded_up(total: int, workers: int, share: int) -> None:
    counted = limits(total, 100, workers)
    for number in range(share):
        assert counted.refusal(f"192.0.2.{number}") is None
        counted.opened(f"192.0.2.{number}")
    assert counted.refusal("192.0.2.250") == "limit"
