"""Consent recorded one act at a time: its conditions, and what still forbids mail."""

from collections.abc import Iterator, Sequence
from datetime import datetime

from msgspec import Struct

from smtpproxy.policy.decide import decisive
from smtpproxy.policy.model import (
    ConsentAct,
    Contact,
    Lookups,
    Origin,
    RecipientFacts,
    Source,
    StreamClass,
    Verdict,
    collections,
)
from smtpproxy.policy.rulebook import DOUBLE_OPT_IN
from smtpproxy.policy.rules import RecipientCase
from smtpproxy.policy.rules.bases import confirmed_request, states
from smtpproxy.settings import Settings
from smtpproxy.store.records import ContactUpdate, SuppressionEntry
from smtpproxy.store.sql.store import Store
from smtpproxy.terminal import few


class NotConfirmable(ValueError):
    """There is no request to confirm; the text says why and what to do."""


class Recorded(Struct, frozen=True):
    """What became of an act, and what is now known about the person."""

    new: bool
    known: RecipientFacts


def brand_of(settings: Settings, asked: str | None) -> str | None:
    """Return the brand that the person agreed with; None: unnamed. Raises ValueError."""
    known = sorted(settings.brand_names)
    if asked is not None:
        check_brand(settings, asked)
    elif len(known) > 1:
        raise ValueError(f"say whom the person agreed with, one of {few(known)}")
    return asked or next(iter(known), None)


def check_brand(settings: Settings, brand: str) -> None:
    """Raises ValueError for an unknown brand, which is misspelt or lacks its [[brand]]."""
    if brand not in settings.brand_names:
        known = few(sorted(settings.brand_names), brand)
        right = f"known: {known}" if known else "the configuration has no [[brand]]"
        raise ValueError(f"there is no brand {brand!r}; {right}")


def check_purpose(settings: Settings, purpose: str) -> None:
    """Raises ValueError for a purpose that no stream has: agreement to it permits nothing."""
    if purpose not in settings.purposes:
        known = few(sorted(settings.purposes), purpose)
        raise ValueError(f"no stream has the purpose {purpose!r}; known: {known}")


def check_method(settings: Settings, method: str, *, double: bool) -> None:
    """Raises ValueError if no rulebook knows the method, or (`double`) it needs no confirmation."""
    if method not in settings.methods:
        raise ValueError(f"{method!r} is not one of {', '.join(sorted(settings.methods))}")
    if double and method != DOUBLE_OPT_IN:
        raise ValueError(f"only a {DOUBLE_OPT_IN} waits for a confirmation, {method} does not")


async def record(
    settings: Settings,
    store: Store,
    address: str,
    act: ConsentAct,
    *,
    confirm: bool = False,
    source: Source | None = None,
) -> Recorded:
    """Record an act of agreement, and how the address was obtained if that is not on record.

    `confirm`: the act confirms a request. Raises NotConfirmable, StoreUnavailable.
    """

    def agreed(known: Contact | None) -> ContactUpdate | None:
        if confirm and not _can_be_confirmed(known, act):
            return None
        return ContactUpdate(Contact(address, acts=(act,)), given=frozenset())

    def named(known: Contact | None) -> ContactUpdate | None:
        if source is None or known is None or sources(known, settings, act.brand):
            return None
        contact = Contact(address, source=source, brand=act.brand)
        return ContactUpdate(contact, given=frozenset({"source"}))

    done = await store.put_contact(address, agreed)
    if done is not None:
        await store.put_contact(address, named)
    new = done is not None and not done.unchanged
    return Recorded(new, (await store.facts(Lookups((address,))))[address])


async def withdraw(store: Store, address: str, act: ConsentAct, scope: str) -> bool:
    """Record a withdrawal; return False if it is already on record. Raises StoreUnavailable.

    `scope` is that of its purpose, or `marketing` if no stream has that.
    """
    if scope == "marketing":
        by = act.evidence.recorded_by
        order = SuppressionEntry(address, scope, Origin.UNSUBSCRIBE, act.at, by=by)
        await store.add_suppressions([order])
    return await store.record_act(address, act)


def sources(contact: Contact | None, settings: Settings, brand: str | None) -> str:
    """Return in words how a brand obtained the address; empty: not on record."""
    own = {brand} if len(settings.brand_names) > 1 else {brand, None}
    ways = () if contact is None else collections(contact)
    known = [str(way.source) for way in ways if way.brand in own and way.source]
    return " and ".join(dict.fromkeys(known))


def _can_be_confirmed(contact: Contact | None, act: ConsentAct) -> bool:
    """Whether a request is waiting; False if it is already confirmed. Raises NotConfirmable."""
    request = None if contact is None else confirmed_request(contact.acts, act)
    if contact is None or request is None:
        raise NotConfirmable(f"no request for {act.purpose} is on record to be confirmed")
    since = [
        one
        for one in contact.acts
        if one.is_about(act.purpose)
        and request.at <= one.at <= act.at
        and (one.brand in (None, act.brand) or act.brand is None)
    ]
    if any(one.withdrawal for one in since):
        raise NotConfirmable(f"{act.purpose} was withdrawn after it was requested; ask again")
    return all(one.pending or one.method != DOUBLE_OPT_IN for one in since)


def unproven(
    settings: Settings, act: ConsentAct, contact: Contact | None
) -> Iterator[tuple[str, Sequence[str]]]:
    """Yield the fields of evidence that rulebooks require and no act has.

    Each with the streams that require it; none means all of the purpose.
    """
    request = (
        confirmed_request(contact.acts, act) if contact and act.method == DOUBLE_OPT_IN else None
    )
    stated = [act.evidence, *([request.evidence] if request else [])]
    asking = {
        stream.name: settings.rulebooks[stream.rulebook].required_evidence
        for stream in settings.streams.values()
        if stream.purpose == act.purpose and stream.stream_class is StreamClass.MARKETING
    } or {"": frozenset({"wording"})}
    for name in ("wording", "version", "form", "ip", "document_hash"):
        where = [stream for stream, names in asking.items() if name in names]
        if where and not any(states(one, name) for one in stated):
            yield name, () if len(where) == len(asking) else where


_OUTWEIGHING = frozenset({"suppression", "withdrawn", "restricted", "source"})
"""The rules that may refuse in spite of consent."""


def refused_still(
    settings: Settings, address: str, act: ConsentAct, known: RecipientFacts, now: datetime
) -> Iterator[tuple[str, Verdict]]:
    """Yield the streams of the purpose that refuse despite the consent, and why.

    Because of a suppression, a later withdrawal, a restriction, or the source if that is on record.
    """
    has_source = bool(sources(known.contact, settings, act.brand))
    for stream in settings.streams.values():
        if stream.purpose == act.purpose and act.brand in (None, stream.brand):
            rulebook = settings.rulebooks[stream.rulebook]
            _, verdict = decisive(RecipientCase(address, stream, known, rulebook, now))
            if verdict.rule in _OUTWEIGHING and (has_source or verdict.rule != "source"):
                yield stream.name, verdict
