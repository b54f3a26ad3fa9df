"""A correctly set up mail domain on a private name server, for tests to break."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from smtpproxy.doctor.finding import Lookup
from smtpproxy.relay.dkim_signing import SigningKey, new_key
from smtpproxy.resolver import Resolver
from smtpproxy.settings import DnsSettings, TcpAddress
from tests.kit.dns import NameServer
from tests.kit.ports import LOOPBACK

DOMAIN = "shop.example"
SPF = 'shop.example TXT "v=spf1 ip4:192.0.2.25 -all"'
DMARC = '_dmarc.shop.example TXT "v=DMARC1; p=reject; rua=mailto:dmarc@shop.example"'


@pytest.fixture
def key_file(tmp_path: Path) -> tuple[Path, SigningKey]:
    pem, key = new_key("ed25519")
    path = tmp_path / "s1.pem"
    path.write_bytes(pem)
    path.chmod(0o600)
    return path, key


@pytest.fixture
def dns(key_file: tuple[Path, SigningKey]) -> Iterator[NameServer]:
    with NameServer(
        SPF,
        DMARC,
        f's1._domainkey.shop.example TXT "{key_file[1].record}"',
        "shop.example MX 10 mta.shop.example.",
        "mta.shop.example A 192.0.2.25",
        "25.2.0.192.in-addr.arpa PTR mta.shop.example.",
        'relay.example TXT "v=spf1 ip4:192.0.2.25 -all"',
        "unsubscribe.shop.example A 127.0.0.1",
    ) as server:
        yield server


@pytest.fixture
def lookup(dns: NameServer) -> Lookup:
    settings = DnsSettings((TcpAddress(LOOPBACK, dns.port),), timeout=1.0)

    async def ask(name: str, kind: object) -> object:
        # Made anew for each query, as a test may have changed the zone.
        return await Resolver(settings, time.monotonic).lookup(name, kind)  # type: ignore[arg-type]

    return ask  # type: ignore[return-value]
