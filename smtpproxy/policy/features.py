"""Reads from the raw header block what the message rules and the record need."""

from collections.abc import Mapping, Sequence
from functools import lru_cache

from msgspec import Struct

from smtpproxy.mail.content_fields import doubled_field
from smtpproxy.mail.headers import LONGEST_LINE, HeaderBlock, has_long_line, lowered, unfolded
from smtpproxy.mail.mailboxes import MailboxError, addresses
from smtpproxy.mail.mime import decode_words
from smtpproxy.mail.unsubscribe import (
    FaultKind,
    UnsubscribeUris,
    UriFault,
    is_one_click,
    read_unsubscribe,
)
from smtpproxy.policy.model import MessageFeatures

_MAX_TEXT = 16_384  # octets of all fields of one name
_LONGEST_TEXT = 998  # characters of one field kept for the record: a line, RFC 5322 2.1.1
_MAX_OCTETS = 4 * _LONGEST_TEXT

_FROM, _SUBJECT, _MESSAGE_ID = b"from", b"subject", b"message-id"
_UNSUBSCRIBE, _ONE_CLICK = b"list-unsubscribe", b"list-unsubscribe-post"
_SIGNATURE = b"dkim-signature"
_NOTHING_OFFERED = UnsubscribeUris()
_SHORT = 960  # octets: a field of these has no long line
_CUT = UnsubscribeUris(fault=UriFault(FaultKind.LINE, str(LONGEST_LINE)))


class MessageIdentity(Struct, frozen=True):
    """What identifies a message to people, for the record: decoded, one line each."""

    message_id: str | None = None
    subject: str | None = None
    header_from: str | None = None


def read_features(
    headers: HeaderBlock, stream_header: str, source_header: str | None = None
) -> MessageFeatures:
    """Return what the message rules look at; `malformed` says what cannot be read.

    `stream_header` is the name of the field that may choose the stream, `source_header` that of the
    field that says where the addresses come from, None if no stream asks.
    """
    found = headers.by_name
    malformed = headers.defect or (_doubled(headers) if headers.repeats else None)
    from_domains: tuple[str, ...] = ()
    try:
        from_domains = _from_domains(found.get(_FROM, ()))
    except MailboxError as error:
        malformed = malformed or str(error)
    fields = found.get(_UNSUBSCRIBE, ())
    if fields and malformed is None:
        malformed = headers.spaced_colon
    offered = _offered(fields) if fields else _NOTHING_OFFERED
    posts = found.get(_ONE_CLICK, ()) if fields else ()
    named = found.get(lowered(stream_header))
    return MessageFeatures(
        malformed=malformed,
        from_domains=from_domains,
        stream_header=() if named is None else _distinct(named),
        unsubscribe_fields=len(fields),
        unsubscribe_https=offered.https,
        unsubscribe_mailto=offered.mailto,
        unsubscribe_encoded=offered.encoded,
        unsubscribe_fault=offered.fault,
        one_click=len(posts) == 1 and is_one_click(posts[0]),
        source_statement=None if source_header is None else _statement(found, source_header),
        dkim_fields=len(found.get(_SIGNATURE, ())),
    )


def read_identity(headers: HeaderBlock) -> MessageIdentity:
    """Return the first Message-ID, Subject and From, each None if absent."""
    found = headers.by_name
    return MessageIdentity(
        _text(found.get(_MESSAGE_ID)),
        _shared_text(found.get(_SUBJECT)),
        _shared_text(found.get(_FROM)),
    )


def _doubled(headers: HeaderBlock) -> str | None:
    """Say which field occurs twice with different values, so that programs show different messages;
    Gmail refuses two Subject fields."""
    name = doubled_field(headers)
    if name is None and len(set(headers.values("Subject"))) > 1:
        name = "Subject"
    return None if name is None else f"there are two different {name} fields"


def _offered(fields: Sequence[bytes]) -> UnsubscribeUris:
    """The URIs of List-Unsubscribe; several fields are invalid, but all are read."""
    if len(fields) == 1:
        if len(fields[0]) > _SHORT and has_long_line("List-Unsubscribe", fields[0]):
            return _CUT
        return read_unsubscribe(unfolded(fields[0]))
    read = [read_unsubscribe(value) for value in _first([unfolded(field) for field in fields])]
    return UnsubscribeUris(
        tuple([uri for each in read for uri in each.https]),
        tuple([uri for each in read for uri in each.mailto]),
        encoded=any(each.encoded for each in read),
        fault=next((each.fault for each in read if each.fault), None),
    )


def _distinct(values: Sequence[bytes]) -> tuple[str, ...]:
    """Each value once, in order, limited: two different ones already choose no stream."""
    texts = dict.fromkeys(unfolded(value)[:_LONGEST_TEXT] for value in values)
    return tuple(text.decode("utf-8", "replace") for text in _first(list(texts)))


def _first(values: Sequence[bytes]) -> Sequence[bytes]:
    """The first values within a total size, and at least one; several are invalid anyway."""
    size = 0
    for count, value in enumerate(values):
        size += len(value)
        if count > 1 and size > _MAX_TEXT:
            return values[:count]
    return values


def _statement(found: Mapping[bytes, tuple[bytes, ...]], name: str) -> str | None:
    """Return the first field of that name; None if it is absent or empty."""
    text = _text(found.get(lowered(name)))
    return None if text is None else text.strip() or None


@lru_cache(maxsize=64)  # the messages of a campaign share it
def _from_domains(values: tuple[bytes, ...]) -> tuple[str, ...]:
    if len(values) != 1:
        raise MailboxError(
            "there is no From field" if not values else f"there are {len(values)} From fields"
        )
    if len(values[0]) > _SHORT and has_long_line("From", values[0]):
        raise MailboxError(f"a line of the From field is longer than {LONGEST_LINE} octets")
    found = addresses(unfolded(values[0]), values[0].rstrip().count(b"\n"))
    if not found:
        raise MailboxError("the From field contains no address")
    return tuple([address.rpartition("@")[2] for address in found])


def _text(values: tuple[bytes, ...] | None) -> str | None:
    if not values:
        return None
    text = unfolded(values[0])[:_MAX_OCTETS].decode("utf-8", "replace")
    if "=?" in text:
        text = decode_words(text)
    text = text[:_LONGEST_TEXT]
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " for c in text)


_shared_text = lru_cache(maxsize=32)(_text)
"""The same for what the messages of a campaign share."""
