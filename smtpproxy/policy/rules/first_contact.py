"""What a first message must say (rule A24; RGPD art. 14(3)(b)).

Whether it says so is known only when the message is there, so this is asked at the end of
data, of recipients that are otherwise allowed.
"""

from smtpproxy.policy.model import Basis, Reason, Source, StreamClass, Verdict
from smtpproxy.policy.rules.case import DeliveryCase, refuse
from smtpproxy.policy.rules.record import known_source

_NOT_ANNOUNCED = refuse("source_announced", Reason.SOURCE_NOT_ANNOUNCED)


def source_announced(case: DeliveryCase) -> Verdict | None:
    """Refuse a first message that does not say where the address was obtained.

    On streams that ask for it, to persons whose address they did not give themselves.
    A contact that is not known to have been mailed before was not.
    """
    recipient = case.recipient
    stream = recipient.stream
    if (
        not stream.first_contact_notice
        or stream.stream_class is not StreamClass.MARKETING
        or case.features.source_statement
        or case.basis is Basis.GENERIC_ADDRESS  # nobody's personal data
        or known_source(recipient) is Source.DIRECT
    ):
        return None
    known = recipient.facts
    told = None if known.contact is None else known.contact.first_contacted_at
    before = any(
        first is not None and first <= recipient.now for first in (told, known.first_mailed_at)
    )
    return None if before else _NOT_ANNOUNCED
