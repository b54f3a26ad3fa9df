"""What is said of a scrubbed list: numbers, charts, and one HTML file that needs nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass

from smtpproxy.locale.pages import environment
from smtpproxy.locale.texts import REFERENCE, Lang, Phrase, has_words, say
from smtpproxy.scrub.verdicts import Counts, ScrubRequest, commonest_first, share
from smtpproxy.terminal import printable


@dataclass(frozen=True, slots=True)
class Findings:
    """What is said of a list, in whatever form."""

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
            "by_basis": commonest_first(counts.bases),
            "refused": counts.refused,
            "deferred": counts.deferred,
            "by_reason": {reason: lines for _, reason, lines in counts.reasons},
            "unreadable": counts.unreadable,
            "duplicates": counts.duplicates,
        }


@dataclass(frozen=True, slots=True)
class Bar:
    """One row of the charts; `width` is in hundredths of the longest of all."""

    name: str
    kind: str  # allow, refuse or defer
    lines: int
    share: float
    width: float
    words: str


def reason_bars(counts: Counts, lang: Lang = REFERENCE) -> Sequence[Bar]:
    """What is in the way, the commonest first."""
    rows = [
        (reason, kind, lines, of_reason(reason, lang)) for kind, reason, lines in counts.reasons
    ]
    return _bars(rows, counts)


def basis_bars(counts: Counts, lang: Lang = REFERENCE) -> Sequence[Bar]:
    """Why the others may be mailed, on the scale of `reason_bars`."""
    found = commonest_first(counts.bases).items()
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
    """Return the report; what others wrote (the list's name) is escaped."""
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
