"""What the relay changes in a message, in its order: the stream header goes, the unsubscribe
fields and Received come, and the DKIM signature is last, over what then leaves."""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

from smtpproxy.core.effects import Sign, Steps
from smtpproxy.core.services import Services
from smtpproxy.events import Decided
from smtpproxy.mail.dkim import NAME, signed_names
from smtpproxy.mail.headers import HeaderBlock
from smtpproxy.mail.unsubscribe import plain_unsubscribe, with_fields
from smtpproxy.relay.content import Content
from smtpproxy.wire.content import stuffed

UNSUBSCRIBE = "List-Unsubscribe"
_SIGNATURES = (NAME.lower().encode(), b"arc-message-signature")


def edited(
    services: Services,
    decided: Decided,
    headers: HeaderBlock,
    content: Content,
    received: bytes,
    unsubscribe: bytes = b"",
) -> Steps[Iterator[bytes]]:
    """Return what leaves, dot-stuffed; what needs no edit goes on as it came, octet for octet.

    `received` is the trace field, which no signature of ours covers: others will add their
    own. `unsubscribe` are the fields with a link of the recipient's own, which replace their
    namesakes. Encoded words in List-Unsubscribe are written plainly where no signature that the
    message came with covers the field. Raises SigningFailed.
    """
    features, stream = decided.features, decided.decision.stream.name
    if features is None:
        return chain((received,), content.pieces())
    keys: Sequence[Any] = ()
    if services.signing_keys is not None:
        keys = services.signing_keys(features.from_domains, stream, decided.at)
    section: bytes | None = None  # of the header, where it is not the one that came
    if features.stream_header and (keys or not _covered(headers, services.stream_header)):
        section = headers.without(services.stream_header)
        headers = HeaderBlock(section)
    if not unsubscribe and (plain := plain_list_unsubscribe(decided, headers)) is not None:
        unsubscribe = b"List-Unsubscribe: %b\r\n" % plain
    if unsubscribe:
        section = with_fields(headers, unsubscribe)
        headers = HeaderBlock(section)
    signature = b""
    if keys:
        signature = yield from Sign(keys, headers, content.body(), decided.at)
    if section is None:
        return chain((signature + received,), content.pieces())
    head = signature + received + stuffed(section)
    return chain((head,), content.pieces(skip=content.header_size))


def plain_list_unsubscribe(decided: Decided, headers: HeaderBlock) -> bytes | None:
    """Return what List-Unsubscribe is to say in place of encoded words (RFC 2369 section 2).

    None where there is nothing to mend, a signature would break, or the mail is only observed.
    """
    features = decided.features
    if features is None or not features.unsubscribe_encoded or decided.observed:
        return None
    if features.unsubscribe_fields != 1 or features.unsubscribe_fault is not None:
        return None
    if _covered(headers, UNSUBSCRIBE):
        return None
    return plain_unsubscribe(headers.values(UNSUBSCRIBE)[0])


def _covered(headers: HeaderBlock, name: str) -> bool:
    """Whether a signature of the app covers the field, so that it breaks if the field goes."""
    lower = name.lower().encode()
    signatures = headers.raw_fields(_SIGNATURES)
    return any(lower in signed_names(field) for each in signatures.values() for field in each)
