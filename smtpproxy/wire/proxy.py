"""The header of the PROXY protocol, versions 1 and 2: who really connected.

As HAProxy's proxy-protocol.txt has it. `parse` is given what has come so far.
"""

import ipaddress
import re
import struct

from msgspec import Struct

V1_LIMIT = 107  # octets, with CRLF
V2_LIMIT = 16 + 4096  # addresses and TLVs; more than any balancer sends

_V2_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_V1 = re.compile(
    rb"PROXY (?:(?P<family>TCP[46]) (?P<source>[0-9a-fA-F:.]{2,39}) (?P<target>[0-9a-fA-F:.]{2,39})"
    rb" (?P<port>[0-9]{1,5}) (?P<to>[0-9]{1,5})|UNKNOWN(?: [^\r\n]*)?)\r\n"
)
_V2_ADDRESSES = {0x11: ("!4s4sHH", 12), 0x21: ("!16s16sHH", 36)}  # TCP over IPv4, IPv6
_V2_KNOWN = {0x00, 0x11, 0x12, 0x21, 0x22, 0x31, 0x32}


class ProxyError(Exception):
    """This is no header of the PROXY protocol; the text says why."""


class ProxyHeader(Struct, frozen=True):
    """`length` octets were the header. `source` is the client's address.

    It is None where the header names none: LOCAL (`local`, a health check of the balancer
    itself), UNKNOWN, or a family that is not TCP.
    """

    length: int
    source: str | None = None
    local: bool = False


def parse(data: bytes) -> ProxyHeader | None:
    """Return the header that `data` begins with, None while more has to come.

    Octets behind it are left alone. Raises ProxyError.
    """
    if data[:1] == b"\r":
        return _version_2(data)
    if not data.startswith(b"PROXY "[: len(data)]):
        raise ProxyError("it begins like neither version")
    end = data.find(b"\r\n", 0, V1_LIMIT)
    if end < 0:
        if len(data) >= V1_LIMIT:
            raise ProxyError(f"version 1 without a line end in {V1_LIMIT} octets")
        return None
    return _version_1(data[: end + 2])


def _version_1(line: bytes) -> ProxyHeader:
    found = _V1.fullmatch(line)
    if found is None:
        raise ProxyError("version 1 with a wrong line")
    if found["family"] is None:
        return ProxyHeader(len(line))
    if int(found["port"]) > 65535 or int(found["to"]) > 65535:
        raise ProxyError("version 1 with a port above 65535")
    try:
        source, target = (
            ipaddress.ip_address(found[name].decode()) for name in ("source", "target")
        )
    except ValueError:
        raise ProxyError("version 1 with something that is no address") from None
    if {source.version, target.version} != {int(found["family"][3:])}:
        raise ProxyError("version 1 with an address of another family")
    return ProxyHeader(len(line), _plain(source))


def _version_2(data: bytes) -> ProxyHeader | None:
    if not data.startswith(_V2_SIGNATURE[: len(data)]):
        raise ProxyError("it begins like neither version")
    if len(data) < 16:
        return None
    command, family, rest = struct.unpack_from("!BBH", data, 12)
    if command not in (0x20, 0x21):
        raise ProxyError("version 2 with an unknown version or command")
    if family not in _V2_KNOWN:
        raise ProxyError("version 2 with an unknown family")
    length = 16 + rest
    if length > V2_LIMIT:
        raise ProxyError(f"version 2 with more than {V2_LIMIT} octets")
    if len(data) < length:
        return None
    if command == 0x20:
        return ProxyHeader(length, local=True)
    if family not in _V2_ADDRESSES:
        return ProxyHeader(length)
    layout, size = _V2_ADDRESSES[family]
    if rest < size:
        raise ProxyError("version 2 without room for its addresses")
    source = struct.unpack_from(layout, data, 16)[0]
    return ProxyHeader(length, _plain(ipaddress.ip_address(source)))


def _plain(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """An IPv4 address in IPv6's clothes is one and the same client."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)
