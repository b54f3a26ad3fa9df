"""The token of a link by which the owner of an address confirms something: what, until when.

Like an unsubscribe token it is the sealed record itself (docs/adr/0010-unsubscribe-token.md), under
the same keys and another context: neither is ever taken for the other, and none shows whose it is.
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
    """What a token says. `at` is when it was asked for: a link is for this request alone."""

    kind: Kind
    recipient: str  # canonical address
    brand: str
    purpose: str
    at: datetime  # UTC
    until: datetime
    lang: str  # of the page, where the browser asks for none
    source: str | None = None  # how the address was obtained: on record once it is confirmed


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Confirmation).decode


def seal_confirmation(ring: TokenRing, confirmation: Confirmation) -> str:
    """Return the token: the same for the same record."""
    return ring.seal_record(_encode(confirmation), _CONTEXT)


def read_confirmation(ring: TokenRing, token: str) -> Confirmation:
    """Read a token, whether its time is over or not. Raises TokenError."""
    record = ring.open_record(token, _CONTEXT)
    try:
        return _decode(record)
    except msgspec.MsgspecError as error:  # of another version
        raise TokenError(str(error)) from None
