"""The decision core: `needs` and `judge`, pure, with one store read between them. The rules and
their order are those of rules/tables.py (design.md sections 4 and 6).
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import lru_cache
from itertools import repeat
from operator import call

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
from smtpproxy.policy.rules.brands import by_collection, is_plain
from smtpproxy.policy.rules.recipient import agreed_to_tracking, is_tracked, yielded

# Each is asked only where its facts are there.
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
    facts, stream = case.facts, case.stream
    if facts.null_mx is not None:
        refusal = _null_mx(case)
        if refusal is not None:
            return refusal
    if facts.contact is not None and facts.contact.preferences:
        refusal = _preference(case)
        if refusal is not None:
            return refusal
    asked = _asked_of_recipients(stream, case.rulebook.bases)
    rules = asked.deferring if facts.pauses or stream.paused else asked.limiting
    deferral = _first(rules, case) if rules else None
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
    """Return the case with the collection that decides, the first that allows or else the first,
    and its verdict by the rules that look at how the address was obtained.
    """
    facts, stream = case.facts, case.stream
    if stream.permission:
        return _whether_to_ask(by_collection(case), message)
    if not facts.readings and (facts.contact is None or is_plain(facts.contact, stream)):
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
    """As `decisive`; nobody is asked whom another collection lets the brand mail anyway."""
    decided = [(each, _by_basis(each, message)) for each in cases]
    allowed = next((one for one in decided if one[1].action is _ALLOW), decided[0])
    return next((one for one in decided if permission.has_nothing_to_ask(*one)), allowed)


def _by_basis(case: RecipientCase, message: MessageFeatures | None) -> Verdict:
    """Return the verdict of the first rule that decides."""
    asked = _asked_of_recipients(case.stream, case.rulebook.bases)
    verdict = _first(asked.permitting, case)
    if verdict is None:
        raise AssertionError("the last recipient rule decides always")
    if message is None or not asked.delivering or verdict.action is not _ALLOW:
        return verdict
    return _first(asked.delivering, DeliveryCase(case, verdict.basis, message)) or verdict


def _first(rules: tuple[Callable[[Case], Verdict | None], ...], case: Case) -> Verdict | None:
    """Return the verdict of the first rule that decides."""
    return next(filter(None, map(call, rules, repeat(case))), None)


_OfRecipient = Callable[[RecipientCase], Verdict | None]


class _Asked(Struct, frozen=True):
    """The rules that are asked of a recipient of a stream."""

    permitting: tuple[_OfRecipient, ...]
    delivering: tuple[Callable[[DeliveryCase], Verdict | None], ...]
    limiting: tuple[_OfRecipient, ...]
    deferring: tuple[_OfRecipient, ...]  # instead of `limiting`, where something is paused


@lru_cache(maxsize=1024)
def _asked_of_recipients(stream: Stream, in_force: tuple[Basis, ...]) -> _Asked:
    permitting = tables.PERMISSION_RULES if stream.permission else tables.recipient_rules(in_force)
    return _Asked(
        tuple(rule.judge for rule in permitting if rule.on(stream)),
        tuple(rule.judge for rule in tables.DELIVERY_RULES if rule.on(stream)),
        tuple(rule.judge for rule in tables.LIMITS if rule.on(stream)),
        tuple(rule.judge for rule in tables.DEFERRALS if rule.on(stream)),
    )


@lru_cache(maxsize=1024)
def _asked_of_message(stream: Stream) -> tuple[Callable[[MessageCase], Verdict | None], ...]:
    return tuple(rule.judge for rule in tables.message_rules(stream) if rule.on(stream))


def judge_message(stream: Stream, features: MessageFeatures) -> Verdict:
    """Return the verdict on the message itself, recipients aside."""
    return _first(_asked_of_message(stream), MessageCase(stream, features)) or _ACCEPTED


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
