"""Whether a URI leads its reader out: one that a template left unfinished, that is no URI, or
whose host is nowhere does not, however well it works for its developer."""

import re
from enum import StrEnum
from functools import lru_cache
from urllib.parse import unquote

from msgspec import Struct

from smtpproxy.mail.address import AddressError, canonical

_SHOWN = 60  # characters of what is wrong


class FaultKind(StrEnum):
    PLACEHOLDER = "placeholder"
    CHARACTERS = "characters"
    HOST = "host"
    ADDRESS = "address"


class UriFault(Struct, frozen=True):
    """Why a URI is of no use; `found` is the part of it that is wrong."""

    kind: FaultKind
    found: str


# What stands in templates where a value is to come, plain or percent-encoded. The names that
# undo false alarms: IPv6 literals, `a[b]=c`, `%20`, GUIDs and JSON in braces.
_NAME = r"[A-Za-z][A-Za-z0-9_ .:|-]{0,60}"
_PLACEHOLDER = re.compile(
    r"\{\{[^{}]{0,80}\}\}|\{%[^{}]{0,80}%\}|[$#%@]?\{[^{}]{0,80}\}"
    r"|%7B%7B.{0,80}?%7D%7D|(?:%24|%23)?%7B(?:%20|\+)?[A-Za-z_][A-Za-z_.]{0,60}(?:%20|\+)?%7D"
    r"|\*(?:\||%7C)[^|%]{0,80}(?:\||%7C)\*"
    rf"|\[\[[^\[\]]{{0,80}}\]\]|(?<![\w\]])\[{_NAME}\]"
    rf"|(%%|@@|##|\$\$|~~){_NAME}\1|%[A-Za-z][A-Za-z0-9_.]{{2,60}}%(?![0-9A-Fa-f]{{2}})"
    r"|(?<!_)__[A-Za-z_]{0,30}(?:unsub|opt_?out|mail|token|link|url)[A-Za-z_]{0,30}__",
    re.IGNORECASE,
)
# RFC 3986 appendix A. Possessive, so that no octet is read twice.
_PCHAR = r"[A-Za-z0-9._~:@!$&'()*+,;=-]|%[0-9A-Fa-f]{2}"
_AUTHORITY = re.compile(rf"(?:{_PCHAR}|[\[\]])*+")
_REST = re.compile(rf"(?:{_PCHAR}|[/?])*+(?:#(?:{_PCHAR}|[/?])*+)?")
_WEB = re.compile(r"https?:(?://([^/?#]*))?(.*)", re.IGNORECASE | re.DOTALL)
# Most links: nothing in them can be a placeholder or out of place, and only the host is looked at.
_PLAIN = re.compile(r"https://([A-Za-z0-9.-]+)(?:/(?:[A-Za-z0-9.,/?=&+:;-]|_(?!_))*+)?")
_MAILTO = re.compile(r"mailto:([^?#]*)(.*)", re.IGNORECASE | re.DOTALL)
_PORT = re.compile(r":[0-9]{0,5}")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.IGNORECASE)
# RFC 6761, 6762, 8375; what IANA keeps for documents and templates leave in. Names under
# .example and .test are not here: they are what tests of the way out itself use.
_NOWHERE = (
    *("localhost", "localdomain", "local", "invalid", "internal", "home.arpa"),
    *("example.com", "example.net", "example.org"),
)


def header_fault(uri: str) -> UriFault | None:
    """Return why a URI of List-Unsubscribe is of no use; None where nothing is wrong."""
    plain = _PLAIN.fullmatch(uri)
    if plain is not None:
        return _host_fault(plain[1])
    found = _PLACEHOLDER.search(uri)
    if found is not None:
        return _fault(FaultKind.PLACEHOLDER, found[0])
    web, mail = _WEB.fullmatch(uri), _MAILTO.fullmatch(uri)
    if mail is not None:
        return _stranger(_REST, mail[1] + mail[2]) or _mailbox_fault(mail[1])
    if web is None:
        return _stranger(_REST, uri)
    authority = web[1] or ""
    return (
        _stranger(_AUTHORITY, authority) or _stranger(_REST, web[2]) or _authority_fault(authority)
    )


def link_fault(uri: str) -> UriFault | None:
    """Return why a link in a text is of no use. Characters do not matter: browsers mend them."""
    found = _PLACEHOLDER.search(uri)
    if found is not None:
        return _fault(FaultKind.PLACEHOLDER, found[0])
    web, mail = _WEB.fullmatch(uri), _MAILTO.fullmatch(uri)
    if mail is not None:
        return _mailbox_fault(mail[1])
    return None if web is None else _authority_fault(web[1] or "")


def placeholder(text: str) -> UriFault | None:
    """Return what a template left in a text that holds no URI at all."""
    found = _PLACEHOLDER.search(text)
    return None if found is None else _fault(FaultKind.PLACEHOLDER, found[0])


def _stranger(allowed: re.Pattern[str], text: str) -> UriFault | None:
    found = allowed.match(text)
    end = 0 if found is None else found.end()
    if end == len(text):
        return None
    return _fault(FaultKind.CHARACTERS, text[end : end + 3] if text[end] == "%" else text[end])


def _authority_fault(authority: str) -> UriFault | None:
    host = authority.rpartition("@")[2]
    if host.startswith("["):
        return _fault(FaultKind.HOST, host)
    host, colon, port = host.partition(":")
    if not _PORT.fullmatch(colon + port or ":") or int(port or 0) > 65_535:
        return _fault(FaultKind.HOST, f"{host}:{port}")
    return _host_fault(host)


def _mailbox_fault(path: str) -> UriFault | None:
    """A mailto URI may name several mailboxes (RFC 6068 section 2); each has to be one."""
    for written in path.split(","):
        try:
            host = canonical(unquote(written)).rpartition("@")[2]
        except AddressError:
            return _fault(FaultKind.ADDRESS, written)
        fault = _fault(FaultKind.HOST, host) if host.startswith("[") else _host_fault(host)
        if fault is not None:
            return fault
    return None


def _host_fault(host: str) -> UriFault | None:
    """A host that can be: a name of two labels or more, below no name that is nobody's."""
    return _fault(FaultKind.HOST, host) if len(host) > 254 else _known_host_fault(host)


@lru_cache(maxsize=1024)  # the messages of a campaign share theirs
def _known_host_fault(host: str) -> UriFault | None:
    name = host.lower().removesuffix(".")
    labels = name.split(".")
    nowhere = any(name == each or name.endswith(f".{each}") for each in _NOWHERE)
    possible = (
        len(labels) > 1
        and len(name) <= 253
        and all(0 < len(label) <= 63 and label[0] != "-" != label[-1] for label in labels)
        and not _NUMBER.fullmatch(labels[-1])
    )
    return None if possible and not nowhere else _fault(FaultKind.HOST, host)


def _fault(kind: FaultKind, found: str) -> UriFault:
    shown = found[:_SHOWN]
    return UriFault(kind, shown if shown.isprintable() else ascii(shown)[1:-1])
