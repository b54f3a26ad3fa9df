"""What happened to a recipient or a message, why, and what would change it, in plain words.

For people who know nothing about SMTP. The steps of `explain.trace` are the long form.
"""

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from smtpproxy.explain.trace import TraceStep
from smtpproxy.explain.wording import NOTHING, Words, words_of
from smtpproxy.locale import Either, Lang, Phrase, Term, has_words, is_complete, say
from smtpproxy.policy.model import Action, Basis, Reason, Sign, Stream, Verdict
from smtpproxy.policy.rules import RecipientCase
from smtpproxy.policy.rules.bases import withdrawn_reading
from smtpproxy.policy.rules.recipient import decisive

Tense = Literal["was", "would"]

# Decided outside the rules of the trace.
_OUTSIDE = frozenset({"", "stream_uncertain", "stream_choice", "on_mixed"})


class Account(Struct, frozen=True):
    """`happened` is two sentences, what and why. Any one of `changes` would change it.

    Both may be empty; `notes` are further information.
    """

    happened: str
    changes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def recipient_account(
    who: str,
    verdict: Verdict,
    stream: Stream,
    steps: Sequence[TraceStep],
    case: RecipientCase | None,
    tense: Tense,
    lang: Lang,
) -> Account:
    """Explain a verdict on `who`.

    `steps` are its trace in `lang`; without them, or if they end differently from the verdict on
    record, only its reason is given. `case` is what was judged, None if the rulebook is no longer
    known.
    """
    if verdict.action is Action.ALLOW and verdict.basis is None and not verdict.rule:
        return Account("", notes=(say(Phrase("note.undecided"), lang),))
    words: Words = {"who": who, "stream": stream.name}
    happened = _happened(f"{tense}.{verdict.action}", words, verdict, steps, lang)
    changes = _changes(verdict, case) if verdict.action is not Action.ALLOW else ()
    notes: list[Phrase] = []
    if case is None:
        notes.append(Phrase("note.no_rulebook", {"rulebook": stream.rulebook}))
    elif _is_retold(verdict, steps):
        notes.append(Phrase("note.retold"))
    return Account(happened, _said(changes, lang), _said(notes, lang))


def message_account(
    verdict: Verdict,
    stream: Stream,
    steps: Sequence[TraceStep],
    tense: Tense,
    lang: Lang,
    *,
    alone: bool = False,
) -> Account:
    """Explain a verdict on the message itself, and what the sender's developer has to do.

    `alone`: it has one recipient, whose own verdict says what that is.
    """
    words: Words = {"stream": stream.name}
    if alone and verdict.reason is Reason.RECIPIENTS_REFUSED:
        cause = say(Phrase(f"reason.{verdict.reason}.alone"), lang)
        key = f"{tense}.message.{verdict.action}"
        return Account(say(Phrase(key, words | {"cause": cause, "why": NOTHING}), lang).rstrip())
    happened = _happened(f"{tense}.message.{verdict.action}", words, verdict, steps, lang)
    change = f"change.{verdict.reason}"
    changes = [Phrase(change)] if has_words(change) else []
    notes = [Phrase("note.retold")] if _is_retold(verdict, steps) else []
    return Account(happened, _said(changes, lang), _said(notes, lang))


def _happened(
    key: str, words: Words, verdict: Verdict, steps: Sequence[TraceStep], lang: Lang
) -> str:
    why = Phrase(f"why.{verdict.basis or verdict.reason}")
    filled = words | {
        "cause": _cause(verdict, steps, lang),
        "why": say(why, lang) if has_words(why.key) else NOTHING,
    }
    return say(Phrase(key, filled), lang).rstrip()


def _cause(verdict: Verdict, steps: Sequence[TraceStep], lang: Lang) -> str:
    step = _deciding(steps)
    if step is not None and _agree(step, verdict):
        return step.text
    if verdict.action is Action.ALLOW and verdict.basis is None:
        return say(Phrase("note.not_yet"), lang)
    reason = f"reason.{verdict.reason}"
    if is_complete(reason):
        return say(Phrase(reason), lang)
    recorded: Words = {"reason": Term(verdict.basis or verdict.reason)}
    return say(Phrase("note.untold.basis" if verdict.basis else "note.untold", recorded), lang)


def _is_retold(verdict: Verdict, steps: Sequence[TraceStep]) -> bool:
    step = _deciding(steps)
    return step is not None and verdict.rule not in _OUTSIDE and not _agree(step, verdict)


def _deciding(steps: Sequence[TraceStep]) -> TraceStep | None:
    return next((step for step in reversed(steps) if step.outcome != "passed"), None)


def _agree(step: TraceStep, verdict: Verdict) -> bool:
    return (step.rule, step.outcome, step.reason, step.basis) == (
        verdict.rule,
        verdict.action,
        verdict.reason,
        verdict.basis,
    )


def _said(phrases: Sequence[Phrase], lang: Lang) -> tuple[str, ...]:
    return tuple(say(phrase, lang) for phrase in phrases)


# what would change a verdict


def _changes(verdict: Verdict, case: RecipientCase | None) -> Sequence[Phrase]:
    """Return the changes of which any one would remove the reason; other obstacles remain."""
    reason = verdict.reason
    if case is None:
        return [Phrase(f"change.{reason}")] if is_complete(f"change.{reason}") else []
    words = words_of(case) | _consent_words(case)
    if reason.startswith("suppressed_"):
        return _lifting(reason, case, words)
    elsewhere = withdrawn_reading(case)
    if reason is Reason.CONSENT_WITHDRAWN and elsewhere is not None:
        return [Phrase("change.reading", {"other": elsewhere.address})]
    if reason is Reason.CONSENT_WITHDRAWN:
        return [Phrase("change.newer_consent", words | {"since": words["withdrawn"]})]
    key = f"change.{reason}"
    if reason is Reason.CONSENT_UNPROVEN:
        key = "change.confirm" if words["pending"] else "change.proof"
    elif reason is Reason.CONSENT_EXPIRED:
        key = "change.inactive"
    own = [Phrase(key, words)] if has_words(key) else []
    if reason not in _BY_CONSENT or Basis.CONSENT not in case.rulebook.bases:
        return own
    others = _other_bases(case) if reason is Reason.CONSENT_MISSING else ()
    return [*own, Phrase("change.valid_consent", words), *others]


def _lifting(reason: Reason, case: RecipientCase, words: Words) -> Sequence[Phrase]:
    entry, book = decisive(case), case.rulebook
    if entry is not None and entry.domain is not None:
        return [Phrase("change.lift.domain", {"domain": entry.domain})]
    yields = entry is not None and entry.read_as is None and entry.origin in book.lifted_by_consent
    if entry is not None and yields and case.stream.purpose and not case.stream.confirmation:
        methods = _either(book.lifting_methods & book.valid_methods)
        since: Words = {"since": entry.since, "methods": methods}
        return [Phrase("change.newer_consent", words | since), Phrase("change.lift.also")]
    own = f"change.{reason}"
    return [Phrase(own if has_words(own) else "change.lift")]


_BY_CONSENT = frozenset(
    {
        Reason.CONSENT_MISSING,
        Reason.CONSENT_PRETICKED,
        Reason.CONSENT_CONDITIONAL,
        Reason.CONSENT_UNPROVEN,
        Reason.CONSENT_CHANNEL,
        Reason.CONSENT_EXPIRED,
        Reason.CUSTOMER_STALE,
        Reason.PRODUCT_NOT_SIMILAR,
        Reason.SOURCE_NOT_DIRECT,
        Reason.NOTICE_MISSING,
        Reason.OPTOUT_NOT_OFFERED,
        Reason.TOPIC_UNRELATED,
        Reason.INACTIVE,
    }
)


def _consent_words(case: RecipientCase) -> Words:
    book = case.rulebook
    signs = tuple(Phrase(f"part.sign.{sign}") for sign in Sign if sign in book.signs_of_life)
    return {
        "methods": _either(book.valid_methods),
        "free": NOTHING if book.conditional_allowed else Phrase("part.consent.free"),
        "signs": Either(signs),
    }


def _either(methods: frozenset[str]) -> Either:
    return Either(tuple(Term(method) for method in sorted(methods)))


def _other_bases(case: RecipientCase) -> Sequence[Phrase]:
    book, found = case.rulebook, []
    for basis, name, first, asked in (
        (Basis.EXISTING_CUSTOMER, "customer", "purchase", book.customer_requires),
        (Basis.PROFESSIONAL, "professional", "professional", book.professional_requires),
    ):
        if basis in book.bases:
            conditions = tuple(Phrase(f"part.condition.{each}") for each in (first, *asked))
            found.append(Phrase(f"change.as_{name}", {"conditions": conditions}))
    return found
