"""SPF records: selected from TXT records, parsed, and their macros expanded (RFC 7208)."""

import ipaddress
import re
from collections.abc import Sequence
from typing import Literal
from urllib.parse import quote

from msgspec import Struct

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Qualifier = Literal["+", "-", "~", "?"]

_VERSION = re.compile(r"v=spf1( |$)", re.IGNORECASE)
_MODIFIER = re.compile(r"([A-Za-z][A-Za-z0-9_.-]*)=(.*)")
_MECHANISM = re.compile(r"([+?~-]?)([A-Za-z][A-Za-z0-9_.-]*)(.*)")
_LENGTHS = re.compile(r"(.*?)(?:/(0|[1-9][0-9]?))?(?://(0|[1-9][0-9]{0,2}))?")
_MACRO = re.compile(r"%(?:[%_-]|\{[slodiphcrtv][0-9]*r?[.+,/_=-]*\})", re.IGNORECASE)
_WITH_DOMAIN = frozenset({"include", "exists"})  # require one
_ADDRESSED = frozenset({"a", "mx"})


class SpfError(Exception):
    """A record that results in `permerror`; the text says why."""


class Mechanism(Struct, frozen=True):
    """`domain` is the domain-spec, empty for the current domain. `lengths` are the prefix lengths
    for IPv4 and IPv6, `network` is that of ip4 and ip6."""

    qualifier: Qualifier
    name: str
    domain: str = ""
    lengths: tuple[int, int] = (32, 128)
    network: Network | None = None


class SpfRecord(Struct, frozen=True):
    mechanisms: tuple[Mechanism, ...] = ()
    redirect: str = ""


def select(texts: Sequence[bytes]) -> str | None:
    """Return the SPF record, or None. Raises SpfError if there are several."""
    decoded = [text.decode("ascii", "replace") for text in texts]
    found = [text for text in decoded if _VERSION.match(text)]
    if len(found) > 1:
        raise SpfError(f"{len(found)} SPF records, where only one is allowed")
    return found[0] if found else None


def read_spf(text: str) -> SpfRecord:
    """Read a record that begins with `v=spf1`. Raises SpfError."""
    if not text.isascii() or "\N{REPLACEMENT CHARACTER}" in text:
        raise SpfError("it has characters that are not ASCII")
    mechanisms: list[Mechanism] = []
    modifiers: dict[str, str] = {}
    for term in text[len("v=spf1") :].split(" "):
        if not term:
            continue
        modifier = _MODIFIER.fullmatch(term)
        if modifier is None:
            mechanisms.append(_mechanism(term))
            continue
        name, value = modifier[1].lower(), modifier[2]
        if name in ("redirect", "exp"):
            if name in modifiers:
                raise SpfError(f"{name}= appears twice")
            modifiers[name] = _domain(value, term)
    return SpfRecord(tuple(mechanisms), modifiers.get("redirect", ""))


def _mechanism(term: str) -> Mechanism:
    found = _MECHANISM.fullmatch(term)
    if found is None:
        raise SpfError(f'"{term[:60]}" is not a mechanism')
    qualifier: Qualifier = {"-": "-", "~": "~", "?": "?"}.get(found[1], "+")  # type: ignore[assignment]
    name, rest = found[2].lower(), found[3]
    if name == "all" and not rest:
        return Mechanism(qualifier, name)
    if name in ("ip4", "ip6") and rest.startswith(":"):
        return Mechanism(qualifier, name, network=_network(rest[1:], int(name[2])))
    if name in _WITH_DOMAIN and rest.startswith(":"):
        return Mechanism(qualifier, name, _domain(rest[1:], term))
    if name in _ADDRESSED:
        return _addressed(qualifier, name, rest, term)
    if name == "ptr" and (not rest or rest.startswith(":")):
        return Mechanism(qualifier, name, _domain(rest[1:], term) if rest else "")
    raise SpfError(f'"{term[:60]}" is not a mechanism')


def _addressed(qualifier: Qualifier, name: str, rest: str, term: str) -> Mechanism:
    """`a` and `mx`: a domain and prefix lengths, either of which may be missing."""
    found = _LENGTHS.fullmatch(rest)
    assert found is not None  # its parts are all optional
    domain = found[1]
    lengths = int(found[2] or 32), int(found[3] or 128)
    if (domain and not domain.startswith(":")) or lengths[0] > 32 or lengths[1] > 128:
        raise SpfError(f'"{term[:60]}" is not a mechanism')
    return Mechanism(qualifier, name, _domain(domain[1:], term) if domain else "", lengths)


def _network(text: str, version: int) -> Network:
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        network = None
    if network is None or network.version != version or not re.fullmatch(r"[^/]+(/\d+)?", text):
        raise SpfError(f'"{text[:60]}" is not a network of IPv{version}')
    return network


def _domain(text: str, term: str) -> str:
    if not text or "%" in _MACRO.sub("", text):
        raise SpfError(f'"{term[:60]}" names no domain')
    return text


IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_EXPANDED = re.compile(r"%(?:([%_-])|\{([A-Za-z])([0-9]*)(r?)([.+,/_=-]*)\})", re.IGNORECASE)
_LITERALS = {"%": "%", "_": " ", "-": "%20"}
_NAME_OCTETS = 253


class SpfQuery(Struct, frozen=True):
    """The mail to check: `sender` is `local@domain`, `helo` the client's HELO name."""

    ip: IpAddress
    sender: str
    helo: str


def expand(text: str, domain: str, query: SpfQuery) -> str:
    """Return a domain-spec with its macros expanded, shortened from the left to 253 octets."""

    def filled(found: re.Match[str]) -> str:
        if found[1]:
            return _LITERALS[found[1]]
        letter, digits, delimiters = found[2], found[3], found[5] or "."
        parts = re.split(f"[{re.escape(delimiters)}]", _value(letter.lower(), domain, query))
        if found[4]:
            parts.reverse()
        if digits:
            parts = parts[-max(1, int(digits)) :]
        value = ".".join(parts)
        return quote(value, safe="-._~") if letter.isupper() else value

    name = _EXPANDED.sub(filled, text).rstrip(".")
    while len(name) > _NAME_OCTETS and "." in name:
        name = name.partition(".")[2]
    return name


def _value(letter: str, domain: str, query: SpfQuery) -> str:
    ip, (local, _, sender_domain) = query.ip, query.sender.rpartition("@")
    values = {
        "s": query.sender,
        "l": local or "postmaster",
        "o": sender_domain,
        "d": domain,
        "i": str(ip) if ip.version == 4 else ".".join(ip.exploded.replace(":", "")),
        "c": str(ip),
        "v": "in-addr" if ip.version == 4 else "ip6",
        "h": query.helo,
    }
    return values.get(letter, "unknown")  # p is discouraged (7.3), r and t do not apply here
