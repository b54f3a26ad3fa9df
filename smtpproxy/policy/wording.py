"""What the rules say in plain words, for explanations only."""

from collections.abc import Callable, Sequence

from smtpproxy.policy.model import (
    Action,
    Basis,
    Condition,
    Dealing,
    Evidence,
    Reason,
    Rulebook,
    Source,
    Verdict,
)
from smtpproxy.policy.rules import bases
from smtpproxy.policy.rules.case import DeliveryCase, MessageCase, RecipientCase
from smtpproxy.policy.rules.clock import last_activity
from smtpproxy.policy.rules.consent import consent_failure, newest_act
from smtpproxy.policy.rules.record import discloses, known_source, links
from smtpproxy.policy.rules.suppression import day, yielded


def recipient_passed(rule: str, case: RecipientCase) -> str:
    """Why a recipient rule did not decide."""
    return _PASSED[rule](case)


def recipient_decided(verdict: Verdict, case: RecipientCase) -> str:
    """Why a recipient rule decided as it did."""
    if verdict.basis is not None:
        return _allowed(verdict.basis, case)
    if verdict.rule == "suppression":
        origin = verdict.reason.removeprefix("suppressed_")
        return f"suppressed, origin {origin}, {verdict.detail}"
    return failure(verdict.reason, case)


def delivery_passed(rule: str, case: DeliveryCase) -> str:
    """Why a rule that looks at recipient and message did not refuse."""
    if case.basis is Basis.GENERIC_ADDRESS:
        return "the address belongs to an organisation, not to a person"
    if known_source(case.recipient) is Source.DIRECT:
        return "the person gave the address, so nothing has to be said of its source"
    if case.features.source_statement:
        return "the message says where the address is from"
    return "it is not the first message to the person"


def delivery_decided(verdict: Verdict, case: DeliveryCase) -> str:
    """Why a rule that looks at recipient and message refused."""
    return "it is the first message to the person, and does not say where the address is from"


def message_passed(rule: str, case: MessageCase) -> str:
    """Why a message rule did not refuse."""
    features = case.features
    match rule:
        case "header":
            return f"the header can be read; From is of {', '.join(features.from_domains)}"
        case "sender":
            return "the From domain is one that the stream may write as"
        case "unsubscribe_present":
            return "there is a List-Unsubscribe field"
        case "unsubscribe_usable":
            uris = len(features.unsubscribe_https) + len(features.unsubscribe_mailto)
            decoded = ", after decoding encoded words" if features.unsubscribe_encoded else ""
            return f"List-Unsubscribe has {uris} usable URI{'s' * (uris != 1)}{decoded}"
        case _:
            if not case.stream.one_click_required:
                return f"stream {case.stream.name} does not ask for one-click"
            return "an https URI and an exact List-Unsubscribe-Post are there"


def message_decided(verdict: Verdict, case: MessageCase) -> str:
    """Why a message rule refused."""
    features, stream = case.features, case.stream
    match verdict.reason:
        case Reason.HEADER_MALFORMED:
            return f"the header cannot be read: {features.malformed or 'no From address'}"
        case Reason.SENDER_NOT_PERMITTED:
            strangers = sorted(set(features.from_domains) - stream.from_domains)
            return f"From is of {', '.join(strangers)}, which is not a domain of {stream.name}"
        case Reason.UNSUBSCRIBE_MISSING:
            return "there is no List-Unsubscribe field"
        case Reason.UNSUBSCRIBE_MALFORMED if features.unsubscribe_fields > 1:
            return f"there are {features.unsubscribe_fields} List-Unsubscribe fields"
        case Reason.UNSUBSCRIBE_MALFORMED:
            return (
                "List-Unsubscribe holds no https URI with a host and no mailto URI with an address"
            )
        case Reason.ONE_CLICK_MISSING if not features.unsubscribe_https:
            return "List-Unsubscribe holds no https URI"
        case _:
            return "there is no exact field `List-Unsubscribe-Post: List-Unsubscribe=One-Click`"


def summary(verdict: Verdict) -> str:
    """Return a verdict in a word or two: `refuse no_record`, `allow by consent`."""
    if verdict.action is Action.ALLOW:
        return f"allow by {verdict.basis}" if verdict.basis else "allow"
    return f"{verdict.action} {verdict.reason}"


def failure(reason: Reason, case: RecipientCase) -> str:
    """Say what is missing for a recipient to be mailed."""
    words = _words(case)
    if reason is Reason.CONSENT_UNPROVEN and words["pending"]:
        return "the double opt-in of {given} was not confirmed".format_map(words)
    if reason is Reason.CONSENT_UNPROVEN and words["later"]:
        return "the consent to {purpose} is dated {given}, later than now".format_map(words)
    if reason is Reason.SOURCE_UNDISCLOSED:
        return _undisclosed(case)
    return _FAILURES[reason].format_map(words)


_FAILURES = {
    Reason.CONSENT_MISSING: "no consent to {purpose} is on record, and no other basis",
    Reason.CONSENT_WITHDRAWN: "consent to {purpose} was withdrawn, and that is the newest act",
    Reason.CONSENT_PRETICKED: "the consent of {given} came by {method}: no act of agreement",
    Reason.CONSENT_CONDITIONAL: "the consent of {given} was a condition of the service",
    Reason.CONSENT_UNPROVEN: "the consent of {given} lacks an active method or its {evidence}",
    Reason.CONSENT_CHANNEL: "the consent of {given} is not for e-mail",
    Reason.CONSENT_EXPIRED: "{last}: consent lasts {consent_period} from it",
    Reason.CUSTOMER_STALE: "no purchase is from the last {customer_period}",
    Reason.PRODUCT_NOT_SIMILAR: "no purchase{lately} is of a product of stream {stream}",
    Reason.SOURCE_NOT_DIRECT: "the address was not obtained directly from the person",
    Reason.NOTICE_MISSING: "no notice given at collection is on record",
    Reason.OPTOUT_NOT_OFFERED: "no way to refuse was offered at collection",
    Reason.TOPIC_UNRELATED: "no topic of stream {stream} is an occupation on record",
    Reason.INACTIVE: "{last}: mail must stop {activity_period} after it",
    Reason.NO_RECORD: "nothing is known of the address",
    Reason.CONTACT_RESTRICTED: "the contact is tagged {tag}: not for bulk mail",
    Reason.SOURCE_FORBIDDEN: "the address was obtained by source {source}",
    Reason.SOURCE_UNPROVEN: "no known source of the address is on record",
    Reason.STREAM_PAUSED: "stream {stream} is paused",
}


def _words(case: RecipientCase) -> dict[str, object]:
    stream, contact, book = case.stream, case.facts.contact, case.rulebook
    act = None if contact is None else newest_act(contact, stream.purpose)
    last = None if contact is None else last_activity(contact, book, case.now)
    tags = frozenset[str]() if contact is None else contact.tags & book.restricted_tags
    limit = _customer_period(book)
    return {
        "stream": stream.name,
        "purpose": stream.purpose,
        "source": None if contact is None else contact.source,
        "tag": " and ".join(sorted(tags)),
        "given": None if act is None else day(act.at),
        "method": None if act is None else act.method or "an unknown method",
        "pending": act is not None and act.pending,
        "later": act is not None and act.at > case.now,
        "evidence": " and ".join(_evidence(book)),
        "last": "no activity is on record" if last is None else f"last active on {day(last)}",
        "consent_period": book.consent_period,
        "activity_period": book.activity_period,
        "customer_period": limit,
        "lately": f" of the last {limit}" if limit else "",
    }


def _evidence(rulebook: Rulebook) -> list[str]:
    fields = Evidence.__struct_fields__
    return [name.replace("_", " ") for name in fields if name in rulebook.required_evidence]


def _customer_period(rulebook: Rulebook) -> str:
    """How long somebody is a customer, empty when there is no end."""
    sale, inquiry = rulebook.customer_period, rulebook.inquiry_period
    if Dealing.INQUIRY not in rulebook.dealings or inquiry == sale:
        return "" if sale is None else str(sale)
    return f"{sale or 'any time'} ({inquiry or 'any time'} for an inquiry)"


def _undisclosed(case: RecipientCase) -> str:
    """Which hand the address went through that did not name this sender."""
    contact, longest = case.facts.contact, case.rulebook.longest_chain
    source = None if contact is None else contact.source
    hands = () if contact is None or contact.provenance is None else links(contact.provenance)
    if longest is not None and len(hands) > longest:
        return f"the source is {source}, through {len(hands)} hands: no more than {longest} may be"
    if len(hands) > 1:
        number, hand = next(
            (number, hand) for number, hand in enumerate(hands, 1) if not discloses(hand, case.now)
        )
        who = hand.supplier or "which has no name on record,"
        return (
            f"the source is {source}, and hand {number} of {len(hands)}, {who} did not"
            " disclose this sender at collection"
        )
    return (
        f"the source is {source}, and no supplier is on record that disclosed this sender at"
        " collection"
    )


def _allowed(basis: Basis, case: RecipientCase) -> str:
    text = _BASES[basis](case).format_map(_words(case))
    gave_way = yielded(case)
    return f"{text}; {gave_way}" if gave_way else text


def _as_customer(case: RecipientCase) -> str:
    book = case.rulebook
    text = "a customer"
    if Condition.SIMILAR_PRODUCT in book.customer_requires:
        asked = " or asked for" if Dealing.INQUIRY in book.dealings else ""
        text = f"bought{asked} a product of stream {{stream}}"
    if _customer_period(book):
        text += " within {customer_period}"
    told = _told(book.customer_requires)
    return f"{text}, and was {told} at collection" if told else text


def _as_supporter(case: RecipientCase) -> str:
    told = _told(case.rulebook.charity_requires)
    return "; ".join(["stream {stream} is a charity's", *([told] if told else []), "{last}"])


def _as_professional(case: RecipientCase) -> str:
    requires = case.rulebook.professional_requires
    told = _told(requires)
    text = f"a professional, {told}" if told else "a professional"
    if Condition.TOPIC in requires:
        text += ", and the topic is theirs"
    return f"{text}; {{last}}"


def _told(conditions: Sequence[Condition]) -> str:
    """What the person was told at collection, as far as that was asked for."""
    told = ["told"] if Condition.NOTICE in conditions else []
    if Condition.OPTOUT_OFFERED in conditions:
        told.append("free to refuse")
    return " and ".join(told)


_BASES: dict[Basis, Callable[[RecipientCase], str]] = {
    Basis.TRANSACTIONAL: lambda case: "stream {stream} is transactional",
    Basis.GENERIC_ADDRESS: lambda case: "the address belongs to an organisation, not to a person",
    Basis.CONSENT: lambda case: "consent to {purpose} given on {given} by {method}; {last}",
    Basis.EXISTING_CUSTOMER: _as_customer,
    Basis.CHARITY: _as_supporter,
    Basis.PROFESSIONAL: _as_professional,
    Basis.OPT_OUT: lambda case: (
        "mail is lawful until the person objects, and no objection is on record"
    ),
}


def _suppression_passed(case: RecipientCase) -> str:
    gave_way = yielded(case)
    none = f"no suppression of a scope that covers stream {case.stream.name}"
    return f"{none} holds: {gave_way}" if gave_way else none


def _generic_passed(case: RecipientCase) -> str:
    contact = case.facts.contact
    if contact is not None:
        return f"the audience on record is {contact.audience}, not generic"
    local, _, domain = case.address.rpartition("@")
    if local in case.rulebook.role_local_parts:
        return f"{domain} gives mailboxes to private persons"
    return "the local part is not on the role list"


def _record_passed(case: RecipientCase) -> str:
    if case.facts.contact is None:
        return f"there is no record, and rulebook {case.rulebook.name} asks for none"
    return "there is a record of the address"


def _restricted_passed(case: RecipientCase) -> str:
    tags = " or ".join(sorted(case.rulebook.restricted_tags))
    return f"the contact is not tagged {tags}" if tags else "no tag bars bulk mail"


def _source_passed(case: RecipientCase) -> str:
    source, contact = known_source(case), case.facts.contact
    if source is Source.DIRECT:
        return "the address was obtained directly"
    if source in case.rulebook.accepted_sources or contact is None or contact.provenance is None:
        return f"rulebook {case.rulebook.name} accepts the source {source}"
    hands = len(links(contact.provenance))
    who = "its supplier" if hands == 1 else f"each of {hands} suppliers"
    return f"the source is {source}, and {who} disclosed this sender"


def _charity_passed(case: RecipientCase) -> str:
    since = case.rulebook.charity_since
    absent = "stream {stream} is not a charity's"
    if since is not None:
        absent += f", or the contact was not collected since {day(since)}"
    return _absent(absent, bases.charity_failure)(case)


def _absent(
    nothing: str, check: Callable[[RecipientCase], Reason]
) -> Callable[[RecipientCase], str]:
    """`nothing` where the basis is not there at all, else what is missing from it."""

    def text(case: RecipientCase) -> str:
        reason = check(case)
        if reason is Reason.CONSENT_MISSING:
            return nothing.format_map(_words(case))
        return failure(reason, case)

    return text


_PASSED: dict[str, Callable[[RecipientCase], str]] = {
    "suppression": _suppression_passed,
    "transactional": lambda case: f"stream {case.stream.name} is marketing: a basis is needed",
    "withdrawn": lambda case: f"consent to {case.stream.purpose} is not withdrawn",
    "generic_address": _generic_passed,
    "no_record": _record_passed,
    "restricted": _restricted_passed,
    "source": _source_passed,
    "consent": _absent("no consent to {purpose} is on record", consent_failure),
    "existing_customer": _absent("no purchase is on record", bases.customer_failure),
    "charity": _charity_passed,
    "professional": _absent(
        "the contact is not known as a professional", bases.professional_failure
    ),
    "paused": lambda case: f"stream {case.stream.name} is not paused",
}
