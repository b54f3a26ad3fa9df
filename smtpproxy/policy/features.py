"""From the raw header block to what the message rules and the record look at."""

from collections.abc import Mapping, Sequence
from functools import lru_cache

from msgspec import Struct

from smtpproxy.mail.headers import HeaderBlock
from smtpproxy.mail.mailboxes import MailboxError, addresses
from smtpproxy.mail.mime import decode_words
from smtpproxy.mail.unsubscribe import is_one_click, read_unsubscribe
from smtpproxy.policy.model import MessageFeatures

_MOST_TEXT = 16_384  # octets of all fields of one name
_LONGEST_TEXT = 998  # characters of one field kept for the record: a line, RFC 5322 2.1.1

# Lower-case names.
_FROM, _SUBJECT, _MESSAGE_ID = b"from", b"subject", b"message-id"
_UNSUBSCRIBE = b"list-unsubscribe"
_SIGNATURE = b"dkim-signature"
_IDENTITY = frozenset((_FROM, _SUBJECT, _MESSAGE_ID))


class MessageIdentity(Struct, frozen=True):
    """How people name a message, for the record: decoded, one line each."""

    message_id: str | None = None
    subject: str | None = None
    header_from: str | None = None


def read_features(
    headers: HeaderBlock, stream_header: str, source_header: str | None = None
) -> MessageFeatures:
    """Return what the message rules look at; `malformed` says what cannot be read.

    `stream_header` is the name of the field that may choose the stream, `source_header`
    that of the field which says where the addresses come from, None when nobody asks.
    """
    stream_name, source_name, names = _looked_at(stream_header, source_header)
    found = headers.unfolded(names)
    malformed = headers.defect
    from_domains: tuple[str, ...] = ()
    try:
        from_domains = _from_domains(found.get(_FROM, ()))
    except MailboxError as error:
        malformed = malformed or str(error)
    fields = found.get(_UNSUBSCRIBE, ())
    unsubscribe = [read_unsubscribe(value) for value in _first(fields)]
    posts = headers.raw_values("List-Unsubscribe-Post") if unsubscribe else ()
    return MessageFeatures(
        malformed=malformed,
        from_domains=from_domains,
        stream_header=_distinct(found.get(stream_name, ())),
        unsubscribe_fields=len(fields),
        unsubscribe_https=tuple([uri for field in unsubscribe for uri in field.https]),
        unsubscribe_mailto=tuple([uri for field in unsubscribe for uri in field.mailto]),
        unsubscribe_encoded=any(field.encoded for field in unsubscribe),
        unsubscribe_fault=next((field.fault for field in unsubscribe if field.fault), None),
        one_click=len(posts) == 1 and is_one_click(posts[0]),
        source_statement=_statement(found, source_name),
        dkim_fields=len(found.get(_SIGNATURE, ())),
    )


@lru_cache(maxsize=16)
def _looked_at(stream: str, source: str | None) -> tuple[bytes, bytes, frozenset[bytes]]:
    """The lower-case names of the two configured fields, and of all that are unfolded."""
    configured = stream.lower().encode(), (source or "").lower().encode()
    return *configured, frozenset((_FROM, _UNSUBSCRIBE, _SIGNATURE, *configured))


def read_identity(headers: HeaderBlock) -> MessageIdentity:
    """Return Message-ID, Subject and From of the first field of each, None when absent."""
    found = headers.unfolded(_IDENTITY)
    return MessageIdentity(
        message_id=_text(found.get(_MESSAGE_ID)),
        subject=_text(found.get(_SUBJECT)),
        header_from=_text(found.get(_FROM)),
    )


def _distinct(values: Sequence[bytes]) -> tuple[str, ...]:
    """Each value once, in order, as much as the record has room for: two that differ choose no
    stream, whatever follows them."""
    if not values:
        return ()
    texts = dict.fromkeys(value[:_LONGEST_TEXT] for value in values)
    return tuple(text.decode("utf-8", "replace") for text in _first(list(texts)))


def _first(values: Sequence[bytes]) -> Sequence[bytes]:
    """As many values as are within a bound together, and at least one. Several fields are one
    too many, whatever the others hold."""
    if len(values) < 2:
        return values
    size = 0
    for count, value in enumerate(values):
        size += len(value)
        if count > 1 and size > _MOST_TEXT:
            return values[:count]
    return values


def _statement(found: Mapping[bytes, Sequence[bytes]], name: bytes) -> str | None:
    """Return what the first field of that name says; None when it says nothing."""
    text = _text(found.get(name))
    return None if text is None else text.strip() or None


def _from_domains(values: Sequence[bytes]) -> tuple[str, ...]:
    if len(values) != 1:
        raise MailboxError(
            "there is no From field" if not values else f"there are {len(values)} From fields"
        )
    found = addresses(values[0])
    if not found:
        raise MailboxError("the From field holds no address")
    return tuple(address.rpartition("@")[2] for address in found)


def _text(values: Sequence[bytes] | None) -> str | None:
    if not values:
        return None
    text = decode_words(values[0][: 4 * _LONGEST_TEXT].decode("utf-8", "replace"))[:_LONGEST_TEXT]
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " for c in text)
