"""The decision core's verdicts on the addresses of a list, as at RCPT on one stream; their counts,
and a report on them as one self-contained HTML file."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from msgspec import Struct, field
from msgspec.structs import replace

from smtpproxy.locale import REFERENCE, Lang, Phrase, has_words, say
from smtpproxy.policy.as_of import known_at
from smtpproxy.policy.decide import decisive, judge, needs
from smtpproxy.policy.model import (
    NO_FACTS,
    Action,
    Basis,
    Contact,
    Facts,
    Reason,
    RecipientFacts,
    Rulebook,
    Stream,
    StreamClass,
    Transaction,
    Verdict,
)
from smtpproxy.policy.rules import RecipientCase, refuse
from smtpproxy.policy.rules.bases import newest_act, withdrawn_at
from smtpproxy.policy.rules.brands import by_collection
from smtpproxy.policy.rules.recipient import day, known_source
from smtpproxy.store.records import FactReader
from smtpproxy.terminal import printable


class ScrubRequest(Struct, frozen=True):
    """What the list is judged for, as of `now`."""

    stream: Stream
    rulebook: Rulebook
    now: datetime
    as_of: bool = False  # only what was known by `now` counts


class LineVerdict(Struct, frozen=True):
    """One line's verdict; `since` is the day of the fact it is based on, or empty."""

    verdict: Verdict
    since: str = ""
    duplicate: bool = False  # the same mailbox appeared further up
    profiling_objected: bool = False  # for selecting recipients by their profile
    unannounced: bool = False  # nothing checks that a first message says where the address is from


async def judge_addresses(
    store: FactReader,
    request: ScrubRequest,
    addresses: Sequence[str],
    hides: Callable[[Contact], bool] | None = None,
) -> Sequence[LineVerdict]:
    """Return the verdict on each canonical address, with one read of the store.

    The reasons do not reveal that contacts exist that it `hides`. Raises StoreUnavailable.
    """
    stream, rulebook = request.stream, request.rulebook
    question = Transaction((stream,), tuple(addresses))
    facts: Facts = await store.facts(needs(question, rulebook))
    if request.as_of:
        facts = {address: known_at(known, request.now) for address, known in facts.items()}
    verdicts = judge(question, facts, rulebook, request.now).recipients
    if hides is not None:
        facts = {address: _without_hidden(known, hides) for address, known in facts.items()}
        as_nobody = judge(question, facts, rulebook, request.now).recipients
        verdicts = tuple(map(_hidden, verdicts, as_nobody))
    known = [facts.get(address, NO_FACTS) for address in addresses]
    return [
        LineVerdict(
            verdict,
            _since(verdict, of, request),
            profiling_objected=of.contact is not None
            and of.contact.profiling_objected_at is not None,
            unannounced=_is_unannounced(verdict, of, request),
        )
        for verdict, of in zip(verdicts, known, strict=True)
    ]


def _without_hidden(known: RecipientFacts, hides: Callable[[Contact], bool]) -> RecipientFacts:
    hidden = known.contact is not None and hides(known.contact)
    return replace(known, contact=None) if hidden else known


def _hidden(verdict: Verdict, as_nobody: Verdict) -> Verdict:
    """Return the verdict to show: its action is true, its reason as without a contact."""
    if verdict.action is as_nobody.action:
        return as_nobody
    return HIDDEN if verdict.action is Action.REFUSE else verdict


HIDDEN = refuse("no_record", Reason.NO_RECORD)
"""The verdict shown for a person whose contact must not be revealed."""


def _since(verdict: Verdict, known: RecipientFacts, request: ScrubRequest) -> str:
    """Return the day of the suppression, withdrawal or consent that decided."""
    if verdict.rule == "suppression":
        return (verdict.detail or "").partition(" since ")[2][:10]
    whole = RecipientCase("", request.stream, known, request.rulebook, request.now)
    if verdict.reason is Reason.CONSENT_WITHDRAWN:
        at = withdrawn_at(_deciding(whole))
        return "" if at is None else day(at)
    if verdict.basis is Basis.CONSENT:
        contact, purpose = _deciding(whole).facts.contact, request.stream.purpose
        if contact is None:
            return ""
        act = newest_act(contact, purpose, request.rulebook)
        return "" if act is None else day(act.at)
    return ""


def _is_unannounced(verdict: Verdict, known: RecipientFacts, request: ScrubRequest) -> bool:
    """Whether somebody else gave the address of a person who was never mailed, and the stream does
    not check that the first message says so (RGPD art. 14(3)(b))."""
    contact, stream, passed_on = known.contact, request.stream, request.rulebook.disclosed_sources
    if (
        contact is None
        or verdict.action is not Action.ALLOW
        or verdict.basis is Basis.GENERIC_ADDRESS  # not personal data
        or stream.first_contact_notice
        or stream.stream_class is not StreamClass.MARKETING
        or passed_on.isdisjoint([contact.source, *(way.source for way in contact.others)])
        or any(
            first is not None and first <= request.now
            for first in (contact.first_contacted_at, known.first_mailed_at)
        )
    ):
        return False
    whole = RecipientCase("", stream, known, request.rulebook, request.now)
    return known_source(_deciding(whole)) in passed_on


def _deciding(whole: RecipientCase) -> RecipientCase:
    """Return the case that decides; where there is only one, nothing is judged again."""
    cases = by_collection(whole)
    return cases[0] if len(cases) == 1 else decisive(whole)[0]


class Counts(Struct):
    """Counts so far. Every line is allowed, refused, deferred or unreadable."""

    unreadable: int = 0
    duplicates: int = 0  # among the readable lines
    unannounced: int = 0  # among those allowed
    bases: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    deferrals: Counter[str] = field(default_factory=Counter)

    def add(self, judged: LineVerdict) -> None:
        verdict = judged.verdict
        if verdict.action is Action.ALLOW:
            self.bases[str(verdict.basis)] += 1
        elif verdict.action is Action.REFUSE:
            self.refusals[str(verdict.reason)] += 1
        else:
            self.deferrals[str(verdict.reason)] += 1
        self.duplicates += judged.duplicate
        self.unannounced += judged.unannounced

    @property
    def allowed(self) -> int:
        return self.bases.total()

    @property
    def refused(self) -> int:
        return self.refusals.total()

    @property
    def deferred(self) -> int:
        return self.deferrals.total()

    @property
    def total(self) -> int:
        return self.allowed + self.refused + self.deferred + self.unreadable

    @property
    def longest(self) -> int:
        """The most lines with one basis or reason: the scale of the charts."""
        found = (self.bases, self.refusals, self.deferrals)
        return max((lines for each in found for lines in each.values()), default=1)

    @property
    def all_may_be_mailed(self) -> bool:
        return self.allowed == self.total

    @property
    def reasons(self) -> list[tuple[str, str, int]]:
        """Return (verdict, reason, lines) for lines not allowed, the most frequent first."""
        rows = [
            (str(action), reason, lines)
            for action, found in ((Action.REFUSE, self.refusals), (Action.DEFER, self.deferrals))
            for reason, lines in found.items()
        ]
        return sorted(rows, key=lambda row: (-row[2], row[1]))


def most_frequent_first(found: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(found.items(), key=lambda row: (-row[1], row[0])))


def share(part: int, whole: int) -> float:
    """Return a percentage for people: 0 and 100 only if exactly so."""
    if not whole or not part:
        return 0
    if part == whole:
        return 100
    return min(max(100 * part / whole, 0.1), 99.9)


class Findings(Struct, frozen=True):
    """The result for a list, whatever its output format."""

    name: str  # of the list
    sha256: str
    request: ScrubRequest
    counts: Counts

    def as_object(self) -> dict[str, object]:
        counts, request = self.counts, self.request
        return {
            "list": self.name,
            "sha256": self.sha256,
            "stream": request.stream.name,
            "rulebook": request.rulebook.name,
            "at": request.now,
            "total": counts.total,
            "allowed": counts.allowed,
            "by_basis": most_frequent_first(counts.bases),
            "refused": counts.refused,
            "deferred": counts.deferred,
            "by_reason": {reason: lines for _, reason, lines in counts.reasons},
            "unreadable": counts.unreadable,
            "duplicates": counts.duplicates,
            "unannounced": counts.unannounced,
        }


class Bar(Struct, frozen=True):
    """One row of the charts; `width` is a percentage of the longest bar."""

    name: str
    kind: str  # allow, refuse or defer
    lines: int
    share: float
    width: float
    words: str


def reason_bars(counts: Counts, lang: Lang = REFERENCE) -> Sequence[Bar]:
    """Return the reasons of lines not allowed, the most frequent first."""
    rows = [
        (reason, kind, lines, of_reason(reason, lang)) for kind, reason, lines in counts.reasons
    ]
    return _bars(rows, counts)


def basis_bars(counts: Counts, lang: Lang = REFERENCE) -> Sequence[Bar]:
    """Return the bases of allowed lines, on the scale of `reason_bars`."""
    found = most_frequent_first(counts.bases).items()
    rows = [(basis, "allow", lines, _said(f"scrub.basis.{basis}", lang)) for basis, lines in found]
    return _bars(rows, counts)


def _bars(rows: Sequence[tuple[str, str, int, str]], counts: Counts) -> Sequence[Bar]:
    longest = counts.longest
    return [
        Bar(name, kind, lines, share(lines, counts.total), round(100 * lines / longest, 2), words)
        for name, kind, lines, words in rows
    ]


def of_reason(reason: str, lang: Lang) -> str:
    """Return what a reason means, in plain words for people who plan a campaign."""
    return _said(f"scrub.reason.{reason}", lang) or _said("scrub.elsewhere", lang)


def _said(key: str, lang: Lang) -> str:
    return say(Phrase(key), lang) if has_words(key) else ""


def html(findings: Findings, lang: Lang = REFERENCE) -> str:
    """Return the report; foreign text (the list's name) is escaped."""
    from smtpproxy.locale.pages import environment  # 40 ms, only for a report

    counts = findings.counts
    return (
        environment(lang)
        .get_template("scrub.html")
        .render(
            request=findings.request,
            sha256=findings.sha256,
            name=printable(findings.name),
            counts=counts,
            allowed_share=share(counts.allowed, counts.total),
            reasons=reason_bars(counts, lang),
            bases=basis_bars(counts, lang),
        )
    )
