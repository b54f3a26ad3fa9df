"""What is required of a recipient in addition to a basis (design.md section 4).

Suppressions (rule 0; A31 to A36), the record and its source (rules 3 to 6), the domain, what a
first message must say (A24; RGPD art. 14(3)(b)), and how much mail a person wants.
"""

import re
from collections.abc import Collection, Iterable, Iterator
from datetime import date, datetime, timedelta

from msgspec.structs import replace

from smtpproxy.mail.visible_text import folded
from smtpproxy.policy.contact import same_brand, wishes_about
from smtpproxy.policy.model import (
    BUILT_IN_BRAND,
    Audience,
    Basis,
    ConsentAct,
    ContentFeatures,
    Frequency,
    Link,
    Mailing,
    Origin,
    Preference,
    Provenance,
    Reason,
    Rulebook,
    Source,
    Stream,
    StreamClass,
    Suppression,
    TrackingPixels,
    Verdict,
)
from smtpproxy.policy.periods import next_monthly, next_weekly
from smtpproxy.policy.rulebook import WIDENED_ORIGINS
from smtpproxy.policy.rules import DeliveryCase, RecipientCase, allow, refuse, was_mailed_before
from smtpproxy.policy.rules.bases import consent_failure, newest_act
from smtpproxy.policy.rules.brands import is_own

_WIDTH = {"all": 0, "marketing": 1, "brand": 2}  # a purpose is the narrowest: 3

_MARKETING = StreamClass.MARKETING
_NOT_ASKED = frozenset({Origin.COMPLAINT, Origin.OBJECTION})

_REASONS = {origin: Reason(f"suppressed_{origin}") for origin in Origin}


def suppressed(case: RecipientCase) -> Verdict | None:
    """Refuse by the widest suppression that holds; of several as wide, by the oldest."""
    if not case.facts.suppressions:
        return None
    entry = decisive(case)
    if entry is None:
        return None
    detail = f"scope {entry.scope} since {day(entry.since)}"
    if entry.widened:
        detail += ", of another spelling of the address"
    if entry.domain:
        detail += f", of the whole domain {entry.domain}"
    if entry.read_as:
        detail += f", of {entry.read_as}, which an MTA may take the address for"
    return refuse("suppression", _REASONS[entry.origin], detail)


def decisive(case: RecipientCase) -> Suppression | None:
    """Return the suppression by which the mail is refused, or None."""
    holding = [entry for entry in matching(case) if not _yields(entry, case)]
    return min(holding, key=lambda entry: (_width(entry.scope), entry.since), default=None)


def _width(scope: str) -> int:
    return _WIDTH.get(scope.partition(":")[0], 3)


def yielded(case: RecipientCase) -> str | None:
    """Return what to record if suppressions yielded to newer consent, or None."""
    found = yielding(case)
    if found is None:
        return None
    entry, act = found
    return f"the {entry.origin} of {day(entry.since)} yields to the consent given on {day(act.at)}"


def yielding(case: RecipientCase) -> tuple[Suppression, ConsentAct] | None:
    """Return the newest suppression that yielded, and the consent to which it did."""
    entries = [entry for entry in matching(case) if _yields(entry, case)]
    contact = case.facts.contact
    act = None if contact is None else newest_act(contact, case.stream.purpose, case.rulebook)
    if not entries or act is None:
        return None
    return max(entries, key=lambda entry: entry.since), act


def matching(case: RecipientCase) -> Iterator[Suppression]:
    """Yield the suppressions whose scope covers the stream and whose key counts.

    Anybody who complained or objected, whatever the purpose or brand, is not asked about another
    either, neither to confirm nor whether to continue.
    """
    asks = case.stream.confirmation or case.stream.permission
    for entry in case.facts.suppressions:
        if entry.widened and entry.origin not in WIDENED_ORIGINS:
            continue
        objected = asks and entry.origin in _NOT_ASKED
        if objected or covers(entry.scope, case.stream):
            yield entry


def covers(scope: str, stream: Stream) -> bool:
    """Whether a scope covers a stream; `purpose:X` covers that purpose's streams of both classes.

    A stream of the built-in brand may be any brand's, so `brand:X` covers it for every X. If brand
    X no longer exists, it may have become any other, so `brand:X` covers them all. A scope other
    than the four cannot be interpreted, so it applies everywhere.
    """
    if scope == "marketing":
        return stream.stream_class is _MARKETING or stream.confirmation
    kind, colon, name = scope.partition(":")
    if not colon:
        return True
    if kind == "brand":
        sells = stream.stream_class is _MARKETING or stream.confirmation
        gone = bool(stream.all_brands) and name not in stream.all_brands
        return sells and (gone or stream.brand in (name, BUILT_IN_BRAND))
    return name == stream.purpose if kind == "purpose" else True


def day(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d")


def _yields(entry: Suppression, case: RecipientCase) -> bool:
    """Whether a suppression yields to valid consent for the purpose, given later than it.

    The rulebook says which origins can yield, and to consent by which methods. A suppression of a
    whole domain never does, because it is not the person's, nor does one of another reading of the
    address, because it may be another person's.
    """
    contact, rulebook = case.facts.contact, case.rulebook
    if entry.domain is not None or entry.read_as is not None:
        return False
    if entry.origin not in rulebook.lifted_by_consent:
        return False
    if case.stream.confirmation:  # any consent that follows would be later
        return entry.scope != "all" and entry.origin not in _NOT_ASKED
    if contact is None:
        return False
    act = newest_act(contact, case.stream.purpose, case.rulebook)
    return (
        act is not None
        and act.at > entry.since
        and act.method in rulebook.lifting_methods
        and consent_failure(case) is Reason.NONE
    )


_UNKNOWN = Source.UNKNOWN
_GENERIC_AUDIENCE = Audience.GENERIC
_GENERIC = allow("generic_address", Basis.GENERIC_ADDRESS)
_NO_RECORD = refuse("no_record", Reason.NO_RECORD)
_RESTRICTED = refuse("restricted", Reason.CONTACT_RESTRICTED)
_FORBIDDEN = refuse("source", Reason.SOURCE_FORBIDDEN)
_UNDISCLOSED = refuse("source", Reason.SOURCE_UNDISCLOSED)
_UNPROVEN = refuse("source", Reason.SOURCE_UNPROVEN)
_OTHER_BRAND = refuse("source", Reason.BRAND_UNPROVEN)


def generic_address(case: RecipientCase) -> Verdict | None:
    """Allow an address that belongs to an organisation rather than a person (A15).

    A recorded one needs what every record needs: no protective tag, and a source. At a consumer
    mailbox provider it is a person's, whatever the record says.
    """
    contact = case.facts.contact
    if contact is not None and contact.audience is not _GENERIC_AUDIENCE:
        return None
    local, _, domain = case.address.rpartition("@")
    if contact is not None:
        barred = is_consumer(domain, case.rulebook) or restricted(case) or source(case)
        return None if barred else _GENERIC
    if local in case.rulebook.role_local_parts and not is_consumer(domain, case.rulebook):
        return _GENERIC
    return None


def names_role(local: str, roles: frozenset[str]) -> bool:
    """Whether a local part is a role, or has one among its words: `pole.achats`."""
    return local in roles or not roles.isdisjoint(re.split(r"[^a-z]+", local))


def is_consumer(domain: str, rulebook: Rulebook) -> bool:
    """Whether a domain, or one above it, is a consumer mailbox provider's."""
    return is_within(domain, rulebook.consumer_domains)


def is_within(domain: str, domains: Collection[str]) -> bool:
    """Whether a domain, or one above it, is among `domains`."""
    while domain not in domains:
        _, dot, domain = domain.partition(".")
        if not dot:
            return False
    return True


def no_record(case: RecipientCase) -> Verdict | None:
    if case.facts.contact is None and case.rulebook.record_required:
        return _NO_RECORD
    return None


def restricted(case: RecipientCase) -> Verdict | None:
    """Refuse private direct addresses that were not given for bulk mail (A26)."""
    contact = case.facts.contact
    if contact is None or not contact.tags:
        return None
    return _RESTRICTED if restricting(contact.tags, case.rulebook.restricted_tags) else None


def restricting(tags: Collection[str], restricted_tags: Iterable[str]) -> frozenset[str]:
    """Return those of a contact's tags that protect it.

    Case, accents, surrounding spaces and invisible characters are ignored.
    """
    wanted = {folded(tag) for tag in restricted_tags} if tags else ()
    return frozenset(tag for tag in tags if folded(tag) in wanted)


def source(case: RecipientCase) -> Verdict | None:
    """Refuse an address that came neither from the person nor through a chain that named us."""
    contact, rulebook = case.facts.contact, case.rulebook
    known = known_source(case)
    if known in rulebook.accepted_sources:
        return None
    if known in rulebook.forbidden_sources:
        return _FORBIDDEN
    if contact is not None and not is_own(contact.brand, case.stream):
        return _OTHER_BRAND
    if known not in rulebook.disclosed_sources or contact is None:
        return _UNPROVEN
    return None if is_disclosed(contact.provenance, rulebook, case.now) else _UNDISCLOSED


def known_source(case: RecipientCase) -> Source:
    contact = case.facts.contact
    return (None if contact is None else contact.source) or _UNKNOWN


def is_disclosed(provenance: Provenance | None, rulebook: Rulebook, now: datetime) -> bool:
    """Whether every supplier is named and disclosed this sender at collection (A22)."""
    if provenance is None:
        return False
    hands = links(provenance)
    if rulebook.longest_chain is not None and len(hands) > rulebook.longest_chain:
        return False
    return all(discloses(hand, now) for hand in hands)


def links(provenance: Provenance) -> tuple[Link, ...]:
    """Return the chain, the collector first; a supplier given beside it is its last link."""
    last = Link(provenance.supplier, provenance.sender_disclosed)
    if not provenance.chain:
        return (last,)
    return (*provenance.chain, last) if provenance.supplier else provenance.chain


def discloses(link: Link, now: datetime) -> bool:
    return (
        folded(link.supplier or "") != ""
        and link.sender_disclosed is True
        and (link.at is None or link.at <= now)
    )


_NULL_MX = refuse("null_mx", Reason.NULL_MX)


def null_mx(case: RecipientCase) -> Verdict | None:
    """Refuse mail to a domain that says it accepts none (RFC 7505)."""
    return _NULL_MX if case.facts.null_mx else None


_NOT_ANNOUNCED = refuse("source_announced", Reason.SOURCE_NOT_ANNOUNCED)


def source_announced(case: DeliveryCase) -> Verdict | None:
    """Refuse a first message that does not say where the address was obtained.

    This applies on streams that ask for it, to people who did not give their address themselves. A
    contact not known to have been mailed before counts as not mailed.
    """
    recipient = case.recipient
    stream = recipient.stream
    if (
        not stream.first_contact_notice
        or stream.stream_class is not StreamClass.MARKETING
        or case.features.source_statement
        or case.basis is Basis.GENERIC_ADDRESS  # not personal data
        or known_source(recipient) is Source.DIRECT
    ):
        return None
    return None if was_mailed_before(recipient) else _NOT_ANNOUNCED


TRACKING = "tracking"
"""The purpose to which people consent when they let openings be reported."""

_TRACKED = refuse("tracking", Reason.TRACKING_UNCONSENTED)


def tracking(case: DeliveryCase) -> Verdict | None:
    """Refuse a message that reports its opening to anybody who did not agree to that (CNIL
    2026-042).

    If the stream strips pixels, refuse only those that cannot be removed.
    """
    content, stream = case.features.content, case.recipient.stream
    if content is None or not content.pixels:
        return None
    if stream.tracking_pixels is TrackingPixels.REFUSE or (
        stream.tracking_pixels is TrackingPixels.STRIP and content.pixels_fixed
    ):
        return None if agreed_to_tracking(case.recipient) else _TRACKED
    return None


def is_tracked(stream: Stream, content: ContentFeatures) -> bool:
    """Whether verdicts depend on who agreed to have openings reported."""
    return bool(content.pixels) and stream.looks_for_pixels


def agreed_to_tracking(case: RecipientCase) -> bool:
    """Whether consent to the purpose `tracking` is valid; consent to the mail is separate."""
    asked = replace(case, stream=replace(case.stream, purpose=TRACKING))
    return consent_failure(asked) is Reason.NONE


def preference(case: RecipientCase) -> Verdict | None:
    """Refuse more mail of a purpose than the person wants (RGPD 21; A28).

    It is not a deferral, because waiting an hour would not help.
    """
    contact = case.facts.contact
    if contact is None or not contact.preferences:
        return None
    found = preferred(case)
    if found is None or found[1] <= case.now.date():
        return None
    wish, free_on = found
    detail = f"{wish.frequency} at most, said on {day(wish.at)}; again from {free_on:%Y-%m-%d}"
    return refuse("preference", Reason.PREFERENCE_FREQUENCY, detail)


_WISH_AHEAD = timedelta(days=1)
_NEXT = {Frequency.WEEKLY: next_weekly, Frequency.MONTHLY: next_monthly}


def preferred(case: RecipientCase) -> tuple[Preference, date] | None:
    """Return the strictest wish about mail of the stream's purpose, and the day (UTC) from which
    more is allowed: counted from the last message, and from the wish, which was made in answer to
    one, unless it was dated by a clock that was ahead.

    Messages on record count even if dated later than now: another worker, or a machine whose clock
    is ahead, counted them before this one.
    """
    contact, stream = case.facts.contact, case.stream
    if contact is None or stream.stream_class is not StreamClass.MARKETING:
        return None
    mailed = [mailing.at for mailing in case.facts.mailings if _is_like(mailing, stream)]
    wishes = [
        (wish, _NEXT[wish.frequency](max(since).date()))
        for wish in wishes_about(contact.preferences, stream.purpose, stream.brand)
        if wish.frequency in _NEXT
        and (since := [*mailed, *([wish.at] if wish.at - case.now <= _WISH_AHEAD else ())])
    ]
    return max(wishes, key=lambda one: one[1], default=None)


def _is_like(mailing: Mailing, stream: Stream) -> bool:
    if mailing.purpose is None:
        return mailing.stream == stream.name
    return mailing.purpose == stream.purpose and same_brand(mailing.brand, stream.brand)
