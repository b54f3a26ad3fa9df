"""Information about the machine that is wrong, slow or hostile is omitted quickly."""

import asyncio
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from smtpproxy.resolver import Resolver
from smtpproxy.settings import DnsSettings
from smtpproxy.settings.places import nameserver
from smtpproxy.setup.machine import Machine, Names, ask_dns, look, takes_mail
from tests.kit.dns import NameServer
from tests.kit.ports import LOOPBACK

Postconf = Callable[[str], None]


@pytest.fixture
def postconf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Postconf:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def write(script: str) -> None:
        (tmp_path / "postconf").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "postconf").chmod(0o755)

    return write


def looked(timeout: float = 5.0) -> Machine:
    return asyncio.run(look(timeout))


def test_information_is_read(postconf: Postconf) -> None:
    postconf("echo 'myhostname = mx.shop.example'; echo 'relayhost ='; echo 'mynetworks = x'")
    assert looked().postfix == {"myhostname": "mx.shop.example"}


def test_a_recipient_delimiter_other_than_plus_is_reported(postconf: Postconf) -> None:
    for signs, told in (("", False), ("+", False), ("-", True), ("+-", True)):
        postconf(f"echo 'recipient_delimiter = {signs}'")
        assert any("anna-news is not the same person" in note for note in looked().notes) is told


def test_control_characters_are_dropped_and_reported(postconf: Postconf) -> None:
    postconf(r"printf 'myhostname = a\033]0;b\007\nmyorigin = shop.example\n'")
    machine = looked()
    assert machine.postfix == {"myorigin": "shop.example"}
    (note,) = machine.notes
    assert "myhostname is not plain text" in note


@pytest.mark.parametrize(
    "script",
    ["head -c 200000 /dev/urandom", "yes 'myhostname = x' | tr -d '\\n'", "exit 3", "kill -9 $$"],
    ids=["noise", "endless line", "failure", "killed"],
)
def test_any_output_is_cut_off_soon(postconf: Postconf, script: str) -> None:
    postconf(script)
    for _ in range(20):  # an occasionally full pipe must not keep it from ending
        assert looked().postfix == {}


def test_a_silent_program_is_ended_with_its_children(postconf: Postconf, tmp_path: Path) -> None:
    postconf(f"sleep 1000 & echo $! >{tmp_path}/child; sleep 1000")
    machine = looked(0.5)
    assert machine.postfix == {}
    assert "no answer within 0.5 seconds" in machine.notes[0]
    child = int((tmp_path / "child").read_text())
    for _ in range(100):
        if not _lives(child):
            break
        time.sleep(0.05)
    assert not _lives(child)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, LOOPBACK), (socket.AF_INET6, "::1")])
def test_used_ports_are_reported(family: socket.AddressFamily, host: str) -> None:
    with socket.socket(family) as taken:
        taken.bind((host, 0))
        port = taken.getsockname()[1]
        assert port not in looked().ports
        taken.listen()
        machine = looked()
        assert port in machine.ports
        assert machine.free_port(port) > port


def asked(names: NameServer, *domains: str, web: str | None = None, timeout: float = 5.0) -> Names:
    async def ask() -> Names:
        resolver = Resolver(DnsSettings((nameserver(names.address),), 5.0), time.monotonic)
        return await ask_dns("relay.shop.example", domains, web, resolver.lookup, timeout)

    return asyncio.run(ask())


def test_only_public_addresses_count_as_sending_ones() -> None:
    records = ("relay.shop.example. A 10.0.0.1", "relay.shop.example. A 93.184.216.34")
    with NameServer(*records, "shop.example. MX 10 a.example.", "u.example. A 10.0.0.1") as names:
        found = asked(names, "shop.example", web="u.example")
    assert found == Names(("93.184.216.34",), ())


def test_names_missing_from_the_dns_are_reported() -> None:
    with NameServer() as names:
        found = asked(names, "shop.example", web="u.example")
    assert [note.partition(":")[0] for note in found.notes] == [
        "relay.shop.example",
        "shop.example",
        "u.example",
    ]


@pytest.mark.parametrize("fault", ["servfail", "refused", "silence", "garbage"])
def test_a_failing_dns_gives_a_note(fault: str) -> None:
    with NameServer() as names:
        for name in ("relay.shop.example", "shop.example"):
            names.fail(name, fault)  # type: ignore[arg-type]
        found = asked(names, "shop.example", timeout=0.5)
        assert all("the DNS does not answer" in note for note in found.notes)
        assert len(found.notes) == 2


def test_a_null_mx_means_no_mail() -> None:
    async def ask(address: str, domain: str) -> bool:
        resolver = Resolver(DnsSettings((nameserver(address),), 5.0), time.monotonic)
        return await takes_mail(domain, resolver.lookup, 5.0)

    with NameServer("a.example. MX 0 .", "b.example. MX 10 mx.b.example.") as names:
        names.fail("c.example", "servfail")
        found = [asyncio.run(ask(names.address, f"{each}.example")) for each in "abc"]
    assert found == [False, True, False]
