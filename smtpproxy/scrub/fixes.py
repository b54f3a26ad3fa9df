"""Which missing facts a person is refused for, if the imported file could supply them.

Nothing is guessed: a fact is supplied, and the decision core judges the person again. Only facts
that the file leaves out are supplied, as by a constant of an import; what the file says, and what
the record has from elsewhere, stays.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from msgspec.structs import replace

from smtpproxy.policy.decide import judge_recipient
from smtpproxy.policy.model import (
    BUILT_IN_BRAND,
    Action,
    Collection,
    ConsentAct,
    Contact,
    Evidence,
    Provenance,
    Reason,
    Source,
    Verdict,
    collected,
    collections,
)
from smtpproxy.policy.rules import RecipientCase, last_activity
from smtpproxy.policy.rules.brands import is_own

Lines = Sequence[Contact]
"""What the lines of a file say about one person."""

Fix = Callable[[RecipientCase, Lines], RecipientCase | None]
"""Supplies a fact; None if it is not missing, or the file does not cover it."""

EVIDENCE = "evidence."
PRODUCTS = "products"
"""The one fact that belongs to the configuration, not to the file."""

_SUPPLIED = "supplied"
_ALLOW, _REFUSE = Action.ALLOW, Action.REFUSE


def freed_by(case: RecipientCase, verdict: Verdict, lines: Lines) -> tuple[str, ...]:
    """Return the facts that together would let mail through; empty if none would.

    `verdict` is that of the case. Each fact is one that the verdict without it requires.
    """
    found: list[str] = []
    while verdict.action is _REFUSE:
        for name, fix in _fixes(verdict.reason, case):
            if name not in found and (better := fix(case, lines)) is not None:
                case = better
                found.append(name)
                verdict = judge_recipient(case)
                break
        else:
            return ()
    return tuple(sorted(found)) if verdict.action is _ALLOW else ()


def _fixes(reason: Reason, case: RecipientCase) -> Iterable[tuple[str, Fix]]:
    if reason is not Reason.CONSENT_UNPROVEN:
        return _FIXES.get(reason, ())
    evidence = sorted(case.rulebook.required_evidence)
    return (("consent_method", _method), *((EVIDENCE + name, _evidence(name)) for name in evidence))


def _with(case: RecipientCase, contact: Contact | None) -> RecipientCase | None:
    if contact is None:
        return None
    return replace(case, facts=replace(case.facts, contact=contact))


def _of_each_way(change: Callable[[Collection, RecipientCase], dict[str, Any]]) -> Fix:
    """Return the fix that changes the stream's brand's collections that the file covers."""

    def fix(case: RecipientCase, lines: Lines) -> RecipientCase | None:
        contact = case.facts.contact
        if contact is None:
            return None
        brands = {each.brand for each in lines}
        if None in brands:
            brands.add(case.stream.brand)  # may have been supplied before
        ways = collections(contact)
        changed = tuple(
            replace(way, **change(way, case))
            if way.brand in brands and is_own(way.brand, case.stream)
            else way
            for way in ways
        )
        return None if changed == ways else _with(case, collected(contact, changed))

    return fix


@_of_each_way
def _source(way: Collection, case: RecipientCase) -> dict[str, Any]:
    return {"source": Source.DIRECT} if way.source is None else {}


@_of_each_way
def _supplier(way: Collection, case: RecipientCase) -> dict[str, Any]:
    known = way.provenance or Provenance()
    missing = not known.supplier and not known.chain
    return {"provenance": replace(known, supplier=_SUPPLIED)} if missing else {}


@_of_each_way
def _disclosed(way: Collection, case: RecipientCase) -> dict[str, Any]:
    known = way.provenance or Provenance()
    missing = known.sender_disclosed is None and not known.chain
    return {"provenance": replace(known, sender_disclosed=True)} if missing else {}


@_of_each_way
def _informed(way: Collection, case: RecipientCase) -> dict[str, Any]:
    missing = way.informed_at is None and not way.never_informed
    return {"informed_at": way.collected_at or _last_sign(case)} if missing else {}


@_of_each_way
def _collected_then(way: Collection, case: RecipientCase) -> dict[str, Any]:
    """Supply `collected_at`, without which nothing shows that a notice was in time."""
    return {"collected_at": way.informed_at or _last_sign(case)} if way.collected_at is None else {}


def _last_sign(case: RecipientCase) -> datetime:
    """The latest time that makes nobody more active than the record does."""
    contact = case.facts.contact
    last = None if contact is None else last_activity(contact, case.rulebook, case.now)
    return last or case.now


@_of_each_way
def _optout(way: Collection, case: RecipientCase) -> dict[str, Any]:
    return {"optout_offered": True} if way.optout_offered is None else {}


@_of_each_way
def _collected(way: Collection, case: RecipientCase) -> dict[str, Any]:
    """Supply `collected_at`, unless some activity is on record: too old activity stays so."""
    contact = case.facts.contact
    active = contact and last_activity(contact, case.rulebook, case.now)
    return {} if active or way.collected_at else {"collected_at": case.now}


@_of_each_way
def _occupations(way: Collection, case: RecipientCase) -> dict[str, Any]:
    topics = case.stream.topics
    return {} if way.occupations or not topics else {"occupations": frozenset({min(topics)})}


def _products(case: RecipientCase, lines: Lines) -> RecipientCase | None:
    contact, stream = case.facts.contact, case.stream
    bought = frozenset() if contact is None else frozenset(p.product for p in contact.purchases)
    if not bought - stream.products:
        return None
    return replace(case, stream=replace(stream, products=stream.products | bought))


def _brand(case: RecipientCase, lines: Lines) -> RecipientCase | None:
    """Give the file's data without a brand to the stream's brand; withdrawals stay for all."""
    contact, brand = case.facts.contact, case.stream.brand
    nobodys = [each for each in lines if each.brand is None]
    if contact is None or not nobodys or brand == BUILT_IN_BRAND or not case.stream.many_brands:
        return None
    acts = _agreed(nobodys)
    bought = {(one.product, one.at) for each in nobodys for one in each.purchases}
    ways = tuple(replace(way, brand=way.brand or brand) for way in collections(contact))
    named = replace(
        collected(contact, ways),
        acts=tuple(
            replace(act, brand=brand) if act.brand is None and _key(act) in acts else act
            for act in contact.acts
        ),
        purchases=tuple(
            replace(one, brand=brand)
            if one.brand is None and (one.product, one.at) in bought
            else one
            for one in contact.purchases
        ),
    )
    return None if named == contact else _with(case, named)


_Key = tuple[str, datetime, bool, bool]


def _key(act: ConsentAct) -> _Key:
    """Return what identifies an act, whatever else is recorded about it."""
    return (act.purpose, act.at, act.pending, act.withdrawal)


def _agreed(lines: Lines) -> set[_Key]:
    return {_key(act) for each in lines for act in each.acts if not act.withdrawal}


def _agreements(
    case: RecipientCase, lines: Lines, change: Callable[[ConsentAct], ConsentAct]
) -> RecipientCase | None:
    """Change the consents to the stream's purpose that the file contains."""
    contact = case.facts.contact
    if contact is None:
        return None
    ours = _agreed(lines)
    acts = tuple(
        change(act) if act.purpose == case.stream.purpose and _key(act) in ours else act
        for act in contact.acts
    )
    return None if acts == contact.acts else _with(case, replace(contact, acts=acts))


def _method(case: RecipientCase, lines: Lines) -> RecipientCase | None:
    method = min(case.rulebook.valid_methods, default=None)
    if method is None:
        return None
    return _agreements(
        case, lines, lambda act: replace(act, method=method) if act.method is None else act
    )


def _evidence(name: str) -> Fix:
    def supply(evidence: Evidence) -> Evidence:
        known = getattr(evidence, name)
        return replace(evidence, **{name: _SUPPLIED}) if not (known or "").strip() else evidence

    return lambda case, lines: _agreements(
        case, lines, lambda act: replace(act, evidence=supply(act.evidence))
    )


_FIXES: Mapping[Reason, Sequence[tuple[str, Fix]]] = {
    Reason.BRAND_UNPROVEN: [("brand", _brand)],
    Reason.CONSENT_MISSING: [("brand", _brand)],
    Reason.SOURCE_UNPROVEN: [("source", _source)],
    Reason.SOURCE_NOT_DIRECT: [("source", _source)],
    Reason.SOURCE_UNDISCLOSED: [("supplier", _supplier), ("sender_disclosed", _disclosed)],
    Reason.NOTICE_MISSING: [("informed_at", _informed), ("collected_at", _collected_then)],
    Reason.OPTOUT_NOT_OFFERED: [("optout_offered", _optout)],
    Reason.TOPIC_UNRELATED: [("occupations", _occupations)],
    Reason.INACTIVE: [("collected_at", _collected)],
    Reason.PRODUCT_NOT_SIMILAR: [(PRODUCTS, _products)],
}
"""By reason of a refusal: facts that a file may supply, if this one does not."""
