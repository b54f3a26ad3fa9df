"""SPF (RFC 7208), with a name server that tests fill."""

import ipaddress
import time
from collections.abc import Iterator

import pytest

from smtpproxy.doctor.spf import Spf, check_host
from smtpproxy.doctor.spf_record import SpfError, SpfQuery, expand, read_spf
from smtpproxy.resolver import Resolver
from smtpproxy.settings import DnsSettings, TcpAddress
from tests.kit.dns import NameServer
from tests.kit.ports import LOOPBACK

FOUR, SIX = "192.0.2.25", "2001:db8::cb01"
DOMAIN = "shop.example"


@pytest.fixture
def dns() -> Iterator[NameServer]:
    with NameServer(
        "mail.shop.example A 192.0.2.25",
        "mail.shop.example AAAA 2001:db8::cb01",
        "shop.example MX 10 mail.shop.example.",
        "shop.example A 192.0.2.80",
        'net.example TXT "v=spf1 ip4:192.0.2.0/24 -all"',
        'none.example TXT "some other text"',
        'loop.example TXT "v=spf1 include:loop.example -all"',
        "25.2.0.192.in-addr.arpa PTR mail.shop.example.",
    ) as server:
        server.fail("silent.example", "servfail")
        yield server


async def check(dns: NameServer, record: str | None, ip: str = FOUR) -> Spf:
    if record is not None:
        dns.add(f'{DOMAIN} TXT "{record}"')
    settings = DnsSettings((TcpAddress(LOOPBACK, dns.port),), timeout=1.0)
    query = SpfQuery(ipaddress.ip_address(ip), f"news@{DOMAIN}", "mail.shop.example")
    return await check_host(Resolver(settings, time.monotonic).lookup, query, DOMAIN)


@pytest.mark.parametrize(
    ("record", "ip", "expected"),
    [
        (None, FOUR, "none"),
        ("v=spf1 -all", FOUR, "fail"),
        ("v=spf1 ~all", FOUR, "softfail"),
        ("v=spf1 ?all", FOUR, "neutral"),
        ("v=spf1", FOUR, "neutral"),
        ("v=spf1 +all", FOUR, "pass"),
        ("V=SPF1 IP4:192.0.2.25 -ALL", FOUR, "pass"),
        ("v=spf1 ip4:192.0.2.0/27 -all", FOUR, "pass"),
        ("v=spf1 ip4:192.0.2.32/27 -all", FOUR, "fail"),
        ("v=spf1 ip6:2001:db8::/32 -all", SIX, "pass"),
        ("v=spf1 ip6:2001:db8::/32 -all", FOUR, "fail"),
        ("v=spf1 a -all", FOUR, "fail"),
        ("v=spf1 a/24 -all", FOUR, "pass"),
        ("v=spf1 a:mail.shop.example -all", FOUR, "pass"),
        ("v=spf1 a:mail.shop.example/32//64 -all", "2001:db8::1", "pass"),
        ("v=spf1 a:mail.shop.example/32//64 -all", "2001:db8:1::1", "fail"),
        ("v=spf1 mx -all", FOUR, "pass"),
        ("v=spf1 mx -all", SIX, "pass"),
        ("v=spf1 mx -all", "192.0.2.26", "fail"),
        ("v=spf1 include:net.example -all", FOUR, "pass"),
        ("v=spf1 include:net.example -all", "198.51.100.1", "fail"),
        ("v=spf1 -include:net.example +all", FOUR, "fail"),
        ("v=spf1 include:none.example -all", FOUR, "permerror"),
        ("v=spf1 redirect=net.example", FOUR, "pass"),
        ("v=spf1 redirect=none.example", FOUR, "permerror"),
        ("v=spf1 ?all redirect=net.example", FOUR, "neutral"),
        ("v=spf1 exists:%{l}.by.%{d} -all", FOUR, "fail"),
        ("v=spf1 exists:mail.%{d2} -all", FOUR, "pass"),
        ("v=spf1 ptr -all", FOUR, "pass"),
        ("v=spf1 ptr:other.example -all", FOUR, "fail"),
        ("v=spf1 include:silent.example -all", FOUR, "temperror"),
        ("v=spf1 ip4:192.0.2.25 include:silent.example", FOUR, "pass"),
        ("v=spf1 include:loop.example", FOUR, "permerror"),
        ("v=spf1 a:x1.example a:x2.example a:x3.example", FOUR, "permerror"),
        ("v=spf1 a: -all", FOUR, "permerror"),
        ("v=spf1 ip4:mail.shop.example -all", FOUR, "permerror"),
        ("v=spf1 ip4:192.0.2.25/33 -all", FOUR, "permerror"),
        ("v=spf1 a/33 -all", FOUR, "permerror"),
        ("v=spf1 a//129 -all", FOUR, "permerror"),
        ("v=spf1 a.example -all", FOUR, "permerror"),
        ("v=spf1 !all", FOUR, "permerror"),
        ("v=spf1 allow:all", FOUR, "permerror"),
        ("v=spf1 unknown=modifier ip4:192.0.2.25", FOUR, "pass"),
        ("v=spf1 redirect=a.example redirect=b.example", FOUR, "permerror"),
    ],
)
async def test_the_result_for_an_address(
    dns: NameServer, record: str | None, ip: str, expected: str
) -> None:
    assert (await check(dns, record, ip)).result == expected


async def test_two_records_are_an_error(dns: NameServer) -> None:
    dns.add(f'{DOMAIN} TXT "v=spf1 -all"')
    found = await check(dns, "v=spf1 +all")
    assert (found.result, found.problem) == (
        "permerror",
        "2 SPF records, where only one is allowed",
    )


@pytest.mark.parametrize(("terms", "expected"), [(10, "pass"), (11, "permerror")])
async def test_at_most_ten_terms_may_query_the_dns(
    dns: NameServer, terms: int, expected: str
) -> None:
    for number in range(terms):
        dns.add(f'n{number}.example TXT "v=spf1 ip4:198.51.100.{number}"')
    includes = " ".join(f"include:n{number}.example" for number in range(terms))
    found = await check(dns, f"v=spf1 {includes} ip4:{FOUR}")
    assert found.result == expected


@pytest.mark.parametrize(("hosts", "expected"), [(10, "pass"), (11, "permerror")])
async def test_mx_may_name_at_most_ten_hosts(dns: NameServer, hosts: int, expected: str) -> None:
    for number in range(hosts):
        dns.add(f"many.example MX {number} h{number}.example.")
        dns.add(f"h{number}.example A {'192.0.2.25' if number == 9 else '198.51.100.1'}")
    assert (await check(dns, "v=spf1 mx:many.example -all")).result == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [  # RFC 7208 section 7.4
        ("%{s}", "strong-bad@email.example.com"),
        ("%{o}", "email.example.com"),
        ("%{d4}", "email.example.com"),
        ("%{d2}", "example.com"),
        ("%{d1}", "com"),
        ("%{dr}", "com.example.email"),
        ("%{d2r}", "example.email"),
        ("%{l}", "strong-bad"),
        ("%{l-}", "strong.bad"),
        ("%{lr-}", "bad.strong"),
        ("%{l1r-}", "strong"),
        ("%{ir}.%{v}._spf.%{d2}", "3.2.0.192.in-addr._spf.example.com"),
        ("%{lr-}.lp._spf.%{d2}", "bad.strong.lp._spf.example.com"),
        ("%{ir}.%{v}.%{l1r-}.lp._spf.%{d2}", "3.2.0.192.in-addr.strong.lp._spf.example.com"),
        ("%{d2}.trusted-domains.example.net", "example.com.trusted-domains.example.net"),
        ("%%a%_b%-", "%a b%20"),
    ],
)
def test_the_macros_of_the_rfc(text: str, expected: str) -> None:
    query = SpfQuery(
        ipaddress.ip_address("192.0.2.3"), "strong-bad@email.example.com", "mail.example.com"
    )
    assert expand(text, "email.example.com", query) == expected


def test_an_ipv6_address_is_expanded_into_nibbles() -> None:
    query = SpfQuery(ipaddress.ip_address(SIX), "strong-bad@email.example.com", "mail.example.com")
    reverse = "1.0.b.c.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2"
    assert expand("%{ir}.%{v}._spf.%{d2}", "email.example.com", query) == (
        f"{reverse}.ip6._spf.example.com"
    )


@pytest.mark.parametrize("text", ["v=spf1 a:%{x}.example", "v=spf1 a:100%", "v=spf1 exists:%{d"])
def test_a_malformed_macro_is_an_error(text: str) -> None:
    with pytest.raises(SpfError):
        read_spf(text)
