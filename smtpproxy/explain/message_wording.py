"""What the rules for messages say, as phrases that `locale` tells in each language."""

from smtpproxy.explain.wording import NOTHING, Words
from smtpproxy.locale.texts import Phrase
from smtpproxy.policy.model import Alignment, Reason, SignatureFinding, SignatureState, Verdict
from smtpproxy.policy.rules.case import MessageCase
from smtpproxy.policy.rules.message import (
    adds_unsubscribe,
    is_undeclared_bulk,
    unwanted_unsubscribe,
)


def message_passed(rule: str, case: MessageCase) -> Phrase:
    """Why a message rule did not refuse."""
    features, key = case.features, f"passed.{rule}"
    words: Words = {"stream": case.stream.name, "domains": ", ".join(features.from_domains)}
    match rule:
        case "unsubscribe_present" | "unsubscribe_usable" | "one_click" if adds_unsubscribe(
            case.stream, features
        ):
            return Phrase("passed.unsubscribe_added", words)
        case "unsubscribe_usable":
            uris = len(features.unsubscribe_https) + len(features.unsubscribe_mailto)
            found = Phrase(key, {"count": uris})
            if not features.unsubscribe_encoded:
                return found
            return Phrase(f"{key}.decoded", {"found": found})
        case "alignment" if case.stream.alignment is Alignment.OFF:
            return Phrase(f"{key}.off", words)
        case "alignment" if features.signed_by_relay:
            return Phrase(f"{key}.relay", words)
        case "body_optout" if not case.stream.body_optout:
            return Phrase(f"{key}.off", words)
        case "imprint" if not case.stream.imprint:
            return Phrase(f"{key}.off", words)
        case "subject" if not case.stream.honest_subject:
            return Phrase(f"{key}.off", words)
        case "bulk" if is_undeclared_bulk(case.stream, features):
            return Phrase(f"{key}.observed", words | _bulk_words(case))
        case "one_click" if not case.stream.one_click_required:
            return Phrase(f"{key}.optional", words)
        case "unsubscribe_signed" if not features.dkim_fields:
            return Phrase(f"{key}.none")
        case "unsubscribe_signed" if features.signed_by_relay:
            return Phrase(f"{key}.relay")
        case "unsubscribe_signed" if features.signatures is None or not case.stream.check_dkim:
            return Phrase(f"{key}.unchecked")
        case "unsubscribe_signed":
            valid = [s.domain for s in features.signatures or () if s.state is SignatureState.VALID]
            words["domains"] = ", ".join(valid)
    return Phrase(key, words)


def message_decided(verdict: Verdict, case: MessageCase) -> Phrase:
    """Why a message rule refused."""
    features, stream, key = case.features, case.stream, f"reason.{verdict.reason}"
    words: Words = {
        "stream": stream.name,
        "malformed": features.malformed or Phrase("part.malformed.from"),
        "strangers": ", ".join(sorted(set(features.from_domains) - stream.from_domains)),
        "fields": features.unsubscribe_fields,
    }
    match verdict.reason:
        case Reason.UNSUBSCRIBE_MALFORMED if unwanted_unsubscribe(stream, features):
            key += ".unwanted"
        case Reason.UNSUBSCRIBE_UNSIGNED if adds_unsubscribe(stream, features):
            key += ".added"
        case Reason.UNSUBSCRIBE_MALFORMED if features.unsubscribe_fields > 1:
            key += ".several"
        case Reason.UNSUBSCRIBE_MALFORMED if features.unsubscribe_fault is not None:
            words["found"] = features.unsubscribe_fault.found
            key += f".{features.unsubscribe_fault.kind}"
        case Reason.FROM_MISALIGNED if features.content is not None and features.content.senders:
            words["domains"] = ", ".join(features.from_domains)
            words["senders"] = ", ".join(features.content.senders)
            key += ".of"
        case Reason.SUBJECT_MISLEADING if features.content is not None:
            words["prefix"] = features.content.fake_prefix or NOTHING
        case Reason.BULK_UNDECLARED:
            words |= _bulk_words(case)
        case Reason.ONE_CLICK_MISSING if not features.unsubscribe_https:
            key += ".https"
        case Reason.UNSUBSCRIBE_UNSIGNED | Reason.TEMPORARY_FAILURE if features.signatures:
            words["findings"] = tuple(_finding(each) for each in features.signatures)
            key = "reason.signatures"
    return Phrase(key, words)


def _bulk_words(case: MessageCase) -> Words:
    """By what undeclared bulk was told."""
    content, stream = case.features.content, case.stream
    if content is not None and content.bulk_markers:
        found = Phrase("part.bulk.markers", {"fields": ", ".join(content.bulk_markers)})
    else:
        alike = 0 if content is None else content.alike
        words: Words = {"alike": alike, "most": stream.bulk_recipients or 0}
        found = Phrase("part.bulk.alike", words)
    return {"found": found}


def _finding(found: SignatureFinding) -> Phrase:
    words: Words = {"domain": found.domain or "?"}
    return Phrase(f"part.signature.{found.state}", words)
