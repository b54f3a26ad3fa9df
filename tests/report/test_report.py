"""The report in JSON: the meaning and grouping of each count."""

from datetime import UTC, datetime

from smtpproxy.policy.model import Action, Mode, StreamClass
from smtpproxy.report import Report, Selection, mostly, outcomes, spark
from smtpproxy.report.counts import OTHERS, Counts, Fault, RecipientOutcome, Row

NOW = datetime(2026, 3, 10, tzinfo=UTC)
ROW: Row = {
    RecipientOutcome("offers", False, Action.ALLOW, "consent"): 40,
    RecipientOutcome("offers", True, Action.ALLOW, "consent"): 2,
    RecipientOutcome("offers", True, Action.REFUSE, "no_record"): 3,
    RecipientOutcome("offers", True, Action.DEFER, "frequency_cap"): 4,
    RecipientOutcome("offers", False, Action.REFUSE, "no_record"): 6,
    RecipientOutcome("offers", False, Action.DEFER, "stream_paused"): 9,
}
SUMS = {
    "passed": 42,
    "would_be_refused": 3,
    "would_be_deferred": 4,
    "refused": 6,
    "deferred": 9,
}
REASONS = {"frequency_cap": 4, "no_record": 9, "stream_paused": 9}


def counted() -> Report:
    counts = Counts(decisions=60, unreadable=1)
    counts.days = {"2026-03-02": dict(ROW), "2026-03-01": dict(ROW)}
    for breakdown in (counts.apps, counts.senders, counts.domains):
        breakdown.rows = {"crm/billing": dict(ROW), OTHERS: dict(ROW)}
    counts.domains.people["crm/billing"] = None
    counts.messages[Fault("2026-03-01", "offers", False, "unsubscribe_missing")] = 5
    counts.examples["offers", "no_record"] = ["01ID"]
    classes = {"offers": StreamClass.MARKETING}
    return Report.of(counts, Selection(), NOW, {"offers": Mode.ENFORCE}, classes)


def test_mail_that_passed_or_was_or_would_be_refused() -> None:
    assert outcomes(ROW) == SUMS
    earlier = {RecipientOutcome("offers", False, Action.ALLOW, "consent"): -2}
    assert outcomes(earlier)["passed"] == 0, "permitted before the period"


def test_the_most_frequent_reason() -> None:
    assert mostly(ROW) == "no_record", "of two equals, the alphabetically first"
    assert mostly({RecipientOutcome("offers", False, Action.ALLOW, "consent"): 1}) == ""


def test_a_report_grouped_by_reason_and_other_keys() -> None:
    found = counted().as_object("reason", "en")
    assert (found["since"], found["until"]) == (None, NOW)
    assert (found["decisions"], found["unreadable"]) == (60, 1)
    assert (found["by"], found["rows"]) == ("reason", [])
    for by in ("app", "sender", "recipient-domain"):
        rows = counted().as_object(by, "en")["rows"]
        assert rows == [
            {by: name, **SUMS, "reasons": REASONS} for name in ("crm/billing", None)
        ]  # the last row has all others
    days = [row["day"] for row in counted().as_object("day", "en")["rows"]]
    assert days == ["2026-03-01", "2026-03-02"]


def test_a_stream_with_its_reasons() -> None:
    (stream,) = counted().as_object("reason", "en")["streams"]
    reasons = {one.pop("reason"): one for one in stream.pop("reasons")}
    assert stream == {
        "stream": "offers",
        "class": "marketing",
        "mode": "enforce",
        "recipients": 128,
        "messages": 5,
        **{name: 2 * count for name, count in SUMS.items()},
        "bases": {"consent": 84},
        "judgement": {"verdict": "enforced", "obstacles": [], "notes": []},
    }
    assert {reason: one["recipients"] for reason, one in reasons.items()} == {
        "unsubscribe_missing": 0,
        **{reason: 2 * count for reason, count in REASONS.items()},
    }
    missing = reasons["no_record"]
    assert "contact import" in missing.pop("fix")
    assert missing == {
        "kind": "record",
        "recipients": 18,
        "share": 0.1406,
        "messages": 0,
        "trend": "steady",
        "days": {"2026-03-02": 9, "2026-03-01": 9},
        "apps": {"crm/billing": 9, "": 9},
        "examples": ["01ID"],
    }


def test_streams_are_reported_separately() -> None:
    """One has twice as much mail, on a single day, with different faults."""
    counts, day = Counts(), "2026-03-01"
    row = counts.days[day] = {}
    for times, name in ((1, "offers"), (2, "news")):
        row[RecipientOutcome(name, True, Action.ALLOW, "professional")] = 300 * times
        row[RecipientOutcome(name, True, Action.ALLOW, "consent")] = 700 * times
        row[RecipientOutcome(name, True, Action.REFUSE, "no_record")] = 10 * times
        counts.messages[Fault(day, name, True, "none")] = 1_000 * times
    counts.messages[Fault(day, "news", True, "unsubscribe_missing")] = 500
    classes = dict.fromkeys(("offers", "news"), StreamClass.MARKETING)
    modes = dict.fromkeys(classes, Mode.OBSERVE)
    news, offers = Report.of(counts, Selection(), NOW, modes, classes).streams
    assert (news.recipients, news.messages) == (2_020, 2_500)
    assert (offers.recipients, offers.messages) == (1_010, 1_000)
    assert list(news.bases.items()) == [("consent", 1_400), ("professional", 600)]
    assert [one.reason for one in news.figures] == ["unsubscribe_missing", "no_record"]
    assert [one.reason for one in offers.figures] == ["no_record"]
    assert [one.values for one in news.judgement.obstacles] == [
        {"count": 500, "reason": "unsubscribe_missing"}
    ]
    assert offers.judgement.obstacles == ()


def test_bars_of_days() -> None:
    assert spark({"a": 5, "b": 20, "c": 0}) == [(0, 5.0), (1, 20.0), (2, 0.0)]
    assert spark({"a": 0}) == [(0, 0.0)]
    assert spark({}) == []
