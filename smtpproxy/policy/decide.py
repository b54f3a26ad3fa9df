"""The decision core: `needs` and `judge`, pure, with one store read between them; and the rules in
their order: the first that decides, decides (design.md sections 4 and 6).

1. `recipient_rules` of the rulebook's bases (`PERMISSION_RULES`, where the stream is of that
   class) are asked from the top; the last of them always decides.
2. What they allow at the end of data is put to `DELIVERY_RULES`, which look at the
   message too.
3. What is still allowed is put to `DOMAIN_RULES`, where the recipient's domain was asked,
   then to `WISHES`, `DEFERRALS` and, with the message, `TRIALS`. Refusals come first, so that
   nobody retries the impossible.
4. `MESSAGE_RULES` judge the message itself, `TRANSACTIONAL_MESSAGE_RULES` where the
   stream is transactional, `PERMISSION_MESSAGE_RULES` where it is of that class; a
   message that none of them refuses is allowed.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import lru_cache

from msgspec.structs import replace

from smtpproxy.policy.model import (
    DEFAULT_STREAM,
    NO_FACTS,
    Action,
    Basis,
    Decision,
    Facts,
    Lookups,
    MessageFeatures,
    Reason,
    Rulebook,
    Stream,
    StreamClass,
    TrackingPixels,
    Transaction,
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
from smtpproxy.policy.rules.brands import by_collection, is_plain
from smtpproxy.policy.rules.recipient import agreed_to_tracking, is_tracked, yielded

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


PERMISSION_RULES: tuple[Rule[RecipientCase], ...] = (
    *_FIRST,
    *_RECORD,
    Rule("permission", permission.permission, "design 4, permission; A17"),
    *_LAST,
)
"""Instead of `recipient_rules`, on streams of class `permission`."""


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
    Rule("tracking", recipient.tracking, "design 6"),
)

DOMAIN_RULES: tuple[Rule[RecipientCase], ...] = (
    Rule("null_mx", recipient.null_mx, "design 4; RFC 7505 4.1"),
)

WISHES: tuple[Rule[RecipientCase], ...] = (
    Rule("preference", recipient.preference, "design 4; A28"),
)

DEFERRALS: tuple[Rule[RecipientCase], ...] = (
    Rule("restored", deferrals.restored, "design 4.12; A31"),
    Rule("paused", deferrals.paused, "design 4.12; A27 to A29"),
    Rule("frequency", deferrals.frequency, "design 4.12; A28"),
    Rule("list_stale", deferrals.list_stale, "design 4.12; A37 A41"),
)

TRIALS: tuple[Rule[DeliveryCase], ...] = (
    Rule("campaign", deferrals.campaign, "design 4.12; A28 A29"),
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

PERMISSION_MESSAGE_RULES: tuple[Rule[MessageCase], ...] = (
    *MESSAGE_RULES,
    Rule("confirm_link", message.confirm_link, "design 6; A17"),
)

TRANSACTIONAL_MESSAGE_RULES: tuple[Rule[MessageCase], ...] = (
    *MESSAGE_RULES[:4],  # header, sender, alignment, recipient_limit
    Rule("bulk", message.bulk, "design 6; A1"),
)


# The loops below want functions, not rows.
_PERMISSION_RULES = tuple(rule.judge for rule in PERMISSION_RULES)
_DELIVERY_RULES = tuple(rule.judge for rule in DELIVERY_RULES)
(_null_mx,) = (rule.judge for rule in DOMAIN_RULES)
(_campaign,) = (rule.judge for rule in TRIALS)
(_preference,) = (rule.judge for rule in WISHES)
_DEFERRALS = tuple(rule.judge for rule in DEFERRALS)
_PERMISSION_MESSAGE_RULES = tuple(rule.judge for rule in PERMISSION_MESSAGE_RULES)
_MESSAGE_RULES = {
    StreamClass.MARKETING: tuple(rule.judge for rule in MESSAGE_RULES),
    StreamClass.TRANSACTIONAL: tuple(rule.judge for rule in TRANSACTIONAL_MESSAGE_RULES),
}

_ALLOW = Action.ALLOW
_MARKETING = UndeclaredBulk.MARKETING
_ASKING_CONSENT = (TrackingPixels.REFUSE, TrackingPixels.STRIP)
_ACCEPTED = Verdict(Action.ALLOW, rule="message")
_UNCERTAIN = Verdict(Action.ALLOW, rule="stream_uncertain")
_NOT_PERMITTED = Verdict(Action.REFUSE, Reason.STREAM_NOT_PERMITTED, rule="stream_choice")


def needs(transaction: Transaction, rulebook: Rulebook) -> Lookups:
    """Return what `judge` will want to know about this transaction.

    Contacts are left out only where no basis is asked for and no consent could make an
    unsubscribe yield: transactional streams without a purpose, whose mail cannot turn out to
    be marketing either.
    """
    return Lookups(
        addresses=tuple(dict.fromkeys(transaction.recipients)),
        contacts=any(
            stream.stream_class is StreamClass.MARKETING
            or stream.purpose is not None
            or stream.undeclared_bulk is _MARKETING
            or stream.tracking_pixels in _ASKING_CONSENT
            for stream in transaction.streams
        ),
        mailings=any(
            stream.counts_mailings or stream.undeclared_bulk is _MARKETING
            for stream in transaction.streams
        ),
        snapshots=any(stream.asks_for_snapshots for stream in transaction.streams),
        pauses=any(
            stream.may_be_held_back or stream.undeclared_bulk is _MARKETING
            for stream in transaction.streams
        ),
    )


def judge(transaction: Transaction, facts: Facts, rulebook: Rulebook, now: datetime) -> Decision:
    """Return the verdicts (design.md sections 4 to 6).

    While the stream is not certain (several candidates, no message yet) a recipient is
    refused only if every candidate refuses it, with the first one's verdict; else its
    verdict is `allow` without a basis: not refused yet. `now` is UTC. Raises `ValueError`
    for no stream at all, or a message with several.
    """
    streams, message = transaction.streams, transaction.message
    if len(streams) == 1:
        stream = streams[0]
        recipients = judge_recipients(stream, transaction.recipients, facts, rulebook, now, message)
    elif streams and message is None:
        stream = streams[0]
        recipients = tuple(
            _judge_uncertain(address, streams, facts, rulebook, now)
            for address in transaction.recipients
        )
    else:
        raise ValueError("a message is judged on exactly one stream")
    return Decision(
        stream,
        rulebook.name,
        recipients,
        None if message is None else judge_message(stream, message),
    )


def judge_recipients(
    stream: Stream,
    addresses: Iterable[str],
    facts: Facts,
    rulebook: Rulebook,
    now: datetime,
    message: MessageFeatures | None,
) -> tuple[Verdict, ...]:
    """Return the verdict on each recipient of a stream that is certain."""
    return tuple(
        [
            judge_recipient(
                RecipientCase(address, stream, facts.get(address, NO_FACTS), rulebook, now), message
            )
            for address in addresses
        ]
    )


def judge_recipient(case: RecipientCase, message: MessageFeatures | None = None) -> Verdict:
    """Return the verdict on one recipient; without a message, as of RCPT."""
    case, verdict = decisive(case, message)
    if verdict.action is not _ALLOW:
        return verdict
    if case.facts.null_mx is not None:
        refusal = _null_mx(case)
        if refusal is not None:
            return refusal
    if case.facts.contact is not None and case.facts.contact.preferences:
        refusal = _preference(case)
        if refusal is not None:
            return refusal
    for deferral_rule in _DEFERRALS:
        deferral = deferral_rule(case)
        if deferral is not None:
            return deferral
    if message is not None and case.stream.trial is not None:
        deferral = _campaign(DeliveryCase(case, verdict.basis, message))
        if deferral is not None:
            return deferral
    if case.facts.suppressions:
        verdict = replace(verdict, detail=yielded(case))
    if message is None or message.content is None or not is_tracked(case.stream, message.content):
        return verdict
    return verdict if agreed_to_tracking(case) else replace(verdict, unconsented_pixels=True)


def decisive(
    case: RecipientCase, message: MessageFeatures | None = None
) -> tuple[RecipientCase, Verdict]:
    """Return the case with the collection that decides, the first that allows or else the first,
    and its verdict by the rules that look at how the address was obtained.
    """
    facts = case.facts
    plain = not facts.readings and (facts.contact is None or is_plain(facts.contact, case.stream))
    if plain and not case.stream.permission:
        return case, _by_basis(case, message)
    if case.stream.permission:
        return _whether_to_ask(by_collection(case), message)
    first: tuple[RecipientCase, Verdict] | None = None
    for each in by_collection(case):
        verdict = _by_basis(each, message)
        if verdict.action is _ALLOW:
            return each, verdict
        first = first or (each, verdict)
    if first is None:
        raise AssertionError("there is always a case")
    return first


def _whether_to_ask(
    cases: Sequence[RecipientCase], message: MessageFeatures | None
) -> tuple[RecipientCase, Verdict]:
    """As `decisive`; nobody is asked whom another collection lets the brand mail anyway."""
    decided = [(each, _by_basis(each, message)) for each in cases]
    allowed = next((one for one in decided if one[1].action is _ALLOW), decided[0])
    return next((one for one in decided if permission.has_nothing_to_ask(*one)), allowed)


def _by_basis(case: RecipientCase, message: MessageFeatures | None) -> Verdict:
    """Return the verdict of the first rule that decides."""
    permits = case.stream.permission
    for rule in _PERMISSION_RULES if permits else _recipient_rules(case.rulebook.bases):
        verdict = rule(case)
        if verdict is not None:
            break
    else:
        raise AssertionError("the last recipient rule decides always")
    if message is None or verdict.action is not _ALLOW:
        return verdict
    if message.content is None and not case.stream.first_contact_notice:
        return verdict
    return _refused_with_message(case, verdict, message) or verdict


def _refused_with_message(
    case: RecipientCase, allowed: Verdict, message: MessageFeatures
) -> Verdict | None:
    delivery = DeliveryCase(case, allowed.basis, message)
    for rule in _DELIVERY_RULES:
        verdict = rule(delivery)
        if verdict is not None:
            return verdict
    return None


@lru_cache(maxsize=64)
def _recipient_rules(
    bases: tuple[Basis, ...],
) -> tuple[Callable[[RecipientCase], Verdict | None], ...]:
    return tuple(rule.judge for rule in recipient_rules(bases))


def judge_message(stream: Stream, features: MessageFeatures) -> Verdict:
    """Return the verdict on the message itself, recipients aside."""
    case = MessageCase(stream, features)
    permits = stream.permission
    for rule in _PERMISSION_MESSAGE_RULES if permits else _MESSAGE_RULES[stream.stream_class]:
        verdict = rule(case)
        if verdict is not None:
            return verdict
    return _ACCEPTED


def asks_for_signatures(stream: Stream, features: MessageFeatures) -> bool:
    """Whether `judge_message` has to know of the DKIM signatures that a message came with."""
    return (
        stream.check_dkim
        and stream.stream_class is StreamClass.MARKETING
        and features.dkim_fields > 0
        and features.signatures is None
        and judge_message(stream, features).action is _ALLOW
    )


def choose_stream(
    permitted: Sequence[Stream], default: Stream | None, header_values: Sequence[str]
) -> Stream | Verdict:
    """Return the stream of a message, or the refusal when the header may not choose so.

    `permitted` is what the client may use and `default` its default among them;
    `header_values` is every value of the stream header. One value, however often, names a
    permitted stream; without any it is the default, else `DEFAULT_STREAM`.
    """
    if not header_values:
        return DEFAULT_STREAM if default is None else default
    for stream in permitted:
        if all(value == stream.name for value in header_values):
            return stream
    return _NOT_PERMITTED


def _judge_uncertain(
    address: str, streams: Sequence[Stream], facts: Facts, rulebook: Rulebook, now: datetime
) -> Verdict:
    known = facts.get(address, NO_FACTS)
    first: Verdict | None = None
    for stream in streams:
        verdict = judge_recipient(RecipientCase(address, stream, known, rulebook, now))
        if verdict.action is not Action.REFUSE:
            return _UNCERTAIN
        first = first or verdict
    return first or _UNCERTAIN
