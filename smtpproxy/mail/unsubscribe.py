"""Reads, checks and writes the unsubscribe fields (RFC 2369, 2919 and 8058).

A URI with a placeholder left in it, with invalid syntax or with a host that cannot exist
unsubscribes nobody, however well it works for its developer.
"""

import re
from enum import StrEnum
from functools import lru_cache
from urllib.parse import quote, unquote

from msgspec import Struct

from smtpproxy.mail.address import AddressError, canonical
from smtpproxy.mail.headers import LONGEST_LINE, CommentError, HeaderBlock, skip_cfws
from smtpproxy.mail.mime import decode_words

_SHOWN = 60  # characters of the wrong part


class FaultKind(StrEnum):
    PLACEHOLDER = "placeholder"
    CHARACTERS = "characters"
    HOST = "host"
    ADDRESS = "address"
    LINE = "line"


class UriFault(Struct, frozen=True):
    """Why a URI is unusable; `found` is the wrong part of it, or of its line."""

    kind: FaultKind
    found: str


# Placeholders of templates, plain or percent-encoded. Requiring a name prevents false alarms: IPv6
# literals, `a[b]=c`, `%20`, GUIDs and JSON in braces.
_NAME = r"[A-Za-z][A-Za-z0-9_ .:|-]{0,60}"
_PLACEHOLDER = re.compile(
    r"\{\{[^{}]{0,80}\}\}|\{%[^{}]{0,80}%\}|[$#%@]?\{[^{}]{0,80}\}"
    r"|<[%?][^<>]{0,80}>|%3C%(?:25|3F).{0,80}?%3E|%5B%5B.{0,80}?%5D%5D"
    r"|(?<=[/=])(?:\$[A-Za-z_]\w{0,40}|%(?:\d\$)?s)(?![^&/#?])"
    r"|%7B%7B.{0,80}?%7D%7D|(?:%24|%23)?%7B(?:%20|\+)?[A-Za-z_][A-Za-z_.]{0,60}(?:%20|\+)?%7D"
    r"|\*(?:\||%7C)[^|%]{0,80}(?:\||%7C)\*"
    rf"|\[\[[^\[\]]{{0,80}}\]\]|(?<![\w\]])\[{_NAME}\]"
    rf"|(%%|@@|##|\$\$|~~){_NAME}\1|%[A-Za-z][A-Za-z0-9_.]{{2,60}}%(?![0-9A-Fa-f]{{2}})"
    r"|(?<!_)__[A-Za-z_]{0,30}(?:unsub|opt_?out|mail|token|link|url)[A-Za-z_]{0,30}__",
    re.IGNORECASE,
)
LONGEST_PLACEHOLDER = 90  # characters
# RFC 3986 appendix A. Atomic, so that no octet is read twice.
_PCHAR = r"[A-Za-z0-9._~:@!$&'()*+,;=-]|%[0-9A-Fa-f]{2}"
_AUTHORITY = re.compile(rf"(?>(?:{_PCHAR}|[\[\]])*)")
_REST = re.compile(rf"(?>(?:{_PCHAR}|[/?])*)(?:#(?>(?:{_PCHAR}|[/?])*))?")
_WEB = re.compile(r"https?:(?://([^/?#]*))?(.*)", re.IGNORECASE | re.DOTALL)
_MAILTO = re.compile(r"mailto:([^?#]*)(.*)", re.IGNORECASE | re.DOTALL)
_PORT = re.compile(r":[0-9]{0,5}")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.IGNORECASE)
# RFC 6761, 6762, 8375, and names reserved for documentation that templates leave in. Names under
# .example and .test are not here, because tests of unsubscribing use them.
_NOWHERE = (
    *("localhost", "localdomain", "local", "invalid", "internal", "home.arpa"),
    *("example.com", "example.net", "example.org"),
)


def header_fault(uri: str) -> UriFault | None:
    """Return why a URI of List-Unsubscribe is unusable, or None."""
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
    """Return why a link in a text is unusable. Browsers fix invalid characters."""
    found = _PLACEHOLDER.search(uri)
    if found is not None:
        return _fault(FaultKind.PLACEHOLDER, found[0])
    web, mail = _WEB.fullmatch(uri), _MAILTO.fullmatch(uri)
    if mail is not None:
        return _mailbox_fault(mail[1])
    return None if web is None else _authority_fault(web[1] or "")


def placeholder_end(text: str, start: int, end: int) -> int:
    """Where the placeholder ends that a URI from `start` to `end` of a text has, or that follows it
    directly; 0: there is none."""
    found = _PLACEHOLDER.search(text, start, end + LONGEST_PLACEHOLDER)
    return found.end() if found is not None and found.start() <= end else 0


def placeholder_within(text: str, start: int, end: int, words: int) -> bool:
    """Whether a text has a placeholder from `start` to `end` that ends after `words`.

    In a text `[click here]` is none, only `[unsubscribe_url]` and its kind.
    """
    return any(
        found.end() > words and (found[0][0] != "[" or found[0][1] == "[" or "url" in found[0])
        for found in _PLACEHOLDER.finditer(text, start, end)
    )


def placeholder(text: str) -> UriFault | None:
    """Return the placeholder that a template left in a text without a URI."""
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
    """The fault of a mailto path; all its mailboxes must be valid (RFC 6068 section 2)."""
    for written in path.split(","):
        fault = _address_fault(unquote(written), written)
        if fault is not None:
            return fault
    return None


def _address_fault(address: str, written: str) -> UriFault | None:
    try:
        host = canonical(address).rpartition("@")[2]
    except AddressError:
        return _fault(FaultKind.ADDRESS, written)
    return _fault(FaultKind.HOST, host) if host.startswith("[") else _host_fault(host)


def _host_fault(host: str) -> UriFault | None:
    """The fault of a host; it must be a name of two labels or more, not below a reserved name."""
    return _fault(FaultKind.HOST, host) if len(host) > 254 else _known_host_fault(host)


@lru_cache(maxsize=1024)  # the messages of a campaign share them
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


_LONGEST = 16_384  # octets: no client reads a longer list
_LONGEST_URI = LONGEST_LINE - len("List-Unsubscribe: <>,")  # octets: it cannot be folded

_ENDS = (b"", b"\n", b"\r\n")
# RFC 8058 5: "List-Unsubscribe-Post:" 0*1WSP "List-Unsubscribe=One-Click" CRLF
_ONE_CLICK = frozenset(
    b"%bList-Unsubscribe=One-Click%b" % (before, end)
    for before in (fold + space for fold in _ENDS for space in (b"", b" ", b"\t"))
    for end in _ENDS
)

# What nearly every field has: a link, a mailbox, or both. Without "__" and "=?" they cannot contain
# a placeholder or an encoded word, so only the host and the mailbox need checking.
_CLEAN = r"[A-Za-z0-9.,/?=&+:;_-]*+"
_LINK = rf"<(https://([A-Za-z0-9.-]{{1,254}})(?:/{_CLEAN})?)>"
_BOX = rf"<(mailto:([A-Za-z0-9.+=_-]++@[A-Za-z0-9.-]++)(?:\?{_CLEAN})?)>"
_COMMA = r"[ \t]*,[ \t]*"
_PLAIN = re.compile(rf"{_LINK}(?:{_COMMA}{_BOX})?|{_BOX}(?:{_COMMA}{_LINK})?")


class UnsubscribeUris(Struct, frozen=True):
    """The URIs of one List-Unsubscribe field, in the sender's order of preference."""

    https: tuple[str, ...] = ()
    mailto: tuple[str, ...] = ()
    encoded: bool = False  # encoded words had to be decoded, which RFC 2369 forbids
    fault: UriFault | None = None  # of the first unusable URI


def read_unsubscribe(value: bytes) -> UnsubscribeUris:
    """Return the usable URIs of an unfolded List-Unsubscribe value (RFC 2369 section 2).

    Usable are https URIs with a host and mailto URIs with a possible address. As the RFC tells
    clients to, reading stops where an item does not begin with `<` or is not followed by a comma.
    White space inside a URI is removed, because folding may have added it.
    """
    if len(value) > _LONGEST:
        return UnsubscribeUris()
    text = value.decode("utf-8", "replace")
    plain = None if "__" in text or "=?" in text else _PLAIN.fullmatch(text)
    if plain is not None:
        link, host, mail, box, other_mail, other_box, other_link, other_host = plain.groups()
        if link is None:
            link, host = other_link, other_host
        if mail is None:
            mail, box = other_mail, other_box
        if (host is None or _known_host_fault(host) is None) and (
            box is None or _address_fault(box, box) is None
        ):
            return UnsubscribeUris((link,) if link else (), (mail,) if mail else ())
    return _read_any(text)


def _read_any(text: str) -> UnsubscribeUris:
    """Like `read_unsubscribe`, for any value."""
    decoded = decode_words(text)
    uris = _uris(decoded)
    if not uris:
        return UnsubscribeUris(encoded=decoded != text, fault=placeholder(decoded))
    https: list[str] = []
    mailto: list[str] = []
    first: UriFault | None = None
    for uri in uris:
        scheme = uri[:7].lower()
        usable = https if scheme[:6] == "https:" else mailto if scheme == "mailto:" else None
        fault = placeholder(uri) if usable is None else header_fault(uri)
        if fault is not None:
            first = first or fault
        elif usable is not None:
            usable.append(uri)
    return UnsubscribeUris(tuple(https), tuple(mailto), decoded != text, first)


def plain_unsubscribe(value: bytes) -> bytes | None:
    """Return a value without encoded words, folded with CRLF; None if it cannot be written so.

    `value` is one in which `read_unsubscribe` found no fault.
    """
    uris = _uris(decode_words(value.decode("utf-8", "replace")))
    if not uris or any(len(uri) > _LONGEST_URI or header_fault(uri) for uri in uris):
        return None
    return ",\r\n ".join(f"<{uri}>" for uri in uris).encode("ascii")


def is_one_click(raw_value: bytes) -> bool:
    """Whether a List-Unsubscribe-Post value is exact (RFC 8058 sections 3.1 and 5).

    `raw_value` is the text after the colon, with folding and line end.
    """
    return raw_value in _ONE_CLICK


def _uris(text: str) -> list[str]:
    found: list[str] = []
    try:
        position = skip_cfws(text, 0)
        while text.startswith("<", position):
            end = text.find(">", position)
            if end < 0:
                break
            found.append("".join(text[position + 1 : end].split()))
            position = skip_cfws(text, end + 1)
            if not text.startswith(",", position):
                break
            position = skip_cfws(text, position + 1)
    except CommentError:
        pass  # what came before the broken comment counts
    return found


def unsubscribe_fields(uri: str, token: str, *, mailto: str | None, list_id: str | None) -> bytes:
    """Return the fields with their CRLF, the preferred https URI first (RFC 2369 2).

    `uri` ends with the token. A mailto alternative has the token in its subject.
    """
    uris = [f"<{uri}>"]
    if mailto is not None:
        uris.append(f"<mailto:{quote(mailto, safe='@')}?subject=unsubscribe%20{token}>")
    lines = "List-Unsubscribe: " + ",\r\n ".join(uris) + "\r\n"
    lines += "List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"
    if list_id is not None:
        lines += f"List-Id: <{list_id}>\r\n"
    return lines.encode("ascii")


def with_fields(headers: HeaderBlock, fields: bytes) -> bytes:
    """Return the header section with `fields` first, replacing fields of the same names."""
    for name, _ in HeaderBlock(fields).fields():
        text = name.decode("ascii")
        if headers.raw_values(text):
            headers = HeaderBlock(headers.without(text))
    return fields + headers.raw
