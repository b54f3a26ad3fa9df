"""What the rules say in plain words, for explanations only."""

from collections.abc import Callable

from smtpproxy.policy.model import Action, Basis, Reason, Source, Verdict
from smtpproxy.policy.rules import bases
from smtpproxy.policy.rules.case import MessageCase, RecipientCase
from smtpproxy.policy.rules.clock import last_activity
from smtpproxy.policy.rules.consent import consent_failure, newest_act
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
    if reason is Reason.CONSENT_UNPROVEN and words["later"]:
        return "the consent to {purpose} is dated {given}, later than now".format_map(words)
    return _FAILURES[reason].format_map(words)


_FAILURES = {
    Reason.CONSENT_MISSING: "no consent to {purpose} is on record, and no other basis",
    Reason.CONSENT_WITHDRAWN: "consent to {purpose} was withdrawn, and that is the newest act",
    Reason.CONSENT_PRETICKED: "the consent of {given} came by {method}: no act of agreement",
    Reason.CONSENT_CONDITIONAL: "the consent of {given} was a condition of the service",
    Reason.CONSENT_UNPROVEN: "the consent of {given} lacks an active method or its wording",
    Reason.CONSENT_CHANNEL: "the consent of {given} is not for e-mail",
    Reason.CONSENT_EXPIRED: "{last}: consent lasts {consent_years} years from it",
    Reason.CUSTOMER_STALE: "no purchase is from the last {customer_years} years",
    Reason.PRODUCT_NOT_SIMILAR: "no purchase of the last {customer_years} years is of a product"
    " of stream {stream}",
    Reason.SOURCE_NOT_DIRECT: "the address was not obtained directly from the customer",
    Reason.NOTICE_MISSING: "no notice given at collection is on record",
    Reason.OPTOUT_NOT_OFFERED: "no way to refuse was offered at collection",
    Reason.TOPIC_UNRELATED: "no topic of stream {stream} is an occupation on record",
    Reason.INACTIVE: "{last}: mail must stop {activity_years} years after it",
    Reason.NO_RECORD: "nothing is known of the address",
    Reason.CONTACT_RESTRICTED: "the contact is tagged restricted: not for bulk mail",
    Reason.SOURCE_FORBIDDEN: "the address was obtained by source {source}",
    Reason.SOURCE_UNDISCLOSED: "the source is {source}, and no supplier is on record that"
    " disclosed this sender at collection",
    Reason.SOURCE_UNPROVEN: "no known source of the address is on record",
    Reason.STREAM_PAUSED: "stream {stream} is paused",
}


def _words(case: RecipientCase) -> dict[str, object]:
    stream, contact, book = case.stream, case.facts.contact, case.rulebook
    act = None if contact is None else newest_act(contact, stream.purpose)
    last = None if contact is None else last_activity(contact, book, case.now)
    return {
        "stream": stream.name,
        "purpose": stream.purpose,
        "source": None if contact is None else contact.source,
        "given": None if act is None else day(act.at),
        "method": None if act is None else act.method or "an unknown method",
        "later": act is not None and act.at > case.now,
        "last": "no activity is on record" if last is None else f"last active on {day(last)}",
        "customer_years": book.customer_years,
        "consent_years": book.consent_years,
        "activity_years": book.activity_years,
    }


def _allowed(basis: Basis, case: RecipientCase) -> str:
    text = _BASES[basis].format_map(_words(case))
    gave_way = yielded(case)
    return f"{text}; {gave_way}" if gave_way else text


_BASES = {
    Basis.TRANSACTIONAL: "stream {stream} is transactional",
    Basis.GENERIC_ADDRESS: "the address belongs to an organisation, not to a person",
    Basis.CONSENT: "consent to {purpose} given on {given} by {method}; {last}",
    Basis.EXISTING_CUSTOMER: "bought a product of stream {stream} within {customer_years} years,"
    " and was told and free to refuse at collection",
    Basis.CHARITY: "stream {stream} is a charity's; told and free to refuse; {last}",
    Basis.PROFESSIONAL: "a professional, told, and the topic is theirs; {last}",
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


def _source_passed(case: RecipientCase) -> str:
    contact = case.facts.contact
    if contact is None or contact.provenance is None or contact.source is Source.DIRECT:
        return "the address was obtained directly"
    return f"the source is {contact.source}, and its supplier disclosed this sender"


def _absent(nothing: str, check: Callable[[RecipientCase], Reason]) -> Callable[..., str]:
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
    "no_record": lambda case: "there is a record of the address",
    "restricted": lambda case: "the contact is not tagged restricted",
    "source": _source_passed,
    "consent": _absent("no consent to {purpose} is on record", consent_failure),
    "existing_customer": _absent("no purchase is on record", bases.customer_failure),
    "charity": _absent("stream {stream} is not a charity's", bases.charity_failure),
    "professional": _absent(
        "the contact is not known as a professional", bases.professional_failure
    ),
    "paused": lambda case: f"stream {case.stream.name} is not paused",
}
