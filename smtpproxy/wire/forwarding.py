"""XCLIENT, XFORWARD and the PROXY protocol: what a trusted host says about the client behind it.

The first two are Postfix extensions (XCLIENT_README, XFORWARD_README): names and values in xtext,
with a word in brackets for an unknown value. XCLIENT replaces the host by the client for the rest
of the session; XFORWARD is only for the record of the next message. The PROXY protocol, versions 1
and 2, follows HAProxy's proxy-protocol.txt.
"""

import ipaddress
import re
import struct
from functools import lru_cache

from msgspec import Struct
from msgspec.structs import replace

from smtpproxy.mail.reply import from_xtext, to_xtext
from smtpproxy.wire.commands import ClientInfo, CommandError, XClient, XForward
from smtpproxy.wire.session import Extension, SessionState

XCLIENT_NAMES = ("NAME", "ADDR", "PORT", "PROTO", "HELO", "LOGIN", "DESTADDR", "DESTPORT")
XFORWARD_NAMES = ("NAME", "ADDR", "PORT", "PROTO", "HELO", "IDENT", "SOURCE")
XCLIENT = Extension("XCLIENT", lambda _: " ".join(XCLIENT_NAMES))
XCLIENT_WITHOUT_LOGIN = Extension(
    "XCLIENT", lambda _: " ".join(name for name in XCLIENT_NAMES if name != "LOGIN")
)
"""For a host that is not trusted about logins, so that a client's login is unknown."""
XFORWARD = Extension("XFORWARD", lambda _: " ".join(XFORWARD_NAMES))

_UNKNOWN = frozenset({"[UNAVAILABLE]", "[TEMPUNAVAIL]"})
_ATTRIBUTE = re.compile(r"([A-Za-z]+)=([\x21-\x7e]*)")
_VALUE_LIMIT = 255  # octets, decoded


_FIELDS = {
    "ADDR": "address",
    "NAME": "name",
    "PORT": "port",
    "PROTO": "protocol",
    "HELO": "helo",
    "LOGIN": "login",
    "IDENT": "ident",
    "SOURCE": "source",
}


def read_xclient(session: SessionState, argument: str) -> XClient:
    _check_offered(session, "XCLIENT")
    client = _parse("XCLIENT", argument, XCLIENT_NAMES)
    if client.login and XCLIENT_WITHOUT_LOGIN in session.extensions:
        client = replace(client, login="")
    return XClient(client)


def read_xforward(session: SessionState, argument: str) -> XForward:
    _check_offered(session, "XFORWARD")
    return XForward(_parse("XFORWARD", argument, XFORWARD_NAMES))


def _check_offered(session: SessionState, verb: str) -> None:
    """Raise CommandError unless this host is offered the verb, as only trusted ones are."""
    if not session.offers(verb):
        raise CommandError(550, "5.7.0", f"{verb} is for trusted hosts only")


def _parse(verb: str, argument: str, names: tuple[str, ...]) -> ClientInfo:
    syntax = CommandError(501, "5.5.4", f"syntax: {verb} attribute=value, of {', '.join(names)}")
    if not argument.strip():
        raise syntax
    fields: dict[str, str] = {}
    for word in argument.split():
        found = _ATTRIBUTE.fullmatch(word)
        name = found[1].upper() if found else ""
        if found is None or name not in names:
            raise syntax
        value = "" if found[2].upper() in _UNKNOWN else from_xtext(found[2])
        if len(value.encode()) > _VALUE_LIMIT:
            raise CommandError(501, "5.5.4", f"{name} is longer than {_VALUE_LIMIT} octets")
        if name in _FIELDS:
            fields[_FIELDS[name]] = _address(value) if name == "ADDR" and value else value
    return ClientInfo(**fields)


def _address(value: str) -> str:
    text = value[5:] if value.upper().startswith("IPV6:") else value
    try:
        return _address_text(ipaddress.ip_address(text))
    except ValueError:
        raise CommandError(
            501, "5.5.4", "ADDR is not an IP address; IPv6 begins with IPV6:"
        ) from None


@lru_cache(maxsize=256)  # most clients send many messages
def xforward_command(client: ClientInfo, offered: frozenset[str]) -> bytes:
    """Return XFORWARD with the attributes that the upstream accepts; b"" if it accepts none."""
    return _command("XFORWARD", client, offered.intersection(XFORWARD_NAMES))


def xclient_command(client: ClientInfo, offered: frozenset[str]) -> bytes:
    """Return XCLIENT with the attributes that the upstream accepts; b"" if it accepts none."""
    return _command("XCLIENT", client, offered.intersection(XCLIENT_NAMES))


def _command(verb: str, client: ClientInfo, names: frozenset[str]) -> bytes:
    words = []
    for name, field in _FIELDS.items():
        value = getattr(client, field)
        if name not in names or value is None:
            continue
        if name == "ADDR" and ":" in value:
            value = f"IPV6:{value}"
        words.append(f"{name}={to_xtext(value) if value else '[UNAVAILABLE]'}")
    return f"{verb} {' '.join(words)}\r\n".encode() if words else b""


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
    """The input is not a PROXY header; the text says why."""


class ProxyHeader(Struct, frozen=True):
    """A PROXY header of `length` octets. `source` is the client's address.

    It is None if the header has none: LOCAL (`local`, the balancer's own health check), UNKNOWN, or
    a family that is not TCP.
    """

    length: int
    source: str | None = None
    local: bool = False


def parse_proxy(data: bytes) -> ProxyHeader | None:
    """Return the PROXY header that `data` begins with, or None while it is incomplete.

    Octets after it are ignored. Raises ProxyError.
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
        raise ProxyError("version 1 with something that is not an address") from None
    if {source.version, target.version} != {int(found["family"][3:])}:
        raise ProxyError("version 1 with an address of another family")
    return ProxyHeader(len(line), _address_text(source))


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
    return ProxyHeader(length, _address_text(ipaddress.ip_address(source)))


def _address_text(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """The address as text, IPv4-mapped IPv6 as IPv4, so that a client has only one."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)
