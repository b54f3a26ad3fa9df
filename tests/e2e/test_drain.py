"""SIGTERM: no new work, transactions in progress are finished, exit code 0."""

import os
import signal
import smtplib
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Event

import pytest

from tests.kit.audit import outcome, records, relayed
from tests.kit.load import SmtpSink
from tests.kit.messages import message
from tests.kit.numbered import NumberedLoad, number_of
from tests.kit.parts import needs
from tests.kit.ports import LOOPBACK, free_port, listens, wait_for
from tests.kit.relay import RelayProcess, listener
from tests.kit.upstream import At, FakeUpstream, Hold

Start = Callable[..., RelayProcess]


def till() -> dict[str, object]:
    return {"listener": [listener("till", "receipts", default="receipts")]}


@pytest.fixture
def dump() -> Iterator[SmtpSink]:
    with SmtpSink(dump=True) as sink:
        yield sink


@needs("smtp-sink")
def test_a_drain_under_load(relay: Start, dump: SmtpSink) -> None:
    running = relay(dump.address, {"server": {"workers": 2}, **till()})
    with NumberedLoad(running.port(), messages=1_500) as load:
        load.wait_accepted(300)
        assert running.terminate() == 0
        fates = load.stop()
    cut = [fate for fate in fates if not fate.accepted]
    # A transaction that the relay began it also finished; other clients were told, or found
    # nobody there.
    assert {fate.reached for fate in cut} <= {"nothing", "connect"}
    assert [fate for fate in cut if fate.reached == "connect" and fate.code != 421] == []
    arrived = {number_of(mail.message) for mail in dump.dumped()}
    entries = relayed(records(running))
    assert arrived == load.accepted
    assert {number_of(entry.decided.message_id or "") for entry in entries} == arrived
    assert {outcome(entry) for entry in entries} == {250}


@pytest.mark.parametrize("proxied", [False, True])
def test_a_client_connecting_at_the_last_moment_is_greeted_or_refused(
    relay: Start, upstream: FakeUpstream, proxied: bool
) -> None:
    proxy = {"proxy_protocol": True, "proxy_trusted": [LOOPBACK]} if proxied else {}
    till = listener("till", "receipts", default="receipts", **proxy)
    running = relay(upstream.address, {"listener": [till]})
    answers: list[bytes] = []
    over = Event()

    def connect() -> None:
        while not over.is_set():
            try:
                client = socket.create_connection((LOOPBACK, running.port()), timeout=10)
            except ConnectionRefusedError:
                continue
            with client:
                try:
                    if proxied:
                        client.sendall(b"PROXY TCP4 192.0.2.1 192.0.2.2 1025 25\r\n")
                    answers.append(client.recv(100)[:3])
                except ConnectionError:
                    answers.append(b"cut off")

    with ThreadPoolExecutor(8) as clients:
        for _ in range(8):
            clients.submit(connect)
        try:
            wait_for(lambda: len(answers) > 200, "clients")
            assert running.terminate() == 0
        finally:
            over.set()
    assert set(answers) <= {b"220", b"421"}


def test_a_slow_client_may_finish(relay: Start, upstream: FakeUpstream) -> None:
    running = relay(upstream.address, till())
    with (
        smtplib.SMTP(LOOPBACK, running.port()) as slow,
        smtplib.SMTP(LOOPBACK, running.port()) as idle,
    ):
        idle.ehlo()
        slow.ehlo()
        slow.mail("orders@shop.example")
        slow.rcpt("jeanne@people.example")
        assert slow.docmd("DATA")[0] == 354
        running.ask_to_end()
        wait_for(lambda: not listens(running.port()), "the listener to close")
        assert idle.getreply()[0] == 421
        slow.send(message() + b".\r\n")
        assert slow.getreply() == (250, b"2.0.0 queued as FAKE")
        assert slow.getreply()[0] == 421
    assert running.terminate() == 0
    assert len(upstream.messages) == 1


def test_the_web_process_and_the_mailbox_answer_while_a_client_finishes(
    relay: Start, upstream: FakeUpstream
) -> None:
    web, mailbox = free_port(), free_port()
    more = {
        "web": {"address": f"{LOOPBACK}:{web}"},
        "feedback": {"domain": "bounces.shop.example", "address": f"{LOOPBACK}:{mailbox}"},
    }
    running = relay(upstream.address, till() | more)
    with smtplib.SMTP(LOOPBACK, running.port()) as slow:
        slow.ehlo()
        slow.mail("orders@shop.example")
        slow.rcpt("jeanne@people.example")
        assert slow.docmd("DATA")[0] == 354
        running.ask_to_end()
        wait_for(lambda: not listens(running.port()), "the listener to close")
        with pytest.raises(urllib.error.HTTPError, match="503") as refused:
            urllib.request.urlopen(f"{running.url}/readyz", timeout=10)
        refused.value.close()
        with socket.create_connection((LOOPBACK, mailbox), timeout=10) as client:
            assert client.recv(100).startswith(b"220 ")
        slow.send(message() + b".\r\n")
        assert slow.getreply()[0] == 250
    assert running.terminate() == 0


def test_repeated_sigterm_still_ends_cleanly(relay: Start, upstream: FakeUpstream) -> None:
    running = relay(upstream.address, till())
    while running.alive:
        with suppress(ProcessLookupError):
            running.ask_to_end()
        time.sleep(0.0005)
    assert running.terminate() == 0


def test_a_reload_during_the_drain_does_not_stop_it(relay: Start, upstream: FakeUpstream) -> None:
    running = relay(upstream.address, till())
    with smtplib.SMTP(LOOPBACK, running.port()) as slow:
        slow.ehlo()
        slow.mail("orders@shop.example")
        running.ask_to_end()
        wait_for(lambda: not listens(running.port()), "the listener to close")
        os.kill(running.pid, signal.SIGHUP)
    assert running.terminate() == 0


def test_a_slow_upstream_may_finish(relay: Start, upstream: FakeUpstream) -> None:
    upstream.behaviours.append(At("end", Hold()))
    running = relay(upstream.address, till())
    with smtplib.SMTP(LOOPBACK, running.port()) as client:
        client.ehlo()
        client.mail("orders@shop.example")
        client.rcpt("jeanne@people.example")
        client.docmd("DATA")
        client.send(message() + b".\r\n")
        upstream.wait_held()
        running.ask_to_end()
        wait_for(lambda: not listens(running.port()), "the listener to close")
        upstream.release()
        assert client.getreply() == (250, b"2.0.0 queued as FAKE")
        assert client.getreply()[0] == 421
    assert running.terminate() == 0
    assert [outcome(entry) for entry in records(running)] == [250]


def test_a_client_that_does_not_finish_is_told_and_disconnected(
    relay: Start, upstream: FakeUpstream
) -> None:
    running = relay(upstream.address, {"server": {"drain_timeout": "1s"}, **till()})
    with smtplib.SMTP(LOOPBACK, running.port()) as client:
        client.ehlo()
        client.mail("orders@shop.example")
        client.rcpt("jeanne@people.example")
        client.docmd("DATA")
        client.send(b"Subject: half\r\n")
        assert running.terminate() == 0
        code, text = client.getreply()
        assert (code, text[:5]) == (421, b"4.3.2")
    assert upstream.messages == []
