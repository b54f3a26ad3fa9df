"""The ways out that a message offers: List-Unsubscribe and List-Unsubscribe-Post."""

import re

from msgspec import Struct

from smtpproxy.mail.comments import CommentError, skip_cfws
from smtpproxy.mail.encoded_words import decode
from smtpproxy.mail.way_out_uri import UriFault, header_fault, placeholder

_LONGEST = 16_384  # octets: no client reads a longer list
_LONGEST_LINE = 990  # octets of one URI that can be written plainly: it cannot be folded

# RFC 8058 5: "List-Unsubscribe-Post:" 0*1WSP "List-Unsubscribe=One-Click" CRLF
_ONE_CLICK = re.compile(rb"(?:\r?\n(?=[ \t]))?[ \t]?List-Unsubscribe=One-Click(?:\r?\n)?")

# What nearly every field has: one URI or two, and nothing between them but a comma.
_PLAIN = re.compile(r"<([^<>()\s]*)>(?:[ \t]*,[ \t]*<([^<>()\s]*)>)?")


class UnsubscribeUris(Struct, frozen=True):
    """What one List-Unsubscribe field offers, in the sender's order of preference."""

    https: tuple[str, ...] = ()
    mailto: tuple[str, ...] = ()
    encoded: bool = False  # encoded words had to be decoded, which RFC 2369 forbids
    fault: UriFault | None = None  # the first of a URI that is of no use


def read_unsubscribe(value: bytes) -> UnsubscribeUris:
    """Return the usable URIs of an unfolded List-Unsubscribe value (RFC 2369 section 2).

    Usable are https URIs with a host and mailto URIs with an address that can be. Reading
    stops, as the RFC has clients do, where an item does not begin with `<` or is not followed
    by a comma. White space inside a URI is removed: folding may have put it there.
    """
    if len(value) > _LONGEST:
        return UnsubscribeUris()
    text = value.decode("utf-8", "replace")
    decoded = decode(text)
    https, mailto = [], []
    first: UriFault | None = None
    uris = _uris(decoded)
    for uri in uris:
        scheme = uri.partition(":")[0].lower()
        fault = header_fault(uri) if scheme in ("https", "mailto") else placeholder(uri)
        first = first or fault
        if fault is None and scheme == "https":
            https.append(uri)
        elif fault is None and scheme == "mailto":
            mailto.append(uri)
    if not uris:
        first = placeholder(decoded)
    return UnsubscribeUris(tuple(https), tuple(mailto), encoded=decoded != text, fault=first)


def plain_unsubscribe(value: bytes) -> bytes | None:
    """Return a value without encoded words, folded by CRLF; None where it cannot be written so.

    `value` is one that `read_unsubscribe` found no fault with.
    """
    uris = _uris(decode(value.decode("utf-8", "replace")))
    if not uris or any(len(uri) > _LONGEST_LINE or header_fault(uri) for uri in uris):
        return None
    return ",\r\n ".join(f"<{uri}>" for uri in uris).encode("ascii")


def is_one_click(raw_value: bytes) -> bool:
    """Whether a List-Unsubscribe-Post value is exact (RFC 8058 sections 3.1 and 5).

    `raw_value` is what stands after the colon, with folding and line end.
    """
    return _ONE_CLICK.fullmatch(raw_value) is not None


def _uris(text: str) -> list[str]:
    plain = _PLAIN.fullmatch(text)
    if plain is not None:
        return [uri for uri in plain.groups() if uri is not None]
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
        pass  # what came before the broken comment stands
    return found
