"""Sections 4 and 5 of the design written down once more, as plainly as they read.

Slow, flat and without the rules' own code: what both say is what the design says.
"""

from calendar import monthrange
from datetime import datetime, timedelta

from smtpproxy.policy.model import ConsentAct, Contact, RecipientFacts, Rulebook, Stream
from smtpproxy.policy.periods import Period

WIDENED = ("unsubscribe", "complaint", "objection", "erasure", "external")


def expected(
    address: str, stream: Stream, facts: RecipientFacts, book: Rulebook, now: datetime
) -> str:
    """Return `allow BASIS`, `refuse REASON` or `defer REASON`."""
    answer = _basis(address, stream, facts, book, now)
    if answer.startswith("allow") and facts.null_mx:
        return "refuse null_mx"
    if not answer.startswith("allow") or stream.stream_class != "marketing":
        return answer
    # 12
    if stream.paused:
        return "defer stream_paused"
    for cap, names in ((stream.frequency_cap, {stream.name}), (stream.marketing_cap, None)):
        if cap is None:
            continue
        earliest = now - timedelta(days=cap.period.count)  # all caps here are in days
        mailed = [m for m in facts.mailings if names is None or m.stream in names]
        if sum(m.at >= earliest for m in mailed) >= cap.count:
            return "defer frequency_cap"
    if stream.max_snapshot_age is not None:
        oldest = now - timedelta(seconds=stream.max_snapshot_age)
        if facts.snapshot_at is None or facts.snapshot_at < oldest:
            return "defer list_stale"
    return answer


def _basis(
    address: str, stream: Stream, facts: RecipientFacts, book: Rulebook, now: datetime
) -> str:
    contact = facts.contact
    marketing = stream.stream_class == "marketing"
    consent = _consent(stream, contact, book, now) if contact else "consent_missing"
    given = None
    if contact:
        given = max((a.at for a in contact.acts if a.purpose == stream.purpose), default=None)

    # 0
    scopes = ["all"] + ["marketing"] * marketing
    if marketing:
        brands = ["shop", "mill"] if stream.brand == "default" else [stream.brand]
        scopes += [f"brand:{brand}" for brand in brands]
    if stream.purpose is not None:
        scopes.append(f"purpose:{stream.purpose}")
    width = ["all", "marketing", "brand", "purpose"]
    holding = []
    for entry in facts.suppressions:
        if entry.scope not in scopes or (entry.widened and entry.origin not in WIDENED):
            continue
        own = entry.domain is None and entry.read_as is None
        later = consent == "valid" and given and given > entry.since
        if own and entry.origin in ("unsubscribe", "erasure") and later:
            continue
        kind = entry.scope.split(":")[0]
        holding.append((width.index(kind), entry.since, entry.origin))
    if holding:
        widest = min(holding, key=lambda entry: entry[:2])
        return f"refuse suppressed_{widest[2]}"
    # 1
    if not marketing:
        return "allow transactional"
    # 2
    elsewhere = [_consent(stream, Contact("", acts=r.acts), book, now) for r in facts.readings]
    if "consent_withdrawn" in (consent, *elsewhere):
        return "refuse consent_withdrawn"
    # 3
    local, domain = address.split("@")
    consumer = any(domain == d or domain.endswith("." + d) for d in book.consumer_domains)
    if contact is None:
        if local in book.role_local_parts and not consumer:
            return "allow generic_address"
        # 4
        return "refuse no_record"
    # 5
    if any(tag.strip().lower() == "restricted" for tag in contact.tags):
        return "refuse contact_restricted"
    # 6
    if contact.source in ("web", "harvested", "guessed"):
        return "refuse source_forbidden"
    if contact.source in ("purchased", "rented", "exchanged", "partner"):
        p = contact.provenance
        if p is None or not p.supplier or not p.sender_disclosed:
            return "refuse source_undisclosed"
    elif contact.source != "direct":
        return "refuse source_unproven"
    # 3, of what is on record
    if contact.audience == "generic" and not consumer:
        return "allow generic_address"
    # 7
    if consent == "valid":
        return "allow consent"
    return _other_basis(stream, contact, consent, book, now)


def _other_basis(
    stream: Stream, contact: Contact, consent: str, book: Rulebook, now: datetime
) -> str:
    purchases = [p for p in contact.purchases if p.at <= now]
    recent = [p for p in purchases if now <= _years_later(p.at, _count(book.customer_period))]
    similar = [p for p in recent if p.product in stream.products]
    informed = contact.informed_at is not None and contact.informed_at <= now
    if informed and contact.informed_at and contact.collected_at:
        informed = contact.informed_at <= contact.collected_at <= now
    last = _last_activity(contact, book, now)
    active = last is not None and now <= _years_later(last, _count(book.activity_period))
    charity = stream.nature == "charity"
    professional = contact.audience == "professional"
    gathered = contact.profiling_objected_at is not None and contact.source != "direct"
    related = bool(stream.topics & contact.occupations) and not gathered
    # 8 to 10
    if similar and contact.source == "direct" and informed and contact.optout_offered:
        return "allow existing_customer"
    if charity and informed and contact.optout_offered and active:
        return "allow charity"
    if professional and informed and contact.optout_offered and related and active:
        return "allow professional"
    # 11
    if consent != "consent_missing":
        return f"refuse {consent}"
    missing = []
    if purchases:
        missing = [
            (not recent, "customer_stale"),
            (not similar, "product_not_similar"),
            (contact.source != "direct", "source_not_direct"),
            (not informed, "notice_missing"),
            (not contact.optout_offered, "optout_not_offered"),
        ]
    elif charity:
        missing = [
            (not informed, "notice_missing"),
            (not contact.optout_offered, "optout_not_offered"),
            (not active, "inactive"),
        ]
    elif professional:
        missing = [
            (not informed, "notice_missing"),
            (not contact.optout_offered, "optout_not_offered"),
            (not related, "topic_unrelated"),
            (not active, "inactive"),
        ]
    return f"refuse {next((r for wrong, r in missing if wrong), 'consent_missing')}"


def _consent(stream: Stream, contact: Contact, book: Rulebook, now: datetime) -> str:
    """Return `valid`, or the failure."""
    acts = [a for a in contact.acts if a.purpose == stream.purpose]
    if not acts:
        return "consent_missing"
    withdrawn = max((a.at for a in acts if a.withdrawal), default=None)
    if withdrawn is not None:
        moments = {a.at for a in acts if not a.withdrawal and withdrawn < a.at <= now}
        said = [_said_at(moment, acts, book, now) for moment in moments]
        if "valid" not in said:
            return "consent_withdrawn"
    failure = _said_at(max(a.at for a in acts), acts, book, now)
    if failure != "valid":
        return failure
    last = _last_activity(contact, book, now)
    expired = last is None or now > _years_later(last, _count(book.consent_period))
    return "consent_expired" if expired else "valid"


def _said_at(moment: datetime, acts: list[ConsentAct], book: Rulebook, now: datetime) -> str:
    """What the acts of one moment come to: the strictest of them, with all that proves it."""
    said = [a for a in acts if a.at == moment]
    if any(a.method in ("preticked_box", "implied", "silence") for a in said):
        return "consent_preticked"
    if any(a.conditional for a in said):
        return "consent_conditional"
    if any(a.method not in book.valid_methods for a in said) or moment > now:
        return "consent_unproven"
    channel = any("email" not in a.channels for a in said)
    proven = [a.evidence.wording for a in said if not channel or "email" not in a.channels]
    if not any(proven):
        return "consent_unproven"
    return "consent_channel" if channel else "valid"


def _last_activity(contact: Contact, book: Rulebook, now: datetime) -> datetime | None:
    moments = [contact.collected_at, contact.last_activity_at]
    moments += [p.at for p in contact.purchases]
    moments += [a.at for a in contact.acts if not a.withdrawal and a.method in book.valid_methods]
    return max((m for m in moments if m is not None and m <= now), default=None)


def _count(period: Period | None) -> int:
    assert period is not None
    return period.count


def _years_later(moment: datetime, years: int) -> datetime:
    year = moment.year + years
    return moment.replace(year=year, day=min(moment.day, monthrange(year, moment.month)[1]))
