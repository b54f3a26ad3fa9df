"""The token of a link by which the owner of an address confirms something.

Like an unsubscribe token it is the sealed record itself (docs/adr/0010-unsubscribe-token.md), under
the same keys but another context: neither can be mistaken for the other, and neither shows whose it
is.
"""

from datetime import datetime
from typing import Literal

import msgspec
from msgspec import Struct

from smtpproxy.mail.unsubscribe_token import TokenError, TokenRing

PATH = "/c/"

Kind = Literal["consent", "permission", "personal"]
"""A double opt-in, the answer to the one message at the end of a period, or a person's own page."""

_CONTEXT = b"smtpproxy confirmation"


class Confirmation(Struct, frozen=True, array_like=True):
    """What a token says. `at` is when it was requested: a link is only for this request."""

    kind: Kind
    recipient: str  # canonical address
    brand: str
    purpose: str
    at: datetime  # UTC
    until: datetime
    lang: str  # of the page, if the browser requests none
    source: str | None = None  # how the address was obtained; recorded when it is confirmed


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Confirmation).decode


def seal_confirmation(ring: TokenRing, confirmation: Confirmation) -> str:
    """Return the token, which is the same for the same record."""
    return ring.seal_record(_encode(confirmation), _CONTEXT)


def read_confirmation(ring: TokenRing, token: str) -> Confirmation:
    """Read a token, even an expired one. Raises TokenError."""
    record = ring.open_record(token, _CONTEXT)
    try:
        return _decode(record)
    except msgspec.MsgspecError as error:  # from another version
        raise TokenError(str(error)) from None
