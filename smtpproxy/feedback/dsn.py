"""The fields of a delivery status notification (RFC 3464), however broken."""

from collections.abc import Iterator

from msgspec import Struct

from smtpproxy.feedback.addresses import of_field
from smtpproxy.feedback.parts import Mail, field, header_block
from smtpproxy.mail.headers import HeaderBlock

STATUS_TYPES = ("message/delivery-status", "message/global-delivery-status")

_MAX_RECIPIENTS = 200


class Outcome(Struct, frozen=True):
    """What a report says about one recipient; `action` and `status` are "" if it does not say."""

    address: str | None
    action: str
    status: str
    said: str  # by the refusing server, or by the reporting one
    near: str = ""  # its beginning, up to an empty line


def field_outcomes(mail: Mail) -> list[Outcome]:
    """Return what the fields say, one outcome for each recipient; empty if there are none."""
    return [_outcome(group) for group in _groups(mail)]


def _groups(mail: Mail) -> Iterator[HeaderBlock]:
    """Yield each recipient's fields. Some MTAs put empty lines into them, or none between."""
    left = _MAX_RECIPIENTS
    for part in mail.of_type(*STATUS_TYPES):
        gathered = b""
        for lines in part.octets.replace(b"\r\n", b"\n").split(b"\n\n"):
            names = lines.lower()
            begins = b"final-recipient:" in names or b"original-recipient:" in names
            if begins and gathered:
                yield header_block(gathered)
                gathered, left = b"", left - 1
            if left <= 0:
                return
            if begins or gathered:
                gathered += lines.strip(b"\n") + b"\n"
        if gathered:
            yield header_block(gathered)


def _outcome(group: HeaderBlock) -> Outcome:
    address = None
    for name in ("Original-Recipient", "Final-Recipient", "X-Actual-Recipient"):
        address = address or of_field(field(group, name))
    status, _, comment = field(group, "Status").partition("(")
    kind, _, said = field(group, "Diagnostic-Code").partition(";")
    action = field(group, "Action").partition("(")[0]
    return Outcome(
        address=address,
        action=action.strip().lower(),
        status=status.strip(" ;,").partition(" ")[0],
        said=(said or kind or comment).strip(" )"),
    )
