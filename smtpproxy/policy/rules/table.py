"""The rules in their order: the first that decides, decides (design.md sections 4 and 6).

1. `RECIPIENT_RULES` is asked from the top; its last rule always decides.
2. What it allows is put to `DEFERRALS`. Refusals come first, so that nobody retries the
   impossible.
3. `MESSAGE_RULES` judge the message itself, `TRANSACTIONAL_MESSAGE_RULES` where the
   stream is transactional; a message that none of them refuses is allowed.
"""

from smtpproxy.policy.model import Basis, StreamClass, Verdict
from smtpproxy.policy.rules import bases, consent, deferrals, message, record, suppression
from smtpproxy.policy.rules.case import MessageCase, RecipientCase, Rule, allow

_TRANSACTIONAL = allow("transactional", Basis.TRANSACTIONAL)


def transactional(case: RecipientCase) -> Verdict | None:
    """Mail that sells nothing needs no agreement."""
    return _TRANSACTIONAL if case.stream.stream_class is StreamClass.TRANSACTIONAL else None


RECIPIENT_RULES: tuple[Rule[RecipientCase], ...] = (
    Rule("suppression", suppression.suppressed, "design 4.0; A31 A32 A35 A36; RGPD art. 21(3)"),
    Rule(
        "transactional",
        transactional,
        "design 4.1; A1; CPCE art. L34-5: it binds commercial mail alone",
    ),
    Rule("withdrawn", consent.withdrawn, "design 4.2; A31 A35; RGPD art. 7(3), 21(2)"),
    Rule(
        "generic_address",
        record.generic_address,
        "design 4.3; A15; CPCE art. L34-5: natural persons",
    ),
    Rule("no_record", record.no_record, "design 4.4; A1; CPCE art. L34-5, RGPD art. 7(1)"),
    Rule("restricted", record.restricted, "design 4.5; A26; RGPD art. 6(1)(f)"),
    Rule("source", record.source, "design 4.6; A8 A18 A19 A20 A21 A22 A24; RGPD art. 14"),
    Rule(
        "consent",
        consent.valid_consent,
        "design 4.7, 5; A1 to A5, A17; CPCE art. L34-5, RGPD art. 7",
    ),
    Rule(
        "existing_customer", bases.existing_customer, "design 4.8; A6 to A9, A11; CPCE art. L34-5"
    ),
    Rule("charity", bases.charity, "design 4.9; A10 A11 A17; CPCE art. L34-5"),
    Rule("professional", bases.professional, "design 4.10; A13 A14 A17; RGPD art. 6(1)(f)"),
    Rule("nearest_basis", bases.nearest_refusal, "design 4.11; A1 A16; CPCE art. L34-5"),
)

DEFERRALS: tuple[Rule[RecipientCase], ...] = (
    Rule("paused", deferrals.paused, "design 4.12; A27 A28"),
)

MESSAGE_RULES: tuple[Rule[MessageCase], ...] = (
    Rule("header", message.header, "design 6; RFC 5322 3.6.2; rules.md D"),
    Rule("sender", message.sender, "design 6; A43; CPCE art. L34-5: the principal is not hidden"),
    Rule("unsubscribe_present", message.unsubscribe_present, "design 6; A12; CPCE art. L34-5"),
    Rule("unsubscribe_usable", message.unsubscribe_usable, "design 6; A12; RFC 2369 2, 3"),
    Rule("one_click", message.one_click, "design 6; A12; RFC 8058 3.1, 5; rules.md C"),
)

TRANSACTIONAL_MESSAGE_RULES = tuple(
    rule for rule in MESSAGE_RULES if rule.name in ("header", "sender")
)
