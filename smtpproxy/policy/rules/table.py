"""The rules in their order: the first that decides, decides (design.md sections 4 and 6).

1. `recipient_rules` of the rulebook's bases are asked from the top; the last of them
   always decides.
2. What they allow at the end of data is put to `DELIVERY_RULES`, which look at the
   message too.
3. What is still allowed is put to `DOMAIN_RULES`, where the recipient's domain was asked,
   then to `DEFERRALS`. Refusals come first, so that nobody retries the impossible.
4. `MESSAGE_RULES` judge the message itself, `TRANSACTIONAL_MESSAGE_RULES` where the
   stream is transactional; a message that none of them refuses is allowed.
"""

from functools import lru_cache

from smtpproxy.policy.model import Basis, StreamClass, Verdict
from smtpproxy.policy.rules import (
    DeliveryCase,
    MessageCase,
    RecipientCase,
    Rule,
    allow,
    bases,
    message,
    recipient,
)

_IS_TRANSACTIONAL = StreamClass.TRANSACTIONAL
_TRANSACTIONAL = allow("transactional", Basis.TRANSACTIONAL)


def transactional(case: RecipientCase) -> Verdict | None:
    """Mail that sells nothing needs no agreement."""
    return _TRANSACTIONAL if case.stream.stream_class is _IS_TRANSACTIONAL else None


_FIRST: tuple[Rule[RecipientCase], ...] = (
    Rule("suppression", recipient.suppressed, "design 4.0; A29 to A32, A35 A36 A39 A41"),
    Rule("transactional", transactional, "design 4.1; A1"),
    Rule("withdrawn", bases.withdrawn, "design 4.2; A31 A35"),
)
_RECORD: tuple[Rule[RecipientCase], ...] = (
    Rule("no_record", recipient.no_record, "design 4.4; A1"),
    Rule("restricted", recipient.restricted, "design 4.5; A26"),
    Rule("source", recipient.source, "design 4.6; A18 to A22"),
)
BASES: dict[Basis, Rule[RecipientCase]] = {
    Basis.GENERIC_ADDRESS: Rule("generic_address", recipient.generic_address, "design 4.3; A15"),
    Basis.CONSENT: Rule("consent", bases.valid_consent, "design 4.7, 5; A1 to A5, A17 A23 A44"),
    Basis.EXISTING_CUSTOMER: Rule(
        "existing_customer", bases.existing_customer, "design 4.8; A6 to A9, A11"
    ),
    Basis.CHARITY: Rule("charity", bases.charity, "design 4.9; A10 A11 A17 A44"),
    Basis.PROFESSIONAL: Rule(
        "professional", bases.professional, "design 4.10; A11 A13 A14 A17 A44"
    ),
    Basis.OPT_OUT: Rule("opt_out", bases.opt_out, "design 4, by rulebook; A16"),
}
_LAST: tuple[Rule[RecipientCase], ...] = (
    Rule("nearest_basis", bases.nearest_refusal, "design 4.11; A1 A16"),
)


@lru_cache(maxsize=64)
def recipient_rules(in_force: tuple[Basis, ...]) -> tuple[Rule[RecipientCase], ...]:
    """Return the rules of a rulebook with these bases, in their order.

    Generic addresses belong to nobody, so they are checked before a record is required.
    """
    generic = [BASES[basis] for basis in in_force if basis is Basis.GENERIC_ADDRESS]
    others = [BASES[basis] for basis in in_force if basis is not Basis.GENERIC_ADDRESS]
    return (*_FIRST, *generic, *_RECORD, *others, *_LAST)


DELIVERY_RULES: tuple[Rule[DeliveryCase], ...] = (
    Rule("source_announced", recipient.source_announced, "design 4.6; A24"),
)

DOMAIN_RULES: tuple[Rule[RecipientCase], ...] = (
    Rule("null_mx", recipient.null_mx, "design 4; RFC 7505 4.1"),
)

DEFERRALS: tuple[Rule[RecipientCase], ...] = (
    Rule("paused", recipient.paused, "design 4.12; A27 A28"),
    Rule("frequency", recipient.frequency, "design 4.12; A28"),
    Rule("list_stale", recipient.list_stale, "design 4.12; A37 A41"),
)

MESSAGE_RULES: tuple[Rule[MessageCase], ...] = (
    Rule("header", message.header, "design 6; RFC 5322 3.6.2"),
    Rule("sender", message.sender, "design 6; A43"),
    Rule("alignment", message.alignment, "design 6; A43; RFC 9989"),
    Rule("recipient_limit", message.recipient_limit, "design 6; A28"),
    Rule("unsubscribe_present", message.unsubscribe_present, "design 6; A12"),
    Rule("unsubscribe_usable", message.unsubscribe_usable, "design 6; A12; RFC 2369 2, 3"),
    Rule("one_click", message.one_click, "design 6; A12; RFC 8058 3.1, 5"),
    Rule("unsubscribe_signed", message.unsubscribe_signed, "design 6; A12; RFC 8058 4"),
    Rule("body_optout", message.body_optout, "design 6; A12"),
    Rule("imprint", message.imprint, "design 6; A43"),
    Rule("subject", message.subject, "design 6; A43"),
)

TRANSACTIONAL_MESSAGE_RULES: tuple[Rule[MessageCase], ...] = (
    *MESSAGE_RULES[:4],  # header, sender, alignment, recipient_limit
    Rule("bulk", message.bulk, "design 6; A1"),
)
