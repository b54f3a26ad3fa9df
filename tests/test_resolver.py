"""The resolver: answers, failures, and the cache."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from dns.resolver import BaseResolver

from smtpproxy.resolver import Answer, DnsFailure, MxRecord, Resolver
from smtpproxy.settings import DnsSettings, TcpAddress
from tests.kit.dns import NameServer
from tests.kit.ports import LOOPBACK


@pytest.fixture
def dns() -> Iterator[NameServer]:
    with NameServer(
        'shop.example. TXT "v=spf1 " "-all"',
        "shop.example. MX 20 b.shop.example.",
        "shop.example. MX 10 A.shop.example.",
        "null.example. MX 0 .",
        "a.shop.example. A 192.0.2.1",
        "a.shop.example. AAAA 2001:db8::1",
        "1.2.0.192.in-addr.arpa. PTR A.shop.example.",
    ) as server:
        yield server


class Asking:
    def __init__(self, *servers: NameServer, timeout: float = 0.5) -> None:
        self.now = 0.0
        self.outcomes: list[str] = []
        addresses = tuple(TcpAddress(LOOPBACK, server.port) for server in servers)
        settings = DnsSettings(addresses, timeout)
        self.resolver = Resolver(settings, lambda: self.now, self.outcomes.append)


async def test_every_type_of_record_is_looked_up(dns: NameServer) -> None:
    ask = Asking(dns).resolver.lookup
    assert (await ask("shop.example", "TXT")).texts == (b"v=spf1 -all",)
    mx = (MxRecord(10, "a.shop.example"), MxRecord(20, "b.shop.example"))
    assert (await ask("Shop.Example.", "MX")).exchangers == mx
    assert (await ask("null.example", "MX")).exchangers == (MxRecord(0, ""),)
    assert (await ask("a.shop.example", "A")).values == ("192.0.2.1",)
    assert (await ask("a.shop.example", "AAAA")).values == ("2001:db8::1",)
    assert (await ask("1.2.0.192.in-addr.arpa", "PTR")).values == ("a.shop.example",)


async def test_a_missing_name_is_an_answer(dns: NameServer) -> None:
    ask = Asking(dns).resolver.lookup
    assert await ask("none.example", "TXT") == Answer(exists=False)
    assert await ask("shop.example", "A") == Answer()
    assert await ask("a..example", "A") == Answer(exists=False)
    assert await ask("x" * 70 + ".example", "A") == Answer(exists=False)


async def test_answers_are_cached_for_their_ttl(dns: NameServer) -> None:
    asking = Asking(dns)
    for now, asked in ((0, 1), (59, 1), (61, 2)):  # the server's TTL is 60
        asking.now = now
        await asking.resolver.lookup("shop.example", "TXT")
        assert dns.count("shop.example", "TXT") == asked
    assert asking.outcomes == ["answered", "cached", "answered"]


async def test_no_name_has_hundreds_of_records_to_remember(dns: NameServer) -> None:
    for number in range(200):  # the kit's server takes long to write thousands
        dns.add(f"many.example. MX {200 - number} {number}.example.")
        dns.add(f"many.example. A 192.0.2.{number}")
    ask = Asking(dns).resolver.lookup
    exchangers = (await ask("many.example", "MX")).exchangers
    assert (len(exchangers), exchangers[0]) == (100, MxRecord(1, "199.example"))
    assert len((await ask("many.example", "A")).values) == 100


async def test_concurrent_lookups_send_one_query(dns: NameServer) -> None:
    asking = Asking(dns)
    await asyncio.gather(*(asking.resolver.lookup("shop.example", "MX") for _ in range(20)))
    assert dns.count("shop.example", "MX") == 1


@pytest.mark.parametrize("fault", ["servfail", "refused", "silence", "garbage"])
async def test_a_failure_is_cached_for_a_while(dns: NameServer, fault: str) -> None:
    asking = Asking(dns)
    dns.fail("shop.example", fault)  # type: ignore[arg-type]
    said = {"servfail": "SERVFAIL", "refused": "REFUSED"}.get(fault, "no answer")
    with pytest.raises(DnsFailure, match=r"TXT shop\.example") as failed:
        await asking.resolver.lookup("shop.example", "TXT")
    assert str(failed.value) == f"TXT shop.example: name server 127.0.0.1@{dns.port}: {said}"
    dns.mend("shop.example")
    with pytest.raises(DnsFailure):
        await asking.resolver.lookup("shop.example", "TXT")
    asking.now = 6
    assert (await asking.resolver.lookup("shop.example", "TXT")).texts
    assert asking.outcomes == ["failed", "cached", "answered"]


async def test_a_cancelled_lookup_does_not_cancel_the_others(dns: NameServer) -> None:
    asking = Asking(dns)
    first = asyncio.create_task(asking.resolver.lookup("shop.example", "TXT"))
    second = asyncio.create_task(asking.resolver.lookup("shop.example", "TXT"))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).texts


async def test_a_silent_name_server_leaves_time_for_the_next(dns: NameServer) -> None:
    with NameServer() as dead:
        dead.fail("shop.example", "silence")
        asking = Asking(dead, dns, timeout=0.6)
        assert (await asking.resolver.lookup("shop.example", "TXT")).texts


@pytest.mark.parametrize(("minimum", "until"), [(10, 10), (9_000, 300)])
async def test_an_absence_is_cached_for_as_long_as_its_zone_says(
    dns: NameServer, minimum: int, until: int
) -> None:
    dns.add(f"shop.example. SOA ns.shop.example. admin.shop.example. 1 2 3 4 {minimum}")
    dns.ttl = 9_000
    asking = Asking(dns)
    for name, kind in (("new.shop.example", "TXT"), ("shop.example", "A")):
        for asking.now, asked in ((0.0, 1), (until - 1.0, 1), (until + 1.0, 2)):
            assert not (await asking.resolver.lookup(name, kind)).values  # type: ignore[arg-type]
            assert dns.count(name, kind) == asked


async def test_an_alias_is_followed_anew_after_its_own_ttl(dns: NameServer) -> None:
    dns.add("key.shop.example. CNAME shop.example.")
    dns.ttls["key.shop.example"] = 5
    asking = Asking(dns)
    for asking.now, asked in ((0.0, 1), (4.0, 1), (6.0, 2)):
        assert (await asking.resolver.lookup("key.shop.example", "TXT")).texts
        assert dns.count("key.shop.example", "TXT") == asked


@pytest.fixture
def write_resolv_conf(
    dns: NameServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[[bytes], object]:
    """Writes the system's name servers, which have the port of `dns`."""
    reset = BaseResolver.reset

    def with_port(self: BaseResolver) -> None:
        reset(self)
        self.port = dns.port

    monkeypatch.setattr(BaseResolver, "reset", with_port)
    monkeypatch.setattr("smtpproxy.resolver._SYSTEM", tmp_path / "resolv.conf")
    return (tmp_path / "resolv.conf").write_bytes


@pytest.mark.parametrize(
    "text",
    [
        b"# r\xe9seau\nnameserver 127.0.0.1\n",
        b"options timeout:0\nnameserver 127.0.0.1\n",
        b"options timeout:5\nnameserver 127.0.0.9\nnameserver 127.0.0.1\n",
    ],
)
async def test_the_systems_name_servers_are_asked(
    write_resolv_conf: Callable[[bytes], object], text: bytes
) -> None:
    write_resolv_conf(text)
    assert (await Asking().resolver.lookup("shop.example", "TXT")).texts


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"nameserver 127.0.0.300\n", "nameserver 127.0.0.300 is not"),
        (b"search shop..example\nnameserver 127.0.0.1\n", "label is empty"),
        (b"", "no nameservers"),
    ],
)
async def test_a_fault_in_resolv_conf_is_named_until_it_is_mended(
    write_resolv_conf: Callable[[bytes], object], text: bytes, said: str
) -> None:
    asking = Asking()
    write_resolv_conf(text)
    with pytest.raises(DnsFailure, match=f"resolv.conf: .*{said}"):
        await asking.resolver.lookup("shop.example", "TXT")
    write_resolv_conf(b"nameserver 127.0.0.1\n")
    asking.now = 6
    assert (await asking.resolver.lookup("shop.example", "TXT")).texts


async def test_other_name_servers_of_the_system_are_noticed(
    write_resolv_conf: Callable[[bytes], object],
) -> None:
    asking = Asking()
    write_resolv_conf(b"nameserver 127.0.0.9\n")
    with pytest.raises(DnsFailure, match=r"127\.0\.0\.9"):
        await asking.resolver.lookup("shop.example", "TXT")
    write_resolv_conf(b"nameserver 127.0.0.1\n")
    assert (await asking.resolver.lookup("shop.example", "MX")).exchangers


async def test_a_failure_says_if_only_tcp_failed(dns: NameServer) -> None:
    dns.fail("shop.example", "no tcp")
    with pytest.raises(DnsFailure, match=rf"name server 127\.0\.0\.1@{dns.port} over TCP: "):
        await Asking(dns).resolver.lookup("shop.example", "TXT")
