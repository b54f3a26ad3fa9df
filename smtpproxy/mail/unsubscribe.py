"""The ways out that a message offers: List-Unsubscribe and List-Unsubscribe-Post."""

import re
from urllib.parse import unquote

from msgspec import Struct

from smtpproxy.mail.address import AddressError, canonical
from smtpproxy.mail.comments import CommentError, skip_cfws
from smtpproxy.mail.encoded_words import decode

_HTTPS = re.compile(
    r"https://(?:[^/?#@]*@)?(?:\[[0-9a-f:.]+\]|[a-z0-9](?:[a-z0-9._-]*))(?::[0-9]*)?(?:[/?#].*)?",
    re.IGNORECASE,
)
_MAILTO = re.compile(r"mailto:([^?#]+)(?:[?#].*)?", re.IGNORECASE)
_LONGEST = 16_384  # octets: no client reads a longer list
_URI = re.compile(r"[!-~]+")

# RFC 8058 5: "List-Unsubscribe-Post:" 0*1WSP "List-Unsubscribe=One-Click" CRLF
_ONE_CLICK = re.compile(rb"(?:\r?\n(?=[ \t]))?[ \t]?List-Unsubscribe=One-Click(?:\r?\n)?")


class UnsubscribeUris(Struct, frozen=True):
    """What one List-Unsubscribe field offers, in the sender's order of preference."""

    https: tuple[str, ...] = ()
    mailto: tuple[str, ...] = ()
    encoded: bool = False  # encoded words had to be decoded, which RFC 2369 forbids


def read_unsubscribe(value: bytes) -> UnsubscribeUris:
    """Return the usable URIs of an unfolded List-Unsubscribe value (RFC 2369 section 2).

    Usable are https URIs with a host and mailto URIs with an address. Reading stops, as
    the RFC has clients do, where an item does not begin with `<` or is not followed by a
    comma. White space inside a URI is removed: folding may have put it there.
    """
    if len(value) > _LONGEST:
        return UnsubscribeUris()
    text = value.decode("utf-8", "replace")
    decoded = decode(text)
    https, mailto = [], []
    for uri in _uris(decoded):
        if _URI.fullmatch(uri) is None:
            continue
        if _HTTPS.fullmatch(uri):
            https.append(uri)
        elif _has_address(uri):
            mailto.append(uri)
    return UnsubscribeUris(tuple(https), tuple(mailto), encoded=decoded != text)


def is_one_click(raw_value: bytes) -> bool:
    """Whether a List-Unsubscribe-Post value is exact (RFC 8058 sections 3.1 and 5).

    `raw_value` is what stands after the colon, with folding and line end.
    """
    return _ONE_CLICK.fullmatch(raw_value) is not None


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
        pass  # what came before the broken comment stands
    return found


def _has_address(uri: str) -> bool:
    """Whether it is a mailto URI whose first recipient is an address (RFC 6068)."""
    mailto = _MAILTO.fullmatch(uri)
    if mailto is None:
        return False
    try:
        canonical(unquote(mailto[1].partition(",")[0]))
    except AddressError:
        return False
    return True
