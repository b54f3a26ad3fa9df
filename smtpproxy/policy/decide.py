"""The decision core: `needs` and `judge`, pure, with one store read between them."""

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import lru_cache

from msgspec.structs import replace

from smtpproxy.policy.model import (
    DEFAULT_STREAM,
    NO_FACTS,
    Action,
    Basis,
    Contact,
    Decision,
    Facts,
    Lookups,
    MessageFeatures,
    Reason,
    RecipientFacts,
    Rulebook,
    Stream,
    StreamClass,
    Transaction,
    UndeclaredBulk,
    Verdict,
)
from smtpproxy.policy.rules import DeliveryCase, MessageCase, RecipientCase, table
from smtpproxy.policy.rules.recipient import yielded


def known_at(facts: RecipientFacts, moment: datetime) -> RecipientFacts:
    """Return `facts` less everything that happened after `moment`.

    A time that the store keeps only the newest of (the last activity) is left out when it
    is later: what was before it is not known any more, and the strict reading is that
    there was nothing. What was lifted or erased since cannot come back either; the audit
    log, not this, is the record of what was decided.
    """
    suppressions = tuple(s for s in facts.suppressions if s.since <= moment)
    contact = None if facts.contact is None else _contact_at(facts.contact, moment)
    return replace(
        facts,
        suppressions=suppressions,
        contact=contact,
        mailings=tuple(m for m in facts.mailings if m.at <= moment),
        first_mailed_at=None if _later(facts.first_mailed_at, moment) else facts.first_mailed_at,
        snapshot_at=None if _later(facts.snapshot_at, moment) else facts.snapshot_at,
    )


def _contact_at(contact: Contact, moment: datetime) -> Contact | None:
    """None when the contact was collected later."""
    if _later(contact.collected_at, moment):
        return None
    return replace(
        contact,
        informed_at=None if _later(contact.informed_at, moment) else contact.informed_at,
        last_activity_at=(
            None if _later(contact.last_activity_at, moment) else contact.last_activity_at
        ),
        purchases=tuple(p for p in contact.purchases if p.at <= moment),
        acts=tuple(a for a in contact.acts if a.at <= moment),
        first_contacted_at=(
            None if _later(contact.first_contacted_at, moment) else contact.first_contacted_at
        ),
        profiling_objected_at=(
            None if _later(contact.profiling_objected_at, moment) else contact.profiling_objected_at
        ),
    )


def _later(at: datetime | None, moment: datetime) -> bool:
    return at is not None and at > moment


# The loops below want functions, not rows.
_DELIVERY_RULES = tuple(rule.judge for rule in table.DELIVERY_RULES)
(_null_mx,) = (rule.judge for rule in table.DOMAIN_RULES)
_DEFERRALS = tuple(rule.judge for rule in table.DEFERRALS)
_MESSAGE_RULES = {
    StreamClass.MARKETING: tuple(rule.judge for rule in table.MESSAGE_RULES),
    StreamClass.TRANSACTIONAL: tuple(rule.judge for rule in table.TRANSACTIONAL_MESSAGE_RULES),
}

_ALLOW = Action.ALLOW
_MARKETING = UndeclaredBulk.MARKETING
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
            for stream in transaction.streams
        ),
        mailings=any(
            stream.counts_mailings or stream.undeclared_bulk is _MARKETING
            for stream in transaction.streams
        ),
        snapshots=any(stream.asks_for_snapshots for stream in transaction.streams),
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
        recipients = tuple(
            [
                judge_recipient(
                    RecipientCase(address, stream, facts.get(address, NO_FACTS), rulebook, now),
                    message,
                )
                for address in transaction.recipients
            ]
        )
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


def judge_recipient(case: RecipientCase, message: MessageFeatures | None = None) -> Verdict:
    """Return the verdict of the first rule that decides; without a message, as of RCPT."""
    for rule in _recipient_rules(case.rulebook.bases):
        verdict = rule(case)
        if verdict is not None:
            break
    else:
        raise AssertionError("the last recipient rule decides always")
    if verdict.action is not _ALLOW:
        return verdict
    if message is not None and case.stream.first_contact_notice:
        refusal = _refused_with_message(case, verdict, message)
        if refusal is not None:
            return refusal
    if case.facts.null_mx is not None:
        refusal = _null_mx(case)
        if refusal is not None:
            return refusal
    for deferral_rule in _DEFERRALS:
        deferral = deferral_rule(case)
        if deferral is not None:
            return deferral
    if case.facts.suppressions:
        return replace(verdict, detail=yielded(case))
    return verdict


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
    return tuple(rule.judge for rule in table.recipient_rules(bases))


def judge_message(stream: Stream, features: MessageFeatures) -> Verdict:
    """Return the verdict on the message itself, recipients aside."""
    case = MessageCase(stream, features)
    for rule in _MESSAGE_RULES[stream.stream_class]:
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
