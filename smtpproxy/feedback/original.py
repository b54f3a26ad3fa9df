"""The message that a report is about, as far as it came along: its header fields."""

import re

from msgspec import Struct

from smtpproxy.feedback.addresses import found_in, is_of_a_machine, valid
from smtpproxy.feedback.parts import Mail, header_block, text_of
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
_MOST_VALUES = 20


class Original(Struct, frozen=True):
    """`recipient` is whom it went to, where its fields say one alone."""

    headers: HeaderBlock
    recipient: str | None
    senders: tuple[str, ...]

    def values(self, name: str) -> tuple[str, ...]:
        """Return the fields of that name, decoded."""
        return tuple(text_of(value) for value in self.headers.values(name)[:_MOST_VALUES])


def original_of(mail: Mail) -> Original:
    """Return the header fields of the message that came back, empty ones where none did."""
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
    for value in headers.values("Received")[:_MOST_VALUES]:
        found = _RECEIVED_FOR.search(text_of(value))
        address = valid(found[1]) if found is not None else None
        if address is not None:
            return address
    return None


def _senders(headers: HeaderBlock) -> tuple[str, ...]:
    names = ("From", "Sender", "Reply-To", "Return-Path", "Errors-To")
    return tuple(address for name in names for address in _addresses(headers, name))


def _addresses(headers: HeaderBlock, name: str) -> list[str]:
    values = headers.values(name)[:_MOST_VALUES]
    return found_in(" , ".join(text_of(value) for value in values))
