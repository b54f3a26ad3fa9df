"""`smtpproxy report`: the decisions of a period, as text, JSON or HTML."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from msgspec import Struct

from smtpproxy.events import picked
from smtpproxy.locale import Lang, Phrase, Time, say
from smtpproxy.policy.model import Action, Mode, StreamClass
from smtpproxy.report.counting import Selection, count
from smtpproxy.report.counts import OTHERS, Counts, RecipientOutcome, Row
from smtpproxy.report.judgement import Figure, Judgement, Remark, StreamReport, stream_reports

__all__ = ["BY", "Report", "Selection", "count", "html"]

BY = ("reason", "app", "sender", "recipient-domain", "day")
"""The breakdowns of mail."""

OUTCOMES: Mapping[str, Callable[[RecipientOutcome], bool]] = {
    "passed": lambda what: what.action is Action.ALLOW,
    "would_be_refused": lambda what: what.observed and what.action is Action.REFUSE,
    "would_be_deferred": lambda what: what.observed and what.action is Action.DEFER,
    "refused": lambda what: not what.observed and what.action is Action.REFUSE,
    "deferred": lambda what: not what.observed and what.action is Action.DEFER,
}


def outcomes(row: Row) -> dict[str, int]:
    """Return how many recipients passed, and how many did not or would not.

    A recipient permitted before the period, but finally refused in it, did not pass in it.
    """
    return {
        name: max(sum(recipients for what, recipients in row.items() if matches(what)), 0)
        for name, matches in OUTCOMES.items()
    }


def mostly(row: Row) -> str:
    """Return the most frequent reason of what was or would be refused; empty if nothing was."""
    reasons: dict[str, int] = {}
    for what, recipients in row.items():
        if what.action is not Action.ALLOW:
            reasons[what.word] = reasons.get(what.word, 0) + recipients
    return max(sorted(reasons), key=lambda reason: reasons[reason], default="")


class Report(Struct, frozen=True):
    """The report on the mail of a period."""

    selection: Selection
    until: datetime
    counts: Counts
    streams: Sequence[StreamReport]

    @classmethod
    def of(
        cls,
        counts: Counts,
        selection: Selection,
        now: datetime,
        modes: Mapping[str, Mode],
        classes: Mapping[str, StreamClass],
    ) -> "Report":
        return cls(
            selection, selection.until or now, counts, stream_reports(counts, modes, classes)
        )

    def rows(self, by: str) -> dict[str, Row]:
        """Return the rows of a breakdown by `app`, `sender`, `recipient-domain` or `day`."""
        counts = self.counts
        if by == "day":
            return dict(sorted(counts.days.items()))
        chosen = {"app": counts.apps, "sender": counts.senders, "recipient-domain": counts.domains}
        return chosen[by].shown()

    def period(self, lang: Lang) -> str:
        if self.selection.since is None:
            return say(Phrase("report.everything", {"until": Time(self.until)}), lang)
        values = {"since": Time(self.selection.since), "until": Time(self.until)}
        return say(Phrase("report.period", values), lang)

    def as_object(self, by: str, lang: Lang) -> dict[str, Any]:
        return {
            "since": self.selection.since,
            "until": self.until,
            "decisions": self.counts.decisions,
            "unreadable": self.counts.unreadable,
            "streams": [_stream_object(stream, lang) for stream in self.streams],
            "by": by,
            "rows": [] if by == "reason" else list(self._row_objects(by)),
        }

    def _row_objects(self, by: str) -> Iterator[dict[str, Any]]:
        for name, row in self.rows(by).items():
            reasons = sorted({what.word for what in row if what.action is not Action.ALLOW})
            yield {
                by: None if name == OTHERS else name,
                **outcomes(row),
                "reasons": {
                    word: sum(n for w, n in row.items() if w.word == word) for word in reasons
                },
            }


def _stream_object(stream: StreamReport, lang: Lang) -> dict[str, Any]:
    return {
        "stream": stream.name,
        "class": stream.stream_class,
        **picked(stream, "mode", "recipients", "messages"),
        **outcomes(stream.total),
        "bases": stream.bases,
        "reasons": [_figure_object(figure, lang) for figure in stream.figures],
        "judgement": judgement_object(stream.judgement, lang),
    }


def _figure_object(figure: Figure, lang: Lang) -> dict[str, Any]:
    return {
        **picked(figure, "reason", "kind", "recipients"),
        "share": round(figure.share, 4),
        **picked(figure, "messages", "trend", "days"),
        "apps": dict(figure.apps),
        "examples": figure.examples,
        "fix": fix(figure.reason, lang),
    }


def judgement_object(judgement: Judgement, lang: Lang) -> dict[str, Any]:
    return {
        "verdict": judgement.verdict,
        "obstacles": [_remark_object(one, lang) for one in judgement.obstacles],
        "notes": [_remark_object(one, lang) for one in judgement.notes],
    }


def _remark_object(said: Remark, lang: Lang) -> dict[str, Any]:
    return {"what": said.key, "reason": said.reason, "text": in_words(said, lang)}


def in_words(said: Remark, lang: Lang) -> str:
    return say(Phrase(f"report.{said.key}", said.values), lang)


def fix(reason: str, lang: Lang) -> str:
    """Return what can be done about a reason."""
    return say(Phrase(f"fix.{reason}"), lang)


def html(report: Report, lang: Lang) -> str:
    """Return the report as one self-contained page, with all values escaped."""
    from smtpproxy.locale.pages import environment  # only for a page

    breakdowns = [(by, report.rows(by)) for by in BY if by != "reason"]
    return (
        environment(lang)
        .get_template("report.html")
        .render(
            report=report,
            period=report.period(lang),
            breakdowns=[(by, rows) for by, rows in breakdowns if rows],
            outcomes=outcomes,
            mostly=mostly,
            fix=lambda reason: fix(reason, lang),
            in_words=lambda said: in_words(said, lang),
            spark=spark,
        )
    )


def spark(days: Mapping[str, int]) -> list[tuple[int, float]]:
    """Return the bars of a chart of the days: the position of each, and its height, 0 to 20."""
    highest = max(days.values(), default=0) or 1
    return [(at, round(20 * height / highest, 2)) for at, height in enumerate(days.values())]
