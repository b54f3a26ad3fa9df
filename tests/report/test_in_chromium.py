"""The report in a browser: readable in light and dark mode, and within the window."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from smtpproxy.locale import LANGS
from smtpproxy.policy.model import Action, Mode, Reason, StreamClass
from smtpproxy.report import Report, Selection, html
from smtpproxy.report.counts import OTHERS, Counts, Fault, RecipientOutcome
from tests.kit import axe
from tests.kit.chromium import Chromium

pytestmark = pytest.mark.needs("chromium", "axe")


def report() -> Report:
    """A report with everything in it, and long names."""
    counts = Counts(decisions=1234567, unreadable=2)
    for day in range(1, 10):
        row = counts.days[f"2026-03-0{day}"] = {}
        for stream in ("offers", "l" * 40):
            row[RecipientOutcome(stream, True, Action.ALLOW, "consent")] = 1_000_000
            for number, reason in enumerate(Reason):
                if reason is not Reason.NONE:
                    row[RecipientOutcome(stream, True, Action.REFUSE, reason)] = 100 * (
                        number + day
                    )
                    counts.examples[stream, reason] = ["01M8KZR1PK784FRZGRDY695A8B"] * 3
            counts.messages[Fault(f"2026-03-0{day}", stream, True, "unsubscribe_missing")] = 7
        for breakdown in (counts.apps, counts.senders, counts.domains):
            breakdown.rows |= {"a" * 60 + ".example/" + "b" * 60: row, OTHERS: row}
    modes = {"offers": Mode.OBSERVE, "l" * 40: Mode.OBSERVE, "quiet": Mode.ENFORCE}
    classes = dict.fromkeys(modes, StreamClass.MARKETING)
    return Report.of(counts, Selection(), datetime(2026, 3, 10, tzinfo=UTC), modes, classes)


def test_the_report_fits_the_window(tmp_path: Path) -> None:
    with Chromium(tmp_path / "profile") as browser:
        for lang in LANGS:
            file = tmp_path / f"report-{lang}.html"
            file.write_text(html(report(), lang), "utf-8")
            browser.open(file.as_uri())
            for width, dark in ((1280, False), (1280, True), (360, True)):
                browser.resize(width, dark=dark)
                assert browser.run("document.documentElement.scrollWidth") <= width, lang
                if width == 1280 and lang == "en":  # axe's checks do not depend on the language
                    assert axe.faults(browser, *[axe.COLOURS] * dark) == []
        assert {url.partition(":")[0] for url in browser.requested()} == {"file"}
