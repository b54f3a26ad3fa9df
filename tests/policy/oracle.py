"""Sections 4 and 5 of the design written down again, as plainly as they read.

Slow, flat and independent of the rules' code: where both agree, they follow the design.
"""

from calendar import monthrange
from datetime import datetime, timedelta

from msgspec.structs import replace

from smtpproxy.policy.campaign import Campaign
from smtpproxy.policy.model import (
    Audience,
    Collection,
    ConsentAct,
    Contact,
    Nature,
    RecipientFacts,
    Rulebook,
    Stream,
)
from smtpproxy.policy.periods import Period

WIDENED = ("unsubscribe", "complaint", "objection", "erasure", "external")


def expected(
    address: str,
    stream: Stream,
    facts: RecipientFacts,
    book: Rulebook,
    now: datetime,
    pixels: str = "none",
    campaign: Campaign | None = None,
) -> str:
    """Return `allow BASIS`, `refuse REASON` or `defer REASON`.

    `pixels` in the message: none, found, or fixed by somebody's signature.
    """
    answer, _ = _of_any_collection(address, stream, facts, book, now, pixels)
    if answer.startswith("allow") and facts.null_mx:
        return "refuse null_mx"
    restoring = any(p.subject == "marketing" for p in facts.pauses)
    if answer.startswith("allow") and stream.confirmation and restoring:
        return "defer restore_pending"
    if not answer.startswith("allow") or stream.stream_class != "marketing":
        return answer
    # their wishes
    wishes = facts.contact.preferences if facts.contact else ()
    own = [w.at for w in wishes if (w.purpose, w.brand) == (stream.purpose, stream.brand)]
    for wish in wishes:
        brands = {wish.brand, stream.brand}
        if any(wish.at < later for later in own):
            continue  # older than what they said about this very brand
        if wish.purpose != stream.purpose:
            continue
        if len(brands) == 2 and "default" not in brands:
            continue
        said = [wish.at] if wish.at <= now + timedelta(days=1) else []  # else by a wrong clock
        for moment in [*said, *_mailed_like(stream, facts)]:
            today, then = now.date(), moment.date()
            if wish.frequency == "weekly" and today < then + timedelta(days=7):
                return "refuse preference_frequency"
            same_month = (today.year, today.month) <= (then.year, then.month)
            soon = today < then + timedelta(days=28)
            if wish.frequency == "monthly" and (same_month or soon):
                return "refuse preference_frequency"
    # 12
    if restoring:
        return "defer restore_pending"
    held = {f"stream:{stream.name}", f"brand:{stream.brand}"}
    pauses = [p for p in facts.pauses if p.subject in held and not (p.until and p.until <= now)]
    if stream.paused or pauses:
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
        if max(facts.snapshot_at, facts.newest_snapshot_at or oldest) > now + timedelta(minutes=5):
            return "defer list_stale"
    trial = stream.trial
    if trial and campaign and campaign.full_at:
        wait, full = timedelta(seconds=trial.wait), campaign.full_at
        strangers = campaign.strangers * 1_000_000 >= (trial.strangers or 1e9) * campaign.people
        if strangers and now < full + wait:
            return "defer campaign_on_trial"
        if campaign.dead_at and (now < full + wait or now < campaign.dead_at + wait):
            return "defer campaign_on_trial"
    return answer


def _mailed_like(stream: Stream, facts: RecipientFacts) -> list[datetime]:
    return [
        m.at
        for m in facts.mailings
        if m.purpose == stream.purpose
        and (m.brand == stream.brand or "default" in (m.brand, stream.brand))
    ]


def marked(
    address: str,
    stream: Stream,
    facts: RecipientFacts,
    book: Rulebook,
    now: datetime,
    pixels: str,
) -> bool:
    """Whether the verdict notes that the person did not agree to open tracking."""
    return _of_any_collection(address, stream, facts, book, now, pixels)[1]


def _told_of(
    address: str,
    stream: Stream,
    facts: RecipientFacts,
    book: Rulebook,
    now: datetime,
    pixels: str,
) -> tuple[str, bool]:
    """The effect of consent to the purpose `tracking`, by section 5."""
    answer = _basis(address, stream, facts, book, now)
    if not answer.startswith("allow") or pixels == "none" or stream.tracking_pixels == "allow":
        return answer, False
    asked = replace(stream, purpose="tracking")
    agreed = facts.contact is not None and _consent(asked, facts.contact, book, now) == "valid"
    refusing = {"refuse": ("found", "fixed"), "strip": ("fixed",)}.get(stream.tracking_pixels, ())
    if not agreed and pixels in refusing:
        return "refuse tracking_unconsented", False
    return answer, not agreed


def _of_any_collection(
    address: str,
    stream: Stream,
    facts: RecipientFacts,
    book: Rulebook,
    now: datetime,
    pixels: str,
) -> tuple[str, bool]:
    """Judge each collection with what came by it; the first that allows, allows.

    Also return whether the verdict notes that the person did not agree to tracking.
    """
    contact = facts.contact
    nobodys = stream.brand == "default"
    mine = {stream.brand} if stream.many_brands else {stream.brand, None}

    def said(acts: tuple[ConsentAct, ...], name: str | None) -> tuple[ConsentAct, ...]:
        yes = [
            a for a in acts if not a.withdrawal and a.brand in mine and a.came_by in (None, name)
        ]
        gone = {"shop", "mill"} - stream.all_brands if stream.all_brands else set()
        no = [
            a for a in acts if a.withdrawal and (nobodys or a.brand in {None, stream.brand, *gone})
        ]
        return (*yes, *no)

    readings = tuple(replace(r, acts=said(r.acts, None)) for r in facts.readings)
    facts = replace(facts, readings=readings)
    if contact is None:
        return _told_of(address, stream, facts, book, now, pixels)
    first = Collection(
        contact.brand,
        contact.source,
        contact.collected_at,
        contact.informed_at,
        contact.never_informed,
        contact.optout_offered,
        contact.last_activity_at,
        contact.provenance,
        audience=contact.audience,
        occupations=contact.occupations,
    )
    own = [c for c in (first, *contact.others) if c.brand in mine]
    active = max((c.last_activity_at for c in own if c.last_activity_at), default=None)
    answers = []
    for c in own or [Collection()]:
        name = None
        if c.source not in (None, "direct"):
            supplier = c.provenance and c.provenance.supplier
            name = f"{c.source}: {supplier}" if supplier else str(c.source)
        seen = replace(
            contact,
            brand=c.brand,
            source=c.source,
            collected_at=c.collected_at,
            informed_at=c.informed_at,
            never_informed=c.never_informed,
            optout_offered=c.optout_offered,
            last_activity_at=active,
            provenance=c.provenance,
            audience=c.audience,
            occupations=c.occupations,
            acts=said(contact.acts, name),
            purchases=tuple(
                p for p in contact.purchases if p.brand in mine and p.came_by in (None, name)
            ),
        )
        seen_so = replace(facts, contact=seen)
        answers.append(_told_of(address, stream, seen_so, book, now, pixels))
    if any(a[0].endswith("holds") for a in answers):
        return "refuse permission_not_due", False
    if not own and answers[0][0] == "refuse source_unproven":
        return "refuse brand_unproven", False
    return next((a for a in answers if not a[0].startswith("refuse")), answers[0])


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
    asks = stream.confirmation  # the relay's own: narrower than other transactional mail
    scopes = ["all"] + ["marketing"] * (marketing or asks)
    if marketing or asks:
        brands = ["shop", "mill"] if stream.brand == "default" else [stream.brand]
        brands += [b for b in ("shop", "mill") if stream.all_brands and b not in stream.all_brands]
        scopes += [f"brand:{brand}" for brand in brands]
    if stream.purpose is not None:
        scopes.append(f"purpose:{stream.purpose}")
    width = ["all", "marketing", "brand", "purpose"]
    holding = []
    for entry in facts.suppressions:
        objected = entry.origin in ("complaint", "objection") and (asks or stream.permission)
        if entry.scope not in scopes and not objected:
            continue
        if entry.widened and entry.origin not in WIDENED:
            continue
        own = entry.domain is None and entry.read_as is None
        asked_anew = asks and entry.scope != "all"
        if own and asked_anew and entry.origin in ("unsubscribe", "erasure"):
            continue
        later = consent == "valid" and given and given > entry.since
        if own and entry.origin in ("unsubscribe", "erasure") and later and not asks:
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
    if stream.permission and contact is None:
        return "refuse no_record"
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
    if stream.permission:
        return _permission(stream, contact, consent, facts, book, now)
    # 3, for addresses on record
    if contact.audience == "generic" and not consumer:
        return "allow generic_address"
    # 7
    if consent == "valid":
        return "allow consent"
    return _other_basis(stream, contact, consent, book, now)


def _permission(
    stream: Stream,
    contact: Contact,
    consent: str,
    facts: RecipientFacts,
    book: Rulebook,
    now: datetime,
) -> str:
    """Allow it once, in the 30 days after the last basis ended, if only time ended it."""
    before = now - timedelta(days=30)
    today = _states(stream, contact, consent, book, now)
    earlier = _states(stream, contact, _consent(stream, contact, book, before), book, before)
    if "holds" in today.values():
        return "refuse permission_not_due: a basis holds"
    ended = [basis for basis, state in today.items() if state == "ended"]
    if not ended:
        return _other_basis(stream, contact, consent, book, now)
    if not any(earlier[basis] == "holds" for basis in ended):
        return "refuse permission_not_due"
    name = f"permission:{stream.brand}"
    if any(m.stream == name and before <= m.at for m in facts.mailings):
        return "refuse permission_repeated"
    return "allow permission"


def _states(
    stream: Stream, contact: Contact, consent: str, book: Rulebook, now: datetime
) -> dict[str, str]:
    """For each basis: it `holds`, has `ended` by the mere passage of time, or is not `there`."""
    states = {"consent": {"valid": "holds", "consent_expired": "ended"}.get(consent, "there")}
    said = _other_basis(
        replace(stream, nature=Nature.COMMERCIAL), contact, "consent_missing", book, now
    )
    states["customer"] = _state(said, "existing_customer", "customer_stale")
    bare = replace(contact, purchases=())
    for basis, theirs, them in (
        (
            "charity",
            replace(stream, nature=Nature.CHARITY),
            replace(bare, audience=Audience.CONSUMER),
        ),
        ("professional", replace(stream, nature=Nature.COMMERCIAL), bare),
    ):
        if basis == "charity" and stream.nature != "charity":
            continue
        if basis == "professional" and contact.audience != "professional":
            continue
        # a purchase is a sign of life
        last = [p.at for p in contact.purchases if p.at <= now]
        known = [*last, *([contact.last_activity_at] if contact.last_activity_at else [])]
        them = replace(them, last_activity_at=max((a for a in known if a <= now), default=None))
        states[basis] = _state(
            _other_basis(theirs, them, "consent_missing", book, now), basis, "inactive"
        )
    return states


def _state(said: str, basis: str, ended: str) -> str:
    return {f"allow {basis}": "holds", f"refuse {ended}": "ended"}.get(said, "there")


def _other_basis(
    stream: Stream, contact: Contact, consent: str, book: Rulebook, now: datetime
) -> str:
    purchases = [p for p in contact.purchases if p.at <= now]
    recent = [p for p in purchases if now <= _years_later(p.at, _count(book.customer_period))]
    similar = [p for p in recent if p.product in stream.products]
    informed = False
    if contact.informed_at and contact.collected_at:
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
    acts = [
        a for a in contact.acts
        if a.purpose == stream.purpose or (a.purpose == "*" and a.withdrawal)
    ]  # fmt: skip
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
    ours = contact.source in (None, "direct")
    seen = contact if ours else replace(contact, collected_at=None)  # the address was passed on
    last = _last_activity(seen, book, now)
    expired = last is None or now > _years_later(last, _count(book.consent_period))
    return "consent_expired" if expired else "valid"


def _said_at(moment: datetime, acts: list[ConsentAct], book: Rulebook, now: datetime) -> str:
    """The acts of one moment as one: the strictest of them, with all that proves it."""
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
