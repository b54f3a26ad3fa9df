"""The resolver: answers, failures, and the cache."""

import asyncio
from collections.abc import Iterator

import pytest

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


async def test_concurrent_lookups_send_one_query(dns: NameServer) -> None:
    asking = Asking(dns)
    await asyncio.gather(*(asking.resolver.lookup("shop.example", "MX") for _ in range(20)))
    assert dns.count("shop.example", "MX") == 1


@pytest.mark.parametrize("fault", ["servfail", "refused", "silence", "garbage"])
async def test_a_failure_is_cached_for_a_while(dns: NameServer, fault: str) -> None:
    asking = Asking(dns)
    dns.fail("shop.example", fault)  # type: ignore[arg-type]
    said = {"servfail": "SERVFAIL", "refused": "REFUSED"}.get(fault, "The DNS operation timed out")
    with pytest.raises(DnsFailure, match=r"TXT shop\.example") as failed:
        await asking.resolver.lookup("shop.example", "TXT")
    assert f"TXT shop.example: name server 127.0.0.1@{dns.port}: {said}" in str(failed.value)
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
