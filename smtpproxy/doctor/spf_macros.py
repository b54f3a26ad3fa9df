"""What stands for the sender, the domain and the address in SPF records (RFC 7208 section 7)."""

import ipaddress
import re
from urllib.parse import quote

from msgspec import Struct

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_MACRO = re.compile(r"%(?:([%_-])|\{([A-Za-z])([0-9]*)(r?)([.+,/_=-]*)\})", re.IGNORECASE)
_LITERALS = {"%": "%", "_": " ", "-": "%20"}
_NAME_OCTETS = 253


class Asked(Struct, frozen=True):
    """Whose mail it is: `sender` is `local@domain`, `helo` the name that the client gave."""

    ip: IpAddress
    sender: str
    helo: str


def expand(text: str, domain: str, asked: Asked) -> str:
    """Return a domain-spec with its macros filled in, cut from the left to a name's length."""

    def filled(found: re.Match[str]) -> str:
        if found[1]:
            return _LITERALS[found[1]]
        letter, digits, delimiters = found[2], found[3], found[5] or "."
        parts = re.split(f"[{re.escape(delimiters)}]", _value(letter.lower(), domain, asked))
        if found[4]:
            parts.reverse()
        if digits:
            parts = parts[-max(1, int(digits)) :]
        value = ".".join(parts)
        return quote(value, safe="-._~") if letter.isupper() else value

    name = _MACRO.sub(filled, text).rstrip(".")
    while len(name) > _NAME_OCTETS and "." in name:
        name = name.partition(".")[2]
    return name


def _value(letter: str, domain: str, asked: Asked) -> str:
    local, _, sender_domain = asked.sender.rpartition("@")
    match letter:
        case "s":
            return asked.sender
        case "l":
            return local or "postmaster"
        case "o":
            return sender_domain
        case "d":
            return domain
        case "i":
            return _dotted(asked.ip)
        case "c":
            return str(asked.ip)
        case "v":
            return "in-addr" if asked.ip.version == 4 else "ip6"
        case "h":
            return asked.helo
    return "unknown"  # p: its use is discouraged (7.3), and r and t have none here


def _dotted(ip: IpAddress) -> str:
    return str(ip) if ip.version == 4 else ".".join(ip.exploded.replace(":", ""))
