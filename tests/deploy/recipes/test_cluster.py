"""Two relays behind HAProxy on one PostgreSQL, as in docs/deploy/cluster.md."""

import re
import smtplib
import socket
import threading
import time
import tomllib
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from msgspec import Struct

from tests.deploy.recipes.clients import arrived
from tests.kit.certificates import Authority
from tests.kit.haproxy import Haproxy
from tests.kit.messages import marketing, message
from tests.kit.pages import section
from tests.kit.parts import needs, program
from tests.kit.ports import LOOPBACK, free_port, wait_for
from tests.kit.postgres import cluster
from tests.kit.processes import run
from tests.kit.relay import RelayProcess, greets
from tests.kit.relays import Relays
from tests.kit.store import address
from tests.kit.upstream import At, FakeUpstream, Reply

pytestmark = needs("haproxy", "postgresql")

PAGE = "deploy/cluster.md"
BALANCER = "127.0.0.10"
HERE = {"10.0.0.": "127.0.0."}  # the page's hosts become loopback addresses
ORDERS = "orders@shop.example"
SENDERS = 4
NOTICED = 4.0
"""Seconds after which two checks a second apart have certainly taken a relay out."""


class Site(Struct, frozen=True):
    """Everything on the page but keepalived."""

    relays: Relays
    mta: FakeUpstream
    smtp: int
    pages: int
    authority: Authority


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("cluster")
    smtp, pages, web = free_port(), free_port(), free_port()
    authority = Authority(root)
    pair = authority.issue("unsubscribe.example.com")
    (root / "site.pem").write_bytes(pair.certificate.read_bytes() + pair.key.read_bytes())
    ports = {":2525": f":{smtp}", "8025": str(web), **HERE}
    tls = {
        "10.0.0.10:443": f"{LOOPBACK}:{pages}",
        "/etc/haproxy/unsubscribe.pem": str(root / "site.pem"),
    }
    with FakeUpstream() as mta:
        relays = Relays(root, mta.address, cluster())
        try:
            start_relays(relays, ports | {"127.0.0.1:10025": mta.address})
            (config,) = section(PAGE, "HAProxy", tls | ports)
            with Haproxy(config, pages):
                site = Site(relays, mta, smtp, pages, authority)
                wait_for(lambda: both_ready(site), "both relays to be ready")
                yield site
        finally:
            relays.kill()


def start_relays(relays: Relays, where: Mapping[str, str]) -> None:
    """In the page's order: the first relay makes the keys, which are copied to the second."""
    one = relays.start("relay1", configuration(where))
    two = relays.prepare("relay2", configuration({"10.0.0.11": "10.0.0.12", **where}))
    made, copy = (each.root / "state" / "unsubscribe.key" for each in (one, two))
    copy.touch(0o600)
    copy.write_bytes(made.read_bytes())
    two.start()


def configuration(where: Mapping[str, str]) -> dict[str, Any]:
    (toml,) = section(PAGE, "The relays", where)
    return tomllib.loads(toml)


def both_ready(site: Site) -> bool:
    return greets(site.smtp, BALANCER) and all(relay.ready() for relay in site.relays.all)


def carried(relay: RelayProcess) -> float:
    return relay.metric("smtpproxy_relayed_total", code_class="2xx")


def test_the_link_of_one_relay_works_at_the_other(site: Site) -> None:
    with smtplib.SMTP(BALANCER, site.smtp, timeout=30) as client:
        mail = marketing(unsubscribe=None, one_click=None, message_id="<link@shop.example>")
        client.sendmail("news@shop.example", address("consent"), mail)
    (got,) = arrived(site.mta, "<link@shop.example>")
    found = re.search(rb"<https://unsubscribe\.example\.com(/u/[\w-]+)>", got.data)
    assert found, got.data

    def page(data: bytes | None) -> int:
        request = urllib.request.Request(
            f"https://{LOOPBACK}:{site.pages}{found[1].decode()}",
            data,
            {"Content-Type": "application/x-www-form-urlencoded"},
        )
        context = site.authority.client_context()
        with urllib.request.urlopen(request, timeout=30, context=context) as response:
            return int(response.status)

    assert [page(None), page(None)] == [200, 200]  # each relay
    assert page(b"List-Unsubscribe=One-Click") == 200
    for relay in site.relays.all:
        assert "unsubscribe" in relay.must("suppress", "show", address("consent"))


class Load(Struct):
    """The answers that clients got, with one connection per message."""

    answered: set[str] = set()  # Message-IDs answered 250
    refused: list["Failure"] = []  # without a greeting
    cut_off: list["Failure"] = []  # during the session


class Failure(NamedTuple):
    """One message that was not answered 250."""

    began: float
    ended: float
    error: str


@contextmanager
def sending(site: Site) -> Iterator[Load]:
    """Keep sending receipts until the end of the block."""
    load, enough, numbers = Load(), threading.Event(), count(1)
    run_of = time.monotonic_ns()

    def send() -> None:
        while not enough.is_set():
            id = f"<{run_of}.{next(numbers)}@shop.example>"
            mail = message(stream="receipts", message_id=id)
            began, greeted = time.monotonic(), False
            try:
                with smtplib.SMTP(BALANCER, site.smtp, timeout=30) as client:
                    greeted = True
                    client.sendmail(ORDERS, "anybody@people.example", mail)
                    load.answered.add(id)
            except (OSError, smtplib.SMTPException) as error:
                if id not in load.answered:  # otherwise it was cut off at QUIT
                    failure = Failure(began, time.monotonic(), repr(error))
                    (load.cut_off if greeted else load.refused).append(failure)
            enough.wait(0.05)

    threads = [threading.Thread(target=send) for _ in range(SENDERS)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        enough.set()
        for thread in threads:
            thread.join()


def grows(load: Load, by: int = 20) -> None:
    before = len(load.answered)
    wait_for(lambda: len(load.answered) > before + by, "more mail")


def test_clients_get_451_while_no_relay_is_ready(site: Site) -> None:
    site.mta.begin(At("connect", Reply("421 4.3.2 not now")))
    wait_for(lambda: not any(relay.ready() for relay in site.relays.all), "/readyz to say so")
    with sending(site) as load:
        time.sleep(NOTICED)
        load.refused.clear()
        load.cut_off.clear()
        wait_for(lambda: len(load.cut_off) > SENDERS, "answers")
    assert load.refused == []
    assert [one for one in load.cut_off if "(451, " not in one.error] == []
    site.mta.begin()
    wait_for(lambda: both_ready(site), "both relays to be ready")


def test_no_accepted_mail_is_lost_when_a_relay_dies(site: Site) -> None:
    """Then it is restarted and the other one is stopped, as for a new release."""
    dying, other = site.relays.all
    with sending(site) as load:
        wait_for(lambda: other.metric("smtpproxy_store_connections") > 0, "the relays to say so")
        assert other.metric("smtpproxy_store_connections_limit") == 10
        before = carried(dying)
        wait_for(lambda: carried(dying) > before + 10, "mail by the one that dies")
        died = time.monotonic()
        dying.kill()
        grows(load)
        time.sleep(max(0.0, died + NOTICED - time.monotonic()))
        grows(load)
        dying.start()
        wait_for(lambda: both_ready(site), "the relay to be back")
        wait_for(lambda: carried(dying) > 10, "mail by it")
        assert other.terminate() == 0
        grows(load)
    failed = load.refused + load.cut_off
    assert [one for one in failed if not died - 1 < one.began < died + NOTICED] == []
    assert len(load.cut_off) <= SENDERS  # the sessions it had
    assert load.answered - in_mta(site) == set()


def in_mta(site: Site) -> set[str]:
    """The Message-IDs that the MTA has accepted."""
    head = (mail.data.partition(b"\r\n\r\n")[0].decode() for mail in site.mta.messages)
    return {found[1] for each in head if (found := re.search(r"^Message-ID: (<.+>)", each, re.M))}


@needs("keepalived")
def test_keepalived_accepts_its_configuration(tmp_path: Path) -> None:
    network = next(name for _, name in socket.if_nameindex() if name != "lo")
    (lines,) = section(PAGE, "One address: keepalived or DNS", {"eth0": network})
    config = tmp_path / "keepalived.conf"
    config.write_text(lines)
    done = run(program("keepalived"), "--config-test", f"--use-file={config}")
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs("promtool")
def test_prometheus_accepts_its_configuration(tmp_path: Path) -> None:
    (lines,) = section(PAGE, "Prometheus")
    config = tmp_path / "prometheus.yml"
    config.write_text(lines)
    done = run(program("promtool"), "check", "config", str(config))
    assert done.returncode == 0, done.stdout + done.stderr
