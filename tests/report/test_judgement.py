"""When a stream is ready to be enforced, and what prevents it."""

from collections.abc import Sequence

import pytest

from smtpproxy.locale import LANGS, PAGE_LANGS, REFERENCE, texts
from smtpproxy.policy.model import Action, Mode, Reason, StreamClass
from smtpproxy.report import in_words
from smtpproxy.report.counts import Counts, Fault, RecipientOutcome
from smtpproxy.report.judgement import Kind, Readiness, StreamReport, kind_of

DAYS = [f"2026-03-{day:02}" for day in range(1, 11)]
Told = Sequence[tuple[str, str | None]]


def stream(
    reasons: dict[str, dict[str, int]],
    *,
    passed: int = 1_000,
    days: Sequence[str] = DAYS,
    faults: dict[str, dict[str, int]] | None = None,
    of: StreamClass = StreamClass.MARKETING,
    mode: Mode | None = Mode.OBSERVE,
) -> StreamReport:
    """A stream with that much mail a day; reasons and faults of messages are per day."""
    counts = Counts()
    for day in days:
        row = counts.days[day] = {RecipientOutcome("offers", True, Action.ALLOW, "consent"): passed}
        for reason, by_day in reasons.items():
            action = Action.DEFER if reason == "temporary_failure" else Action.REFUSE
            row[RecipientOutcome("offers", True, action, reason)] = by_day.get(
                day, by_day.get("", 0)
            )
        counts.messages[Fault(day, "offers", True, "none")] = passed
        for reason, by_day in (faults or {}).items():
            counts.messages[Fault(day, "offers", True, reason)] = by_day.get(day, by_day.get("", 0))
    return StreamReport("offers", of, mode, counts)


def told(report: StreamReport) -> tuple[str, Told, Told]:
    judgement = report.judgement
    obstacles, notes = judgement.obstacles, judgement.notes
    return (
        str(judgement.verdict),
        [(one.key, one.reason) for one in obstacles],
        [(one.key, one.reason) for one in notes],
    )


@pytest.mark.parametrize(
    ("report", "verdict", "obstacles", "notes"),
    [
        (stream({}), "ready", [], []),
        # enforcing exists for people who said no, however many
        (stream({"suppressed_unsubscribe": {"": 900}}), "ready", [], []),
        (stream({"consent_withdrawn": {"": 500}, "frequency_cap": {"": 500}}), "ready", [], []),
        # missing records
        (stream({"no_record": {"": 50}}), "ready", [], []),
        (stream({"no_record": {"": 300}}), "blocked", [("gap", "no_record")], []),
        (stream({"no_record": {"": 80}, "consent_missing": {"": 80}}), "blocked",
         [("gap", "consent_missing"), ("gap", "no_record")], []),
        # faults for applications to fix
        (stream({}, faults={"unsubscribe_missing": {"": 100}}), "blocked",
         [("fault", "unsubscribe_missing")], []),
        (stream({}, faults={"unsubscribe_missing": {"": 2}}), "ready", [],
         [("rare", "unsubscribe_missing")]),
        (stream({}, faults={"bulk_undeclared": {"": 2}}, of=StreamClass.TRANSACTIONAL), "blocked",
         [("fault", "bulk_undeclared")], []),
        (stream({}, faults={"unsubscribe_missing": {DAYS[0]: 900}}), "ready", [],
         [("mended", "unsubscribe_missing")]),
        (stream({"tracking_unconsented": {"": 100}}), "blocked",
         [("fault", "tracking_unconsented")], []),
        (stream({}, faults={"recipients_refused": {"": 500}}), "ready", [], []),
        # the relay itself
        (stream({"temporary_failure": {"": 10}}), "blocked",
         [("undecided", "temporary_failure")], []),
        # too little mail to tell
        (stream({}, passed=1, days=DAYS[:8]), "blocked", [("few", None)], []),
        (stream({}, days=DAYS[:3]), "ready", [], [("short", None)]),
        # nothing to judge
        (stream({}, days=()), "unseen", [], []),
        (stream({"no_record": {"": 300}}, mode=Mode.ENFORCE), "enforced", [], []),
        (stream({}, mode=None), "unconfigured", [], []),
    ],
)  # fmt: skip
def test_judgements_of_streams(
    report: StreamReport, verdict: str, obstacles: Told, notes: Told
) -> None:
    assert told(report) == (verdict, obstacles, notes)
    for one in [*report.judgement.obstacles, *report.judgement.notes]:
        for lang in LANGS:
            assert "unknown" not in in_words(one, lang)


@pytest.mark.parametrize(
    ("by_day", "trend"),
    [
        ({"": 10}, "steady"),
        ({DAYS[0]: 10}, "gone"),
        ({DAYS[-1]: 10}, "new"),
        ({"": 10, DAYS[-1]: 100}, "rising"),
        ({"": 10, DAYS[0]: 100}, "falling"),
    ],
)
def test_trends(by_day: dict[str, int], trend: str) -> None:
    (figure,) = stream({"no_record": by_day}).figures
    assert figure.trend == trend


def test_who_can_fix_which_reason() -> None:
    kinds = {reason: kind_of(reason) for reason in Reason}
    assert kinds[Reason.SUPPRESSED_BOUNCE] is kinds[Reason.NULL_MX] is Kind.PERSON
    assert kinds[Reason.UNSUBSCRIBE_MISSING] is kinds[Reason.HEADER_MALFORMED] is Kind.MESSAGE
    assert kinds[Reason.NO_RECORD] is kinds[Reason.CONSENT_UNPROVEN] is Kind.RECORD
    assert kinds[Reason.FREQUENCY_CAP] is Kind.TIME
    assert kinds[Reason.TEMPORARY_FAILURE] is Kind.RELAY


def test_every_verdict_has_words() -> None:
    assert {f"report.{verdict}" for verdict in Readiness} <= texts(REFERENCE).phrases.keys()
    assert set(LANGS) <= set(PAGE_LANGS)
