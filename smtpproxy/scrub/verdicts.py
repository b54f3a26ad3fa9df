"""What the decision core says of the addresses of a list, as at RCPT on one stream."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from msgspec import Struct

from smtpproxy.policy.as_of import known_at
from smtpproxy.policy.decide import judge, needs
from smtpproxy.policy.model import (
    NO_FACTS,
    Basis,
    Facts,
    Reason,
    RecipientFacts,
    Rulebook,
    Stream,
    Transaction,
    Verdict,
)
from smtpproxy.policy.rules.consent import newest_act, newest_withdrawal
from smtpproxy.policy.rules.suppression import day
from smtpproxy.store.protocols import FactReader


@dataclass(frozen=True, slots=True)
class Occasion:
    """What the list is for. `now` is the moment it is judged as of."""

    stream: Stream
    rulebook: Rulebook
    now: datetime
    as_of: bool = False  # only what was known by `now` counts


class Judged(Struct, frozen=True):
    """One line's verdict; `since` is the day of what it rests on, empty where there is none."""

    verdict: Verdict
    since: str = ""
    duplicate: bool = False  # the same mailbox stood further up
    profiling_objected: bool = False  # for who chooses recipients by what is known of them


async def judge_addresses(
    store: FactReader, occasion: Occasion, addresses: Sequence[str]
) -> Sequence[Judged]:
    """Return what is said of each canonical address, by one read of the store.

    Raises StoreUnavailable.
    """
    stream, rulebook = occasion.stream, occasion.rulebook
    question = Transaction((stream,), tuple(addresses))
    facts: Facts = await store.facts(needs(question, rulebook))
    if occasion.as_of:
        facts = {address: known_at(known, occasion.now) for address, known in facts.items()}
    verdicts = judge(question, facts, rulebook, occasion.now).recipients
    known = [facts.get(address, NO_FACTS) for address in addresses]
    return [
        Judged(
            verdict,
            _since(verdict, of, occasion),
            profiling_objected=of.contact is not None
            and of.contact.profiling_objected_at is not None,
        )
        for verdict, of in zip(verdicts, known, strict=True)
    ]


def _since(verdict: Verdict, known: RecipientFacts, occasion: Occasion) -> str:
    """The day of the suppression, the withdrawal or the consent that decided."""
    if verdict.rule == "suppression":
        return (verdict.detail or "").partition(" since ")[2][:10]
    contact, purpose = known.contact, occasion.stream.purpose
    if contact is not None and verdict.reason is Reason.CONSENT_WITHDRAWN:
        at = newest_withdrawal(contact.acts, purpose)
        return "" if at is None else day(at)
    if contact is not None and verdict.basis is Basis.CONSENT:
        act = newest_act(contact, purpose, occasion.rulebook)
        return "" if act is None else day(act.at)
    return ""
