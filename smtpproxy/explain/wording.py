"""The rules' answers as phrases, which `locale` has in each language."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TypeAlias

from smtpproxy.locale import Past, Phrase, Term, Time, Value
from smtpproxy.policy.campaign import held_until
from smtpproxy.policy.model import (
    Audience,
    Basis,
    Condition,
    Dealing,
    Evidence,
    Reason,
    Rulebook,
    Source,
    Suppression,
    TrackingPixels,
    Verdict,
)
from smtpproxy.policy.rules import DeliveryCase, RecipientCase, bases, last_activity
from smtpproxy.policy.rules.bases import consent_failure, newest_act, withdrawn_at
from smtpproxy.policy.rules.deferrals import pause_in_force, reached_cap
from smtpproxy.policy.rules.permission import asked, basis_failures
from smtpproxy.policy.rules.recipient import (
    agreed_to_tracking,
    decisive,
    discloses,
    is_consumer,
    known_source,
    links,
    preferred,
    restricting,
    yielding,
)

Words: TypeAlias = dict[str, Value]

NOTHING = ""  # for an omitted part of a sentence


def recipient_passed(rule: str, case: RecipientCase) -> Phrase:
    """Return why a recipient rule did not decide."""
    phrase = _PASSED.get(rule)
    return Phrase(f"passed.{rule}", words_of(case)) if phrase is None else phrase(case)


def recipient_decided(verdict: Verdict, case: RecipientCase) -> Phrase:
    """Return why a recipient rule decided as it did."""
    if verdict.basis is not None:
        return _allowed(verdict.basis, case)
    return failure(verdict.reason, case)


def delivery_passed(rule: str, case: DeliveryCase) -> Phrase:
    """Return why a rule on recipient and message did not refuse."""
    if rule == "tracking":
        return _tracking_passed(case)
    if rule == "campaign":
        return Phrase("passed.campaign")
    if case.basis is Basis.GENERIC_ADDRESS:
        return Phrase("basis.generic_address")
    if known_source(case.recipient) is Source.DIRECT:
        return Phrase(f"passed.{rule}.direct")
    if case.features.source_statement:
        return Phrase(f"passed.{rule}.said")
    return Phrase(f"passed.{rule}")


def delivery_decided(verdict: Verdict, case: DeliveryCase) -> Phrase:
    """Return why a rule on recipient and message refused."""
    if verdict.reason is Reason.TRACKING_UNCONSENTED:
        return Phrase(f"reason.{verdict.reason}", {"hosts": _hosts(case)})
    if verdict.reason is Reason.CAMPAIGN_ON_TRIAL:
        return _on_trial(case)
    return failure(verdict.reason, case.recipient)


def _on_trial(case: DeliveryCase) -> Phrase:
    trial, content = case.recipient.stream.trial, case.features.content
    if trial is None or content is None or content.campaign is None:
        return Phrase("term.campaign_on_trial")
    first = content.campaign
    until = held_until(first, trial) or case.recipient.now
    words: Words = {"people": first.people, "strangers": first.strangers, "dead": first.dead}
    return Phrase("reason.campaign_on_trial", words | {"until": Time(until)})


def _tracking_passed(case: DeliveryCase) -> Phrase:
    stream = case.recipient.stream
    if agreed_to_tracking(case.recipient):
        return Phrase("passed.tracking")
    strips = stream.tracking_pixels is TrackingPixels.STRIP
    key = "passed.tracking.stripped" if strips else "passed.tracking.observed"
    return Phrase(key, {"hosts": _hosts(case), "stream": stream.name})


def _hosts(case: DeliveryCase) -> str:
    content = case.features.content
    return "" if content is None else ", ".join(pixel.host for pixel in content.pixels)


def summary(verdict: Verdict) -> Phrase:
    """Return a verdict in a few words: `refused, no record`, `allowed by consent`."""
    if verdict.basis is not None:
        return Phrase("part.verdict.basis", {"word": Term(verdict.basis)})
    return Phrase(f"part.verdict.{verdict.action}", {"word": Term(verdict.reason)})


def failure(reason: Reason, case: RecipientCase) -> Phrase:
    """Return what is missing, or what prevents mail to a recipient."""
    words = words_of(case)
    if reason.startswith("suppressed_"):
        return Phrase(f"reason.{reason}", words | _of_suppression(decisive(case)))
    if reason is Reason.SOURCE_UNDISCLOSED:
        return _undisclosed(case)
    if reason is Reason.FREQUENCY_CAP and (reached := reached_cap(case)) is not None:
        cap, free_at = reached
        words |= {"count": cap.count, "period": cap.period, "free_at": Time(free_at)}
        return Phrase(f"reason.{reason}.until", words)
    if reason is Reason.STREAM_PAUSED and not case.stream.paused:
        return _paused(case)
    if reason is Reason.PREFERENCE_FREQUENCY and (preference := preferred(case)) is not None:
        wish, free_on = preference
        again = datetime(free_on.year, free_on.month, free_on.day, tzinfo=UTC)
        words |= {"frequency": Term(wish.frequency), "said": wish.at, "free_on": again}
    if reason is Reason.PERMISSION_REPEATED and (mailing := asked(case)) is not None:
        words["mailed"] = mailing.at
    variant = ""
    if reason is Reason.PERMISSION_NOT_DUE:
        holds = any(failed is Reason.NONE for failed in basis_failures(case).values())
        variant = ".none" if case.rulebook.permission_window is None else ".holds" if holds else ""
    if reason is Reason.CONSENT_UNPROVEN:
        variant = ".pending" if words["pending"] else ".later" if words["later"] else ""
    if reason is Reason.CONSENT_WITHDRAWN and (refused := _refused(case)) is not None:
        variant, words["purpose"] = ".refused", refused
    if reason is Reason.PRODUCT_NOT_SIMILAR and words["customer_past"] is not None:
        variant = ".lately"
    contact = case.facts.contact
    if reason is Reason.TOPIC_UNRELATED and contact and contact.profiling_objected_at:
        variant = ".profiling"
    elif (reason is Reason.NOTICE_MISSING and contact and contact.never_informed) or (
        reason is Reason.OPTOUT_NOT_OFFERED and contact and contact.optout_offered is False
    ):
        variant = ".no"
    return Phrase(f"reason.{reason}{variant}", words)


def _paused(case: RecipientCase) -> Phrase:
    """Return who paused a stream and since when, if it is not the configuration."""
    stream = case.stream
    pause = pause_in_force(stream.name, stream.brand, case.facts.pauses, case.now)
    if pause is None:
        return Phrase("reason.stream_paused", {"stream": stream.name})
    kind, _, name = pause.subject.partition(":")
    end = "part.pause.open" if pause.until is None else "part.pause.until"
    words: Words = {
        "subject": Phrase(f"part.pause.{kind}", {"name": name}),
        "since": Time(pause.at),
        "cause": Phrase(f"part.pause.{pause.cause}"),
        "end": Phrase(end, {} if pause.until is None else {"until": Time(pause.until)}),
    }
    return Phrase("reason.stream_paused.set", words)


def _refused(case: RecipientCase) -> Value:
    """Return what was refused, or None if there was a consent to withdraw."""
    own, readings = case.facts.contact, case.facts.readings
    acts = [act for one in (own, *readings) if one for act in one.acts if not act.pending]
    said = {act.withdrawal for act in acts if act.purpose == case.stream.purpose}
    if False in said:
        return None
    return case.stream.purpose if said else Term("marketing")


def words_of(case: RecipientCase) -> Words:
    """Return the values for phrases about a recipient."""
    stream, contact, book = case.stream, case.facts.contact, case.rulebook
    act = None if contact is None else newest_act(contact, stream.purpose, book)
    tags = frozenset[str]() if contact is None else restricting(contact.tags, book.restricted_tags)
    return {
        "stream": stream.name,
        "brand": stream.brand,
        "purpose": stream.purpose or NOTHING,
        "rulebook": book.name,
        "source": Term(known_source(case)),
        "tag": tuple(sorted(tags)),
        "given": None if act is None else act.at,
        "method": Phrase("part.method.none") if act is None or not act.method else Term(act.method),
        "pending": int(act is not None and act.pending),
        "later": int(act is not None and act.at > case.now),
        "withdrawn": withdrawn_at(case),
        "evidence": evidence_words(book),
        "last": _activity(case, True),
        "heard": _activity(case, False),
        "consent_period": book.consent_period,
        "activity_period": book.activity_period,
        "customer_past": _customer_past(book),
        "window": book.permission_window,
    }


def _activity(case: RecipientCase, passed_on: bool) -> Phrase:
    who, book = case.facts.contact, case.rulebook
    last = None if who is None else last_activity(who, book, case.now, passed_on=passed_on)
    return Phrase("part.last.none") if last is None else Phrase("part.last", {"last": last})


def evidence_words(rulebook: Rulebook) -> tuple[Term, ...]:
    """Return the evidence that a consent needs."""
    fields = Evidence.__struct_fields__
    return tuple(Term(name) for name in fields if name in rulebook.required_evidence)


def _of_suppression(entry: Suppression | None) -> Words:
    if entry is None:  # the facts no longer hold such an order
        return {"covers": Phrase("part.unknown"), "widened": NOTHING}
    kind, _, name = entry.scope.partition(":")
    return {
        "since": entry.since,
        "covers": Phrase(f"part.covers.{kind}", {kind: name}),
        "widened": _matched_by(entry),
    }


def _matched_by(entry: Suppression) -> Value:
    """Return why an order applies that was not given for exactly this address."""
    whole: Value = NOTHING
    if entry.domain is not None:
        kind = "part.whole_domain" if entry.domain.startswith("@") else "part.whole_domain.below"
        whole = Phrase(kind, {"domain": entry.domain.lstrip("@*.")})
    if entry.read_as is not None:
        return Phrase("part.read_as", {"other": entry.read_as, "whole": whole})
    return Phrase("part.widened") if entry.widened else whole


def _customer_past(rulebook: Rulebook) -> Value:
    """Return for how long a purchase makes a person a customer; None: for ever."""
    sale, inquiry = rulebook.customer_period, rulebook.inquiry_period
    if Dealing.INQUIRY not in rulebook.dealings or inquiry == sale:
        return None if sale is None else Past(sale)
    ever = Phrase("part.customer.any_time")
    words: Words = {
        "period": ever if sale is None else Past(sale),
        "inquiry": ever if inquiry is None else Past(inquiry),
    }
    return Phrase("part.period.inquiry", words)


def _undisclosed(case: RecipientCase) -> Phrase:
    """Return which supplier in the chain did not disclose this sender."""
    contact, longest = case.facts.contact, case.rulebook.longest_chain
    hands = () if contact is None or contact.provenance is None else links(contact.provenance)
    key = f"reason.{Reason.SOURCE_UNDISCLOSED}"
    words = words_of(case) | {"hands": len(hands), "longest": longest}
    if longest is not None and len(hands) > longest:
        return Phrase(f"{key}.long", words)
    undisclosed = (
        (number, hand) for number, hand in enumerate(hands, 1) if not discloses(hand, case.now)
    )
    number, hand = next(undisclosed, (0, None))
    if len(hands) < 2 or hand is None:
        return Phrase(key, words)
    who = hand.supplier or Phrase("part.hand.unnamed")
    return Phrase(f"{key}.hand", words | {"number": number, "who": who})


def _allowed(basis: Basis, case: RecipientCase) -> Phrase:
    phrase = _BASES.get(basis)
    text = Phrase(f"basis.{basis}", words_of(case)) if phrase is None else phrase(case)
    gave_way = _yielded(case)
    return (
        text if gave_way is None else Phrase("part.yielding", {"basis": text, "yields": gave_way})
    )


def _yielded(case: RecipientCase) -> Phrase | None:
    if (found := yielding(case)) is None:
        return None
    entry, act = found
    words: Words = {"origin": Term(entry.origin), "since": entry.since, "given": act.at}
    return Phrase("part.yields", words)


def _as_customer(case: RecipientCase) -> Phrase:
    book = case.rulebook
    did = "any"
    if Condition.SIMILAR_PRODUCT in book.customer_requires:
        did = "asked" if Dealing.INQUIRY in book.dealings else "bought"
    past = _customer_past(book)
    told = _told(book.customer_requires)
    words: Words = {
        "customer": Phrase(f"part.customer.{did}", words_of(case)),
        "within": NOTHING if past is None else Phrase("part.customer.within", {"period": past}),
        "told": told,
    }
    return Phrase("basis.existing_customer.told" if told else "basis.existing_customer", words)


def _as_supporter(case: RecipientCase) -> Phrase:
    told = _told(case.rulebook.charity_requires)
    return Phrase("basis.charity" + (".told" if told else ""), words_of(case) | {"told": told})


def _as_professional(case: RecipientCase) -> Phrase:
    requires = case.rulebook.professional_requires
    told = _told(requires)
    words = words_of(case) | {
        "told": told,
        "topic": Phrase("part.professional.topic") if Condition.TOPIC in requires else NOTHING,
    }
    return Phrase("basis.professional.told" if told else "basis.professional", words)


def _told(conditions: Sequence[Condition]) -> tuple[Phrase, ...]:
    """Return what the person was told at collection, as far as it is required."""
    told = [Phrase("part.told.notice")] if Condition.NOTICE in conditions else []
    if Condition.OPTOUT_OFFERED in conditions:
        told.append(Phrase("part.told.optout"))
    return tuple(told)


_BASES: dict[Basis, Callable[[RecipientCase], Phrase]] = {
    Basis.EXISTING_CUSTOMER: _as_customer,
    Basis.CHARITY: _as_supporter,
    Basis.PROFESSIONAL: _as_professional,
}


def _suppression_passed(case: RecipientCase) -> Phrase:
    gave_way = _yielded(case)
    words: Words = {"stream": case.stream.name, "yields": gave_way}
    return Phrase("passed.suppression" + ("" if gave_way is None else ".yields"), words)


def _generic_passed(case: RecipientCase) -> Phrase:
    contact = case.facts.contact
    local, _, domain = case.address.rpartition("@")
    if contact is not None and contact.audience is not Audience.GENERIC:
        audience = Term(contact.audience)
        return Phrase("passed.generic_address.audience", {"audience": audience})
    if contact is not None and not is_consumer(domain, case.rulebook):
        return Phrase("passed.generic_address.barred")
    if contact is not None or local in case.rulebook.role_local_parts:
        return Phrase("passed.generic_address.mailboxes", {"domain": domain})
    return Phrase("passed.generic_address")


def _record_passed(case: RecipientCase) -> Phrase:
    none = ".none" if case.facts.contact is None else ""
    return Phrase(f"passed.no_record{none}", words_of(case))


def _restricted_passed(case: RecipientCase) -> Phrase:
    tags = ", ".join(sorted(case.rulebook.restricted_tags))
    return Phrase("passed.restricted" + ("" if tags else ".none"), {"tags": tags})


def _source_passed(case: RecipientCase) -> Phrase:
    source, contact, key = known_source(case), case.facts.contact, "passed.source"
    words = words_of(case)
    if source is Source.DIRECT:
        return Phrase(key)
    if source in case.rulebook.accepted_sources or contact is None or contact.provenance is None:
        return Phrase(f"{key}.accepted", words)
    hands = len(links(contact.provenance))
    return Phrase(f"{key}.supplier{'s' if hands > 1 else ''}", words | {"hands": hands})


def _charity_passed(case: RecipientCase) -> Phrase:
    variant = "" if case.rulebook.charity_since is None else ".since"
    return _absent(f"passed.charity{variant}", bases.charity_failure)(case)


def _absent(
    nothing: str, check: Callable[[RecipientCase], Reason]
) -> Callable[[RecipientCase], Phrase]:
    """Return a function: `nothing` if the basis is absent, otherwise what it lacks."""

    def phrase(case: RecipientCase) -> Phrase:
        reason = check(case)
        if reason is Reason.CONSENT_MISSING:
            return Phrase(nothing, words_of(case) | {"since": case.rulebook.charity_since})
        return failure(reason, case)

    return phrase


_PASSED: dict[str, Callable[[RecipientCase], Phrase]] = {
    "suppression": _suppression_passed,
    "generic_address": _generic_passed,
    "no_record": _record_passed,
    "restricted": _restricted_passed,
    "source": _source_passed,
    "consent": _absent("passed.consent", consent_failure),
    "existing_customer": _absent("passed.existing_customer", bases.customer_failure),
    "charity": _charity_passed,
    "professional": _absent("passed.professional", bases.professional_failure),
}
