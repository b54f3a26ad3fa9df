"""What a report contains of the message that it is about, and where it may have our tokens."""

import re
from collections.abc import Iterable

from msgspec import Struct

from smtpproxy.feedback.addresses import ADDRESS, found_in, is_of_a_machine, valid
from smtpproxy.feedback.parts import Mail, field, header_block, text_of
from smtpproxy.feedback.records import Clues
from smtpproxy.mail.headers import HeaderBlock

RETURNED_TYPES = (
    *("message/rfc822", "text/rfc822-headers", "message/rfc822-headers", "text/rfc822-header"),
    *("message/global", "message/global-headers", "text/rfc822", "message/partial"),
)
_BEGIN = re.compile(
    rb"^(?:received|return-path|message-id|x-received|delivered-to|dkim-signature|from|date):[ \t]",
    re.IGNORECASE | re.MULTILINE,
)
_TO = ("X-HmXmrOriginalRecipient", "X-Original-To", "Delivered-To", "X-Apparently-To", "To")
_RECEIVED_FOR = re.compile(r"\bfor <([^<>\s]{3,320})>")
_MAX_VALUES = 20


class Original(Struct, frozen=True):
    """`recipient` is whom it went to, if its fields name exactly one."""

    headers: HeaderBlock
    recipient: str | None
    senders: tuple[str, ...]

    def values(self, name: str) -> tuple[str, ...]:
        """Return the fields of that name, decoded."""
        return tuple(text_of(value) for value in self.headers.values(name)[:_MAX_VALUES])


def original_of(mail: Mail) -> Original:
    """Return the header fields of the returned message, empty if there is none."""
    headers = _headers(mail)
    return Original(headers, _recipient(headers), _senders(headers))


def _headers(mail: Mail) -> HeaderBlock:
    for part in mail.of_type(*RETURNED_TYPES):
        return header_block(part.octets)
    for part in mail.of_type("text/plain"):
        begin = _BEGIN.search(part.octets)
        if begin is not None:
            return header_block(part.octets[begin.start() :])
    return HeaderBlock(b"")


def _recipient(headers: HeaderBlock) -> str | None:
    for name in _TO:
        names = _addresses(headers, name)
        if len(names) == 1 and not is_of_a_machine(names[0]):
            return names[0]
    for value in headers.values("Received")[:_MAX_VALUES]:
        found = _RECEIVED_FOR.search(text_of(value))
        address = valid(found[1]) if found is not None else None
        if address is not None:
            return address
    return None


def _senders(headers: HeaderBlock) -> tuple[str, ...]:
    names = ("From", "Sender", "Reply-To", "Return-Path", "Errors-To")
    return tuple(address for name in names for address in _addresses(headers, name))


def _addresses(headers: HeaderBlock, name: str) -> list[str]:
    values = headers.values(name)[:_MAX_VALUES]
    return found_in(" , ".join(text_of(value) for value in values))


_URI = re.compile(r"<\s{0,5}([^<>\s]{1,1000})\s{0,5}>")
_ID = re.compile(r"<[^<>\s]{1,250}>")
_TO_US = ("Delivered-To", "X-Original-To", "Envelope-To", "X-Envelope-To", "To")


def clues_of(mail: Mail, original: Original) -> Clues:
    """Return everything that may contain a token, unread. Local parts keep their case."""
    recipients = [one for name in _TO_US for one in _written(field(mail.headers, name))]
    replied_to = [field(mail.headers, name) for name in ("In-Reply-To", "References")]
    ids = [*original.values("Message-ID"), *replied_to]
    return Clues(
        recipients=_once(recipients),
        message_ids=_once(found for value in ids for found in _ID.findall(value)),
        unsubscribe_uris=_once(
            found for value in original.values("List-Unsubscribe") for found in _URI.findall(value)
        ),
        feedback_ids=_once(original.values("Feedback-ID")),
        reverse_paths=_once(
            found for value in original.values("Return-Path") for found in _written(value)
        ),
    )


def _written(value: str) -> list[str]:
    return [match[1] for match in ADDRESS.finditer(value)]


def _once(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))[:_MAX_VALUES]
