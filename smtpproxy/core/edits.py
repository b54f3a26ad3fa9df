"""What the relay changes in a message, in this order: it removes tracking pixels and the stream
header, adds the unsubscribe fields and Received, and finally signs the result."""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

from smtpproxy.core.effects import Sign, Steps
from smtpproxy.core.services import Services
from smtpproxy.events import Decided
from smtpproxy.mail.dkim import NAME, signed_names
from smtpproxy.mail.headers import HeaderBlock
from smtpproxy.mail.unsubscribe import plain_unsubscribe, unsubscribe_fields, with_fields
from smtpproxy.mail.unsubscribe_token import TokenRing, Unsubscription, fits, stream_tag
from smtpproxy.policy.model import ExistingUnsubscribe, Stream, StreamClass
from smtpproxy.relay.content import Body, Content
from smtpproxy.wire.content import stuffed, stuffed_pieces

UNSUBSCRIBE = "List-Unsubscribe"
_SIGNATURES = (NAME.lower().encode(), b"arc-message-signature")


def edited(
    services: Services,
    decided: Decided,
    headers: HeaderBlock,
    content: Content,
    received: bytes,
    unsubscribe: bytes = b"",
    body: Body | None = None,
) -> Steps[Iterator[bytes]]:
    """Return what leaves, dot-stuffed; whatever needs no edit is passed on octet for octet.

    `received` is the trace field, which our signature does not cover because others will add
    theirs. `unsubscribe` has the fields with the recipient's own link, which replace fields of the
    same name. Encoded words in List-Unsubscribe are decoded unless a signature that the message
    came with covers the field. `body` replaces the content's own. Raises SigningFailed.
    """
    features = decided.features
    if features is None:
        return chain((received,), content.pieces())
    keys: Sequence[Any] = ()
    if services.signing_keys is not None:
        stream = decided.decision.stream.name
        keys = services.signing_keys(features.from_domains, stream, decided.at)
    # The header section, if it is not the one that came.
    section = None if body is None else headers.raw
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
        signature = yield from Sign(keys, headers, body or content.body(), decided.at)
    if section is None:
        return chain((signature + received,), content.pieces())
    head = signature + received + stuffed(section)
    if body is not None:
        return chain((head,), stuffed_pieces(body.pieces()))
    return chain((head,), content.pieces(skip=content.header_size))


def plain_list_unsubscribe(decided: Decided, headers: HeaderBlock) -> bytes | None:
    """Return the value of List-Unsubscribe without encoded words (RFC 2369 section 2).

    None if there is nothing to fix, a signature would break, or the mail is only observed.
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
    """Whether a signature by the app covers the field, so that removing the field breaks it."""
    lower = name.lower().encode()
    signatures = headers.raw_fields(_SIGNATURES)
    return any(lower in signed_names(field) for each in signatures.values() for field in each)


def identifying_fields(headers: HeaderBlock, stream: Stream, return_path: str) -> bytes:
    """The fields that identify this copy in a complaint, as far as the message lacks them.

    A Feedback-ID is for mailbox providers' feedback loops, which are about bulk mail.
    """
    local_part = return_path.partition("@")[0]
    fields = b""
    if _lacks(headers, "Message-ID"):
        fields += b"Message-ID: <%b>\r\n" % return_path.encode()
    if stream.stream_class is StreamClass.MARKETING and _lacks(headers, "Feedback-ID"):
        fields += b"Feedback-ID: %b::%b:smtpproxy\r\n" % (local_part.encode(), stream.name.encode())
    return fields


def _lacks(headers: HeaderBlock, name: str) -> bool:
    """Whether a field can be added: it is missing, and no signature covers its absence."""
    return not headers.raw_values(name) and not _covered(headers, name)


PATH = "/u/"


class UnsubscribeLinks:
    """Makes the fields with the unsubscribe link, which is below `public_url`."""

    def __init__(self, ring: TokenRing, public_url: str, key_text: Callable[[str], str]) -> None:
        """`key_text` returns the key text of a suppression; it may raise StoreUnavailable."""
        self._ring = ring
        self._base = public_url + PATH
        self._key_text = key_text
        self._tags: dict[str, bytes] = {}

    def fields(self, stream: Stream, address: str, id: str, *, has_list_id: bool) -> bytes:
        """Return the fields for a canonical address, on a stream that adds them.

        `id` is the decision's. The message's List-Id stays unless the stream replaces it. Raises
        StoreUnavailable.
        """
        scope = stream.unsubscribe_scope or "marketing"
        tag = self._tags.get(stream.name) or self._tags.setdefault(
            stream.name, stream_tag(stream.name)
        )
        subject = (
            Unsubscription(address, scope, id, tag)
            if fits(address, scope)
            else Unsubscription(self._key_text(address), scope, id)
        )
        token = self._ring.seal(subject)
        keeps = has_list_id and stream.existing_unsubscribe is not ExistingUnsubscribe.REPLACE
        return unsubscribe_fields(
            self._base + token,
            token,
            mailto=stream.unsubscribe_mailto,
            list_id=None if keeps else stream.list_id,
        )
