"""The report of a scrubbed list: one HTML file that needs nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass

import jinja2

from smtpproxy.policy.words.lang import Lang, time
from smtpproxy.policy.words.terms import term
from smtpproxy.scrub.counts import Counts, commonest_first, share
from smtpproxy.scrub.verdicts import Occasion
from smtpproxy.scrub.words import LABELS, of_basis, of_reason
from smtpproxy.terminal import printable


@dataclass(frozen=True, slots=True)
class Findings:
    """What is said of a list, in whatever form."""

    name: str  # of the list
    sha256: str
    occasion: Occasion
    counts: Counts

    def as_object(self) -> dict[str, object]:
        counts, occasion = self.counts, self.occasion
        return {
            "list": self.name,
            "sha256": self.sha256,
            "stream": occasion.stream.name,
            "rulebook": occasion.rulebook.name,
            "at": occasion.now,
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
    """One row of the chart; `width` is in hundredths of the longest."""

    name: str
    kind: str  # allow, refuse or defer
    lines: int
    share: str
    width: float
    words: str


def reason_bars(counts: Counts, lang: Lang = "en") -> Sequence[Bar]:
    rows = [
        (reason, kind, lines, of_reason(reason, lang)) for kind, reason, lines in counts.reasons
    ]
    return _bars(rows, counts.total)


def basis_bars(counts: Counts, lang: Lang = "en") -> Sequence[Bar]:
    found = commonest_first(counts.bases).items()
    rows = [(basis, "allow", lines, of_basis(basis, lang)) for basis, lines in found]
    return _bars(rows, counts.total)


def _bars(rows: Sequence[tuple[str, str, int, str]], total: int) -> Sequence[Bar]:
    longest = max((lines for _, _, lines, _ in rows), default=1)
    return [
        Bar(name, kind, lines, share(lines, total), round(100 * lines / longest, 2), words)
        for name, kind, lines, words in rows
    ]


def html(findings: Findings, lang: Lang = "en") -> str:
    """Return the report; what others wrote (the list's name) is escaped."""
    labels = LABELS[lang]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("smtpproxy.scrub", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = "{:,}".format if lang == "en" else _french_number
    environment.filters["share"] = str if lang == "en" else _french_share
    environment.filters["term"] = lambda word: word if lang == "en" else term(word, lang)
    counts = findings.counts
    return environment.get_template("report.html").render(
        occasion=findings.occasion,
        sha256=findings.sha256,
        name=printable(findings.name),
        counts=counts,
        allowed_share=share(counts.allowed, counts.total),
        reasons=reason_bars(counts, lang),
        bases=basis_bars(counts, lang),
        at=f"{findings.occasion.now:%Y-%m-%d %H:%M:%S} UTC"
        if lang == "en"
        else time(findings.occasion.now, lang),
        lang=lang,
        label=labels,
    )


def _french_number(number: int) -> str:
    return f"{number:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def _french_share(share: str) -> str:
    return share.replace(".", ",").replace(" %", "\N{NO-BREAK SPACE}%")
