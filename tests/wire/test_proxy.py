"""Headers of the PROXY protocol: whole, cut anywhere, and malformed.

Invariant: a header never consumes an octet that follows it and reads the same however it is cut;
nothing else is taken for a header.
"""

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpproxy.wire.forwarding import V1_LIMIT, ProxyError, ProxyHeader, parse_proxy
from tests.wire.feeding import quick

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
BEHIND = st.sampled_from([b"", b"EHLO x\r\n", b"\x16\x03\x01", b"PROXY TCP4 x\r\n", b"\r\n"])


def version_2(command: int, family: int, body: bytes, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return SIGNATURE + struct.pack("!BBH", command, family, size) + body


def addresses(source: str, target: str = "") -> bytes:
    one = ipaddress.ip_address(source).packed
    return one + (ipaddress.ip_address(target).packed if target else one) + b"\x30\x39\x00\x19"


GOOD = [
    (b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 25\r\n", "192.0.2.7", False),
    (b"PROXY TCP6 2001:DB8::7 2001:db8::1 56324 25\r\n", "2001:db8::7", False),
    (b"PROXY TCP6 ::ffff:192.0.2.7 ::1 1 25\r\n", "192.0.2.7", False),
    (b"PROXY UNKNOWN\r\n", None, False),
    (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", None, False),
    (version_2(0x21, 0x11, addresses("192.0.2.7")), "192.0.2.7", False),
    (version_2(0x21, 0x21, addresses("2001:db8::7")), "2001:db8::7", False),
    (version_2(0x21, 0x11, addresses("192.0.2.7") + b"\x04\x00\x02hi"), "192.0.2.7", False),
    (version_2(0x20, 0x00, b""), None, True),
    (version_2(0x20, 0x11, addresses("192.0.2.7")), None, True),
    (version_2(0x21, 0x00, b""), None, False),
    (version_2(0x21, 0x31, b"\0" * 216), None, False),
    (version_2(0x21, 0x12, addresses("192.0.2.7")), None, False),
]


@pytest.mark.parametrize(("data", "source", "local"), GOOD)
def test_good_headers(data: bytes, source: str | None, local: bool) -> None:
    assert parse_proxy(data) == ProxyHeader(len(data), source, local)
    assert parse_proxy(data + b"EHLO x\r\n") == ProxyHeader(len(data), source, local)
    for end in range(len(data)):
        assert parse_proxy(data[:end]) is None, data[:end]


@pytest.mark.parametrize(
    "data",
    [
        b"EHLO client.example\r\n",
        b"\x16\x03\x01\x02\x00",
        b"proxy TCP4 192.0.2.7 198.51.100.1 1 25\r\n",
        b"PROXY  TCP4 192.0.2.7 198.51.100.1 1 25\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 1\r\n",
        b"PROXY TCP4 192.0.2.777 198.51.100.1 1 25\r\n",
        b"PROXY TCP4 2001:db8::1 2001:db8::2 1 25\r\n",
        b"PROXY TCP6 192.0.2.7 198.51.100.1 1 25\r\n",
        b"PROXY TCP4 2001:db8::1 198.51.100.1 1 25\r\n",
        b"PROXY TCP4 192.0.2.7 2001:db8::1 1 25\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 65536 25\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 1 25 \r\n",
        b"PROXY UDP4 192.0.2.7 198.51.100.1 1 25\r\n",
        b"PROXY " + b"x" * V1_LIMIT,
        b"PROXY UNKNOWN" + b" " * V1_LIMIT + b"\r\n",
        SIGNATURE[:-1] + b"\r" + b"\0" * 20,
        version_2(0x21, 0x11, addresses("192.0.2.7")).replace(b"QUIT", b"QUIX"),
        version_2(0x11, 0x11, addresses("192.0.2.7")),
        version_2(0x22, 0x11, addresses("192.0.2.7")),
        version_2(0x21, 0x41, addresses("192.0.2.7")),
        version_2(0x21, 0x11, addresses("192.0.2.7")[:-1]),
        version_2(0x21, 0x21, addresses("192.0.2.7")),
        version_2(0x21, 0x11, b"", 65_535),
    ],
)
def test_malformed_headers_are_rejected(data: bytes) -> None:
    with pytest.raises(ProxyError):
        parse_proxy(data)


@quick
@given(st.ip_addresses(), st.binary(max_size=40), BEHIND, st.integers(0, 200))
def test_any_address_cut_anywhere(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
    tlvs: bytes,
    behind: bytes,
    at: int,
) -> None:
    family = 0x11 if address.version == 4 else 0x21
    header = version_2(0x21, family, addresses(str(address)) + tlvs)
    found = parse_proxy((header + behind)[:at])
    if at < len(header):
        assert found is None
    else:
        assert found is not None
        assert found.length == len(header)
        mapped = getattr(address, "ipv4_mapped", None)
        assert found.source == str(mapped or address)


@quick
@given(st.binary(max_size=120))
def test_arbitrary_octets(data: bytes) -> None:
    try:
        found = parse_proxy(data)
    except ProxyError:
        return
    assert found is None or found.length <= len(data)
