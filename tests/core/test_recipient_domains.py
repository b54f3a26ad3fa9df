"""DNS lookups of recipients' domains, and what the answers mean."""

import time
from collections.abc import Iterator

import pytest

from smtpproxy.core.domains import RecipientDomains
from smtpproxy.resolver import Resolver
from smtpproxy.settings import DnsSettings, TcpAddress
from tests.kit.dns import NameServer
from tests.kit.ports import LOOPBACK


@pytest.fixture
def dns() -> Iterator[NameServer]:
    with NameServer(
        "null.example MX 0 .",
        "mixed.example MX 0 .",
        "mixed.example MX 10 mail.mixed.example.",
        "good.example MX 10 mail.good.example.",
        "bare.example A 192.0.2.1",
        "xn--exmple-cua.example MX 0 .",
    ) as server:
        yield server


def _domains(dns: NameServer, patience: float = 5.0) -> RecipientDomains:
    settings = DnsSettings((TcpAddress(LOOPBACK, dns.port),), timeout=patience)
    return RecipientDomains(Resolver(settings, time.monotonic), patience)


async def test_a_null_mx_counts_only_if_it_is_the_only_mx(dns: NameServer) -> None:
    known = await _domains(dns).null_mx(
        [f"a@{name}.example" for name in ("null", "mixed", "good", "bare", "nowhere")]
    )
    assert known == {
        "a@null.example": True,
        "a@mixed.example": False,
        "a@good.example": False,
        "a@bare.example": False,
        "a@nowhere.example": False,
    }


async def test_a_domain_is_looked_up_once_for_all_its_recipients(dns: NameServer) -> None:
    domains = _domains(dns)
    people = ["a@null.example", "b@null.example", "ä@xn--exmple-cua.example"]
    assert await domains.null_mx(people) == dict.fromkeys(people, True)
    await domains.null_mx(people)
    assert dns.count("null.example", "MX") == 1


@pytest.mark.parametrize("fault", ["servfail", "refused", "silence", "garbage"])
async def test_nothing_is_known_without_an_answer(dns: NameServer, fault: str) -> None:
    dns.fail("good.example", fault)  # type: ignore[arg-type]
    began = time.monotonic()
    known = await _domains(dns, patience=0.5).null_mx(["a@good.example", "a@null.example"])
    assert known == {"a@null.example": True}
    assert time.monotonic() - began < 5


async def test_names_that_can_have_no_mx_are_not_looked_up(dns: NameServer) -> None:
    assert await _domains(dns).null_mx(["a@[192.0.2.1]", "root@localhost"]) == {}
    assert dns.asked == []
