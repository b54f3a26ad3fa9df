"""What is wanting of a record that a person is refused for, where a fact of the file would do.

Nothing is guessed here: a fact is supplied, and the person is judged again by the decision core.
Only what the file leaves out is supplied, as a constant of an import would be: what it says, and
what the record has from elsewhere, stays.
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

Told = Sequence[Contact]
"""What the lines of a file say of one person."""

Fix = Callable[[RecipientCase, Told], RecipientCase | None]
"""Supplies a fact; None where it is not wanting, or the file is not about it."""

EVIDENCE = "evidence."
PRODUCTS = "products"
"""The one that is of the configuration, not of the file."""

_SUPPLIED = "supplied"
_ALLOW, _REFUSE = Action.ALLOW, Action.REFUSE


def freed_by(case: RecipientCase, verdict: Verdict, told: Told) -> tuple[str, ...]:
    """Return the facts which, all together, would let mail through; empty: none would.

    `verdict` is that of the case. Each fact is what the verdict without it asks for.
    """
    found: list[str] = []
    while verdict.action is _REFUSE:
        for name, fix in _fixes(verdict.reason, case):
            if name not in found and (better := fix(case, told)) is not None:
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


def _ways(
    case: RecipientCase,
    told: Told,
    change: Callable[[Collection], dict[str, Any]],
) -> RecipientCase | None:
    """Change the collections of the stream's brand that the file is about."""
    contact = case.facts.contact
    if contact is None:
        return None
    brands = {each.brand for each in told}
    if None in brands:
        brands.add(case.stream.brand)  # supplied before
    ways = collections(contact)
    changed = tuple(
        replace(way, **change(way))
        if way.brand in brands and is_own(way.brand, case.stream)
        else way
        for way in ways
    )
    return None if changed == ways else _with(case, collected(contact, changed))


def _source(case: RecipientCase, told: Told) -> RecipientCase | None:
    def change(way: Collection) -> dict[str, Any]:
        return {"source": Source.DIRECT} if way.source is None else {}

    return _ways(case, told, change)


def _supplier(case: RecipientCase, told: Told) -> RecipientCase | None:
    def change(way: Collection) -> dict[str, Any]:
        known = way.provenance or Provenance()
        wanting = not known.supplier and not known.chain
        return {"provenance": replace(known, supplier=_SUPPLIED)} if wanting else {}

    return _ways(case, told, change)


def _disclosed(case: RecipientCase, told: Told) -> RecipientCase | None:
    def change(way: Collection) -> dict[str, Any]:
        known = way.provenance or Provenance()
        wanting = known.sender_disclosed is None and not known.chain
        return {"provenance": replace(known, sender_disclosed=True)} if wanting else {}

    return _ways(case, told, change)


def _informed(case: RecipientCase, told: Told) -> RecipientCase | None:
    def change(way: Collection) -> dict[str, Any]:
        wanting = way.informed_at is None and not way.never_informed
        return {"informed_at": way.collected_at or case.now} if wanting else {}

    return _ways(case, told, change)


def _optout(case: RecipientCase, told: Told) -> RecipientCase | None:
    def change(way: Collection) -> dict[str, Any]:
        return {"optout_offered": True} if way.optout_offered is None else {}

    return _ways(case, told, change)


def _collected(case: RecipientCase, told: Told) -> RecipientCase | None:
    """Who was active long ago stays silent, whatever else is said."""
    contact = case.facts.contact
    if contact is None or last_activity(contact, case.rulebook, case.now) is not None:
        return None

    def change(way: Collection) -> dict[str, Any]:
        return {"collected_at": case.now} if way.collected_at is None else {}

    return _ways(case, told, change)


def _occupations(case: RecipientCase, told: Told) -> RecipientCase | None:
    topics = case.stream.topics
    if not topics:
        return None

    def change(way: Collection) -> dict[str, Any]:
        return {} if way.occupations else {"occupations": frozenset({min(topics)})}

    return _ways(case, told, change)


def _products(case: RecipientCase, told: Told) -> RecipientCase | None:
    contact, stream = case.facts.contact, case.stream
    bought = frozenset() if contact is None else frozenset(p.product for p in contact.purchases)
    if not bought - stream.products:
        return None
    return replace(case, stream=replace(stream, products=stream.products | bought))


def _brand(case: RecipientCase, told: Told) -> RecipientCase | None:
    """What the file says of nobody's is the stream's brand's; a withdrawal stays everybody's."""
    contact, brand = case.facts.contact, case.stream.brand
    nobodys = [each for each in told if each.brand is None]
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
    """What makes it this act, whatever is on record of it."""
    return (act.purpose, act.at, act.pending, act.withdrawal)


def _agreed(told: Told) -> set[_Key]:
    return {_key(act) for each in told for act in each.acts if not act.withdrawal}


def _agreements(
    case: RecipientCase, told: Told, change: Callable[[ConsentAct], ConsentAct]
) -> RecipientCase | None:
    """Change the agreements to the stream's purpose that the file tells of."""
    contact = case.facts.contact
    if contact is None:
        return None
    ours = _agreed(told)
    acts = tuple(
        change(act) if act.purpose == case.stream.purpose and _key(act) in ours else act
        for act in contact.acts
    )
    return None if acts == contact.acts else _with(case, replace(contact, acts=acts))


def _method(case: RecipientCase, told: Told) -> RecipientCase | None:
    method = min(case.rulebook.valid_methods, default=None)
    if method is None:
        return None
    return _agreements(
        case, told, lambda act: replace(act, method=method) if act.method is None else act
    )


def _evidence(name: str) -> Fix:
    def supply(evidence: Evidence) -> Evidence:
        known = getattr(evidence, name)
        return replace(evidence, **{name: _SUPPLIED}) if not (known or "").strip() else evidence

    return lambda case, told: _agreements(
        case, told, lambda act: replace(act, evidence=supply(act.evidence))
    )


_FIXES: Mapping[Reason, Sequence[tuple[str, Fix]]] = {
    Reason.BRAND_UNPROVEN: [("brand", _brand)],
    Reason.CONSENT_MISSING: [("brand", _brand)],
    Reason.SOURCE_UNPROVEN: [("source", _source)],
    Reason.SOURCE_NOT_DIRECT: [("source", _source)],
    Reason.SOURCE_UNDISCLOSED: [("supplier", _supplier), ("sender_disclosed", _disclosed)],
    Reason.NOTICE_MISSING: [("informed_at", _informed)],
    Reason.OPTOUT_NOT_OFFERED: [("optout_offered", _optout)],
    Reason.TOPIC_UNRELATED: [("occupations", _occupations)],
    Reason.INACTIVE: [("collected_at", _collected)],
    Reason.PRODUCT_NOT_SIMILAR: [(PRODUCTS, _products)],
}
"""By what a person is refused for, what a file may say and this one does not."""
