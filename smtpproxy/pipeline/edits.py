"""What the relay changes in a message, in its order: the stream header goes, the
way out and Received come, and the DKIM signature is last, over what then leaves."""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING

from smtpproxy.events import Decided, Stage
from smtpproxy.mail.dkim.field import NAME, signed_names
from smtpproxy.mail.headers import HeaderBlock
from smtpproxy.mail.list_fields import with_fields
from smtpproxy.mail.unsubscribe import plain_unsubscribe
from smtpproxy.pipeline.parts import Parts, spend
from smtpproxy.relay.content import Content
from smtpproxy.wire.content import stuffed

if TYPE_CHECKING:
    from smtpproxy.relay.dkim.keyring import RingKey

UNSUBSCRIBE = "List-Unsubscribe"
_SIGNATURES = (NAME.lower().encode(), b"arc-message-signature")


async def edited(
    parts: Parts,
    decided: Decided,
    headers: HeaderBlock,
    content: Content,
    received: bytes,
    seconds: dict[Stage, float],
    way_out: bytes = b"",
) -> Iterator[bytes]:
    """Return what leaves, dot-stuffed; what needs no edit goes on as it came, octet for octet.

    `received` is the trace field, which no signature of ours covers: others will add their
    own. `way_out` are the fields with a link of the recipient's own, which replace their
    namesakes. Encoded words in List-Unsubscribe are written plainly where no signature that the
    message came with covers the field. Raises SigningFailed.
    """
    features, stream = decided.features, decided.decision.stream.name
    if features is None:
        return chain((received,), content.pieces())
    keys: Sequence[RingKey] = ()
    if parts.signer is not None:
        keys = parts.signer.keys(features.from_domains, stream, decided.at)
    section: bytes | None = None  # of the header, where it is not the one that came
    if features.stream_header and (keys or not _covered(headers, parts.stream_header)):
        section = headers.without(parts.stream_header)
        headers = HeaderBlock(section)
    if not way_out and (plain := plain_way_out(decided, headers)) is not None:
        way_out = b"List-Unsubscribe: %b\r\n" % plain
    if way_out:
        section = with_fields(headers, way_out)
        headers = HeaderBlock(section)
    signature = b""
    if parts.signer is not None and keys:
        start = parts.ticks()
        signature = await parts.signer.sign(keys, headers, content.body(), decided.at)
        spend(seconds, "sign", parts.ticks() - start)
    if section is None:
        return chain((signature + received,), content.pieces())
    head = signature + received + stuffed(section)
    return chain((head,), content.pieces(skip=content.header_size))


def plain_way_out(decided: Decided, headers: HeaderBlock) -> bytes | None:
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
