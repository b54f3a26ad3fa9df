"""The rules in order; the first that gives a verdict decides (design.md sections 4 and 6).

1. `recipient_rules` of the rulebook's bases (`PERMISSION_RULES`, if the stream is of that
   class) are asked from the top; the last of them always decides.
2. What they allow at the end of data goes to `DELIVERY_RULES`, which look at the
   message too.
3. What is still allowed goes to `DOMAIN_RULES`, if the recipient's domain was looked up,
   then to `WISHES`, `DEFERRALS` and, with the message, `TRIALS`. Refusals come first, so that
   nobody retries in vain.
4. `MESSAGE_RULES` judge the message itself, `TRANSACTIONAL_MESSAGE_RULES` if the stream is
   transactional, `PERMISSION_MESSAGE_RULES` if it is of that class; a message that none of
   them refuses is allowed.
"""

from functools import lru_cache

from smtpproxy.policy.model import (
    Alignment,
    Basis,
    Nature,
    Stream,
    StreamClass,
    UndeclaredBulk,
    Verdict,
)
from smtpproxy.policy.rules import (
    DeliveryCase,
    MessageCase,
    RecipientCase,
    Rule,
    allow,
    bases,
    deferrals,
    message,
    permission,
    recipient,
)

_TRANSACTIONAL = allow("transactional", Basis.TRANSACTIONAL)


def _is_transactional(stream: Stream) -> bool:
    return stream.stream_class is StreamClass.TRANSACTIONAL


def transactional(case: RecipientCase) -> Verdict | None:
    """Allow mail that promotes nothing, which needs no consent."""
    return _TRANSACTIONAL if _is_transactional(case.stream) else None


_FIRST: tuple[Rule[RecipientCase], ...] = (
    Rule("suppression", recipient.suppressed, "design 4.0; A29 to A32, A35, A36, A39, A41"),
    Rule("transactional", transactional, "design 4.1; A1", applies=_is_transactional),
    Rule("withdrawn", bases.withdrawn, "design 4.2; A31, A35"),
)
_RECORD: tuple[Rule[RecipientCase], ...] = (
    Rule("no_record", recipient.no_record, "design 4.4; A1"),
    Rule("restricted", recipient.restricted, "design 4.5; A26"),
    Rule("source", recipient.source, "design 4.6; A18 to A22"),
)
BASES: dict[Basis, Rule[RecipientCase]] = {
    Basis.GENERIC_ADDRESS: Rule("generic_address", recipient.generic_address, "design 4.3; A15"),
    Basis.CONSENT: Rule("consent", bases.valid_consent, "design 4.7, 5; A1 to A5, A17, A23, A44"),
    Basis.EXISTING_CUSTOMER: Rule(
        "existing_customer", bases.existing_customer, "design 4.8; A6 to A9, A11"
    ),
    Basis.CHARITY: Rule(
        "charity",
        bases.charity,
        "design 4.9; A10, A11, A17, A44",
        applies=lambda stream: stream.nature is Nature.CHARITY,
    ),
    Basis.PROFESSIONAL: Rule(
        "professional", bases.professional, "design 4.10; A11, A13, A14, A17, A44"
    ),
    Basis.OPT_OUT: Rule("opt_out", bases.opt_out, "design 4, by rulebook; A16"),
}
_LAST: tuple[Rule[RecipientCase], ...] = (
    Rule("nearest_basis", bases.nearest_refusal, "design 4.11; A1, A16"),
)

PERMISSION_RULES: tuple[Rule[RecipientCase], ...] = (
    *_FIRST,
    *_RECORD,
    Rule("permission", permission.permission, "design 4, permission; A17"),
    *_LAST,
)
"""Replaces `recipient_rules` on streams of class `permission`."""


@lru_cache(maxsize=64)
def recipient_rules(in_force: tuple[Basis, ...]) -> tuple[Rule[RecipientCase], ...]:
    """Return the rules of a rulebook with these bases, in order.

    Generic addresses belong to no person, so they are checked before a record is required.
    """
    generic = [BASES[basis] for basis in in_force if basis is Basis.GENERIC_ADDRESS]
    others = [BASES[basis] for basis in in_force if basis is not Basis.GENERIC_ADDRESS]
    return (*_FIRST, *generic, *_RECORD, *others, *_LAST)


DELIVERY_RULES: tuple[Rule[DeliveryCase], ...] = (
    Rule(
        "source_announced",
        recipient.source_announced,
        "design 4.6; A24",
        applies=lambda stream: stream.first_contact_notice,
    ),
    Rule(
        "tracking", recipient.tracking, "design 6", applies=lambda stream: stream.looks_for_pixels
    ),
)

DOMAIN_RULES: tuple[Rule[RecipientCase], ...] = (
    Rule("null_mx", recipient.null_mx, "design 4; RFC 7505 4.1"),
)

WISHES: tuple[Rule[RecipientCase], ...] = (
    Rule("preference", recipient.preference, "design 4; A28"),
)

PAUSES: tuple[Rule[RecipientCase], ...] = (
    Rule("restored", deferrals.restored, "design 4.12; A31"),
    Rule("paused", deferrals.paused, "design 4.12; A27 to A29"),
)
LIMITS: tuple[Rule[RecipientCase], ...] = (
    Rule(
        "frequency",
        deferrals.frequency,
        "design 4.12; A28",
        applies=lambda stream: stream.frequency_cap is not None or stream.marketing_cap is not None,
    ),
    Rule(
        "list_stale",
        deferrals.list_stale,
        "design 4.12; A37, A41",
        applies=lambda stream: stream.asks_for_snapshots,
    ),
)
DEFERRALS = (*PAUSES, *LIMITS)

TRIALS: tuple[Rule[DeliveryCase], ...] = (
    Rule("campaign", deferrals.campaign, "design 4.12; A28, A29"),
)

MESSAGE_RULES: tuple[Rule[MessageCase], ...] = (
    Rule("header", message.header, "design 6; RFC 5322 3.6.2"),
    Rule(
        "sender",
        message.sender,
        "design 6; A43",
        applies=lambda stream: bool(stream.from_domains or stream.foreign_domains),
    ),
    Rule(
        "alignment",
        message.alignment,
        "design 6; A43; RFC 9989",
        applies=lambda stream: stream.alignment is not Alignment.OFF,
    ),
    Rule(
        "recipient_limit",
        message.recipient_limit,
        "design 6; A28",
        applies=lambda stream: stream.max_recipients is not None,
    ),
    Rule("unsubscribe_present", message.unsubscribe_present, "design 6; A12"),
    Rule("unsubscribe_usable", message.unsubscribe_usable, "design 6; A12; RFC 2369 2, 3"),
    Rule(
        "one_click",
        message.one_click,
        "design 6; A12; RFC 8058 3.1, 5",
        applies=lambda stream: stream.one_click_required,
    ),
    Rule(
        "unsubscribe_signed",
        message.unsubscribe_signed,
        "design 6; A12; RFC 8058 4",
        applies=lambda stream: stream.check_dkim,
    ),
    Rule(
        "body_optout",
        message.body_optout,
        "design 6; A12",
        applies=lambda stream: stream.body_optout,
    ),
    Rule("imprint", message.imprint, "design 6; A43", applies=lambda stream: bool(stream.imprint)),
    Rule("subject", message.subject, "design 6; A43", applies=lambda stream: stream.honest_subject),
)

PERMISSION_MESSAGE_RULES: tuple[Rule[MessageCase], ...] = (
    *MESSAGE_RULES,
    Rule("confirm_link", message.confirm_link, "design 6; A17"),
)

TRANSACTIONAL_MESSAGE_RULES: tuple[Rule[MessageCase], ...] = (
    *MESSAGE_RULES[:4],  # header, sender, alignment, recipient_limit
    Rule(
        "bulk",
        message.bulk,
        "design 6; A1",
        applies=lambda stream: stream.undeclared_bulk is UndeclaredBulk.REFUSE,
    ),
)


def message_rules(stream: Stream) -> tuple[Rule[MessageCase], ...]:
    """Return the rules for a message on a stream, in order."""
    if _is_transactional(stream):
        return TRANSACTIONAL_MESSAGE_RULES
    return PERMISSION_MESSAGE_RULES if stream.permission else MESSAGE_RULES
