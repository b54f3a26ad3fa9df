"""The decision core: `needs` and `judge`, both pure, with one store read between them. The rules
and their order are in rules/tables.py (design.md sections 4 and 6).
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import lru_cache

from msgspec import Struct
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
    Case,
    DeliveryCase,
    MessageCase,
    RecipientCase,
    permission,
    tables,
)
from smtpproxy.policy.rules.brands import by_collection, has_one_collection
from smtpproxy.policy.rules.recipient import agreed_to_tracking, is_tracked, yielded

# Rules that are asked only if their facts are present.
(_null_mx,) = (rule.judge for rule in tables.DOMAIN_RULES)
(_campaign,) = (rule.judge for rule in tables.TRIALS)
(_preference,) = (rule.judge for rule in tables.WISHES)

_ALLOW = Action.ALLOW
_MARKETING = UndeclaredBulk.MARKETING
_ASKING_CONSENT = (TrackingPixels.REFUSE, TrackingPixels.STRIP)
_ACCEPTED = Verdict(Action.ALLOW, rule="message")
_UNCERTAIN = Verdict(Action.ALLOW, rule="stream_uncertain")
_NOT_PERMITTED = Verdict(Action.REFUSE, Reason.STREAM_NOT_PERMITTED, rule="stream_choice")


def needs(transaction: Transaction, rulebook: Rulebook) -> Lookups:
    """Return what `judge` needs to know about this transaction.

    Contacts are left out only if no basis is needed and no consent could override an unsubscribe:
    on transactional streams without a purpose whose mail cannot turn out to be marketing.
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

    While the stream is uncertain (several candidates, no message yet) a recipient is refused only
    if every candidate refuses it, with the first one's verdict; otherwise its verdict is `allow`
    without a basis: not refused yet. `now` is UTC. Raises `ValueError` for no stream, or for
    several with a message.
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
    """Return the verdict on each recipient of a message whose stream is certain."""
    return tuple(
        [
            judge_recipient(
                RecipientCase(address, stream, facts.get(address, NO_FACTS), rulebook, now), message
            )
            for address in addresses
        ]
    )


def judge_recipient(case: RecipientCase, message: MessageFeatures | None = None) -> Verdict:
    """Return the verdict on one recipient; without a message, the verdict at RCPT."""
    case, verdict = decisive(case, message)
    if verdict.action is not _ALLOW:
        return verdict
    facts, stream = case.facts, case.stream
    if facts.null_mx is not None:
        refusal = _null_mx(case)
        if refusal is not None:
            return refusal
    if facts.contact is not None and facts.contact.preferences:
        refusal = _preference(case)
        if refusal is not None:
            return refusal
    rules = _rules_for_recipients(stream, case.rulebook.bases)
    not_now = rules.deferring if facts.pauses or stream.paused else rules.limiting
    deferral = _first(not_now, case) if not_now else None
    if deferral is not None:
        return deferral
    if message is not None and stream.trial is not None:
        deferral = _campaign(DeliveryCase(case, verdict.basis, message))
        if deferral is not None:
            return deferral
    if facts.suppressions:
        verdict = replace(verdict, detail=yielded(case))
    if message is None or message.content is None or not is_tracked(stream, message.content):
        return verdict
    return verdict if agreed_to_tracking(case) else replace(verdict, unconsented_pixels=True)


def decisive(
    case: RecipientCase, message: MessageFeatures | None = None
) -> tuple[RecipientCase, Verdict]:
    """Return the deciding case, and its verdict by the rules about how the address was obtained.

    Of the cases by collection, the first that is allowed decides, or else the first of all.
    """
    facts, stream = case.facts, case.stream
    if stream.permission:
        return _whether_to_ask(by_collection(case), message)
    if not facts.readings and (facts.contact is None or has_one_collection(facts.contact, stream)):
        return case, _by_basis(case, message)
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
    """Like `decisive`, for permission streams: if any collection allows mail, nobody is asked."""
    decided = [(each, _by_basis(each, message)) for each in cases]
    allowed = next((one for one in decided if one[1].action is _ALLOW), decided[0])
    return next((one for one in decided if permission.has_nothing_to_ask(*one)), allowed)


def _by_basis(case: RecipientCase, message: MessageFeatures | None) -> Verdict:
    """Return the verdict of the first rule that decides."""
    rules = _rules_for_recipients(case.stream, case.rulebook.bases)
    verdict = _first(rules.permitting, case)
    if verdict is None:
        raise AssertionError("the last recipient rule always decides")
    if message is None or not rules.delivering or verdict.action is not _ALLOW:
        return verdict
    return _first(rules.delivering, DeliveryCase(case, verdict.basis, message)) or verdict


def _first(rules: tuple[Callable[[Case], Verdict | None], ...], case: Case) -> Verdict | None:
    """Return the verdict of the first rule that decides."""
    for rule in rules:
        verdict = rule(case)
        if verdict is not None:
            return verdict
    return None


_RecipientRule = Callable[[RecipientCase], Verdict | None]


class _RecipientRules(Struct, frozen=True):
    """The rules that apply to the recipients of a stream."""

    permitting: tuple[_RecipientRule, ...]
    delivering: tuple[Callable[[DeliveryCase], Verdict | None], ...]
    limiting: tuple[_RecipientRule, ...]
    deferring: tuple[_RecipientRule, ...]  # instead of `limiting`, if something is paused


@lru_cache(maxsize=1024)
def _rules_for_recipients(stream: Stream, in_force: tuple[Basis, ...]) -> _RecipientRules:
    permitting = tables.PERMISSION_RULES if stream.permission else tables.recipient_rules(in_force)
    return _RecipientRules(
        tuple(rule.judge for rule in permitting if rule.applies(stream)),
        tuple(rule.judge for rule in tables.DELIVERY_RULES if rule.applies(stream)),
        tuple(rule.judge for rule in tables.LIMITS if rule.applies(stream)),
        tuple(rule.judge for rule in tables.DEFERRALS if rule.applies(stream)),
    )


@lru_cache(maxsize=1024)
def _rules_for_message(stream: Stream) -> tuple[Callable[[MessageCase], Verdict | None], ...]:
    return tuple(rule.judge for rule in tables.message_rules(stream) if rule.applies(stream))


def judge_message(stream: Stream, features: MessageFeatures) -> Verdict:
    """Return the verdict on the message itself, regardless of its recipients."""
    return _first(_rules_for_message(stream), MessageCase(stream, features)) or _ACCEPTED


def asks_for_signatures(stream: Stream, features: MessageFeatures) -> bool:
    """Whether `judge_message` needs the state of the message's DKIM signatures."""
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
    """Return the stream of a message, or the refusal of the header's choice.

    `permitted` are the streams that the client may use, and `default` its default among them;
    `header_values` are all values of the stream header. The same value, however often, may name a
    permitted stream; without a value the stream is the default, or else `DEFAULT_STREAM`.
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
