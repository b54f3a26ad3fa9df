"""XCLIENT and XFORWARD: what a trusted host says of the client behind it.

Both are extensions of Postfix (its XCLIENT_README and XFORWARD_README): names and values in
xtext, and words in brackets where nothing is known. XCLIENT puts the client in the place of
the host for the rest of the session; XFORWARD is for the record of the next message alone.
"""

import ipaddress
import re

from msgspec import Struct
from msgspec.structs import replace

from smtpproxy.mail.reply import from_xtext, to_xtext
from smtpproxy.wire.commands import CommandError
from smtpproxy.wire.session import Extension, SessionState

XCLIENT_NAMES = ("NAME", "ADDR", "PORT", "PROTO", "HELO", "LOGIN", "DESTADDR", "DESTPORT")
XFORWARD_NAMES = ("NAME", "ADDR", "PORT", "PROTO", "HELO", "IDENT", "SOURCE")
XCLIENT = Extension("XCLIENT", lambda session: " ".join(XCLIENT_NAMES))
XCLIENT_WITHOUT_LOGIN = Extension(
    "XCLIENT", lambda session: " ".join(name for name in XCLIENT_NAMES if name != "LOGIN")
)
"""For a host whose word on logins does not count: as whom a client logged in is not known then."""
XFORWARD = Extension("XFORWARD", lambda session: " ".join(XFORWARD_NAMES))

_UNKNOWN = frozenset({"[UNAVAILABLE]", "[TEMPUNAVAIL]"})
_ATTRIBUTE = re.compile(r"([A-Za-z]+)=([\x21-\x7e]*)")
_VALUE_LIMIT = 255  # octets, decoded


class ClientInfo(Struct, frozen=True):
    """What is known of a client; None where nothing was said, empty where nothing is known."""

    address: str | None = None  # IPv4 or IPv6, without a prefix
    name: str | None = None
    port: str | None = None
    protocol: str | None = None  # SMTP or ESMTP
    helo: str | None = None
    login: str | None = None
    ident: str | None = None  # the message's id at the host
    source: str | None = None  # LOCAL or REMOTE


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


class XClient(Struct, frozen=True):
    """XCLIENT; answered with 220 the session begins anew."""

    told: ClientInfo


class XForward(Struct, frozen=True):
    """XFORWARD, for the next transaction; a second one adds to the first."""

    told: ClientInfo


def read_xclient(session: SessionState, argument: str) -> XClient:
    _check_offered(session, "XCLIENT")
    told = _told("XCLIENT", argument, XCLIENT_NAMES)
    if told.login and XCLIENT_WITHOUT_LOGIN in session.extensions:
        told = replace(told, login="")
    return XClient(told)


def read_xforward(session: SessionState, argument: str) -> XForward:
    _check_offered(session, "XFORWARD")
    return XForward(_told("XFORWARD", argument, XFORWARD_NAMES))


def _check_offered(session: SessionState, verb: str) -> None:
    """Only trusted hosts are offered it, and to others there is no such thing."""
    if not session.offers(verb):
        raise CommandError(550, "5.7.0", f"{verb} is for trusted hosts only")


def _told(verb: str, argument: str, names: tuple[str, ...]) -> ClientInfo:
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
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise CommandError(501, "5.5.4", "ADDR is no IP address; IPv6 begins with IPV6:") from None


def xforward_command(told: ClientInfo, offered: frozenset[str]) -> bytes:
    """Return XFORWARD with what the upstream takes of `told`; nothing where it takes nothing."""
    return _command("XFORWARD", told, offered.intersection(XFORWARD_NAMES))


def xclient_command(told: ClientInfo, offered: frozenset[str]) -> bytes:
    """Return XCLIENT with what the upstream takes of `told`; nothing where it takes nothing."""
    return _command("XCLIENT", told, offered.intersection(XCLIENT_NAMES))


def _command(verb: str, told: ClientInfo, names: frozenset[str]) -> bytes:
    words = []
    for name, field in _FIELDS.items():
        value = getattr(told, field)
        if name not in names or value is None:
            continue
        if name == "ADDR" and ":" in value:
            value = f"IPV6:{value}"
        words.append(f"{name}={to_xtext(value) if value else '[UNAVAILABLE]'}")
    return f"{verb} {' '.join(words)}\r\n".encode() if words else b""
