"""Text from others in the journal stays plain text in the page of a report."""

from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest

from smtpproxy.locale import LANGS
from smtpproxy.policy.model import Action, Mode, Reason, StreamClass
from smtpproxy.report import Report, Selection, html
from smtpproxy.report.counts import Counts, Fault, RecipientOutcome

HOSTILE = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(1)'>",
    "</title></style></code><base href=//evil.example>",
    "{{ 7 * 7 }} {% raw %} & `x` &lt;b&gt;",
    "\x02a\x03 \x1b[31m \x00 \u202ekcatta \u2066 \ufeff \u200b",
    "`</code><svg onload=alert(1)>`",
]


class Page(HTMLParser):
    """The elements, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.said = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.said += data


def page(name: str, lang: str) -> Page:
    counts = Counts(decisions=10)
    row = {RecipientOutcome(name, True, Action.REFUSE, Reason.NO_RECORD): 900,
           RecipientOutcome(name, True, Action.ALLOW, "consent"): 100}  # fmt: skip
    for day in ("2026-03-01", "2026-03-02"):
        counts.days[day] = row
        counts.messages[Fault(day, name, True, "unsubscribe_missing")] = 7
    counts.examples[name, Reason.NO_RECORD] = [name]
    for breakdown in (counts.apps, counts.senders, counts.domains):
        breakdown.rows |= {name: row}
    modes, classes = {name: Mode.OBSERVE}, {name: StreamClass.MARKETING}
    made = Report.of(counts, Selection(), datetime(2026, 3, 10, tzinfo=UTC), modes, classes)
    return Page(html(made, lang))  # type: ignore[arg-type]


@pytest.mark.parametrize("lang", LANGS)
@pytest.mark.parametrize("name", HOSTILE)
def test_text_written_by_others_is_escaped(name: str, lang: str) -> None:
    usual, hostile = page("offers", lang), page(name, lang)
    assert hostile.tags - {"code"} == usual.tags - {"code"}
    assert hostile.attributes == usual.attributes
    assert not {"script", "img", "base", "svg onload"} & hostile.tags
    assert not [
        c
        for c in hostile.said
        if not c.isprintable() and c not in "\n\N{NO-BREAK SPACE}\N{NARROW NO-BREAK SPACE}"
    ]
