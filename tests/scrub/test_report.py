"""The scrub report and its words."""

import re
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest

from smtpproxy.locale import LANGS, texts
from smtpproxy.policy.model import Action, Basis, Reason, Stream, Verdict
from smtpproxy.policy.rulebooks import builtin
from smtpproxy.scrub.verdicts import (
    Counts,
    Findings,
    LineVerdict,
    ScrubRequest,
    html,
    of_reason,
    share,
)

NEVER_OF_A_LIST = {
    Reason.NONE,
    Reason.HEADER_MALFORMED,
    Reason.STREAM_NOT_PERMITTED,
    Reason.SENDER_NOT_PERMITTED,
    Reason.UNSUBSCRIBE_MISSING,
    Reason.CONFIRM_LINK_MISSING,
    Reason.UNSUBSCRIBE_MALFORMED,
    Reason.ONE_CLICK_MISSING,
    Reason.RECIPIENTS_REFUSED,
    Reason.SINGLE_RECIPIENT_REQUIRED,
    Reason.RECIPIENT_LIMIT,
    Reason.TEMPORARY_FAILURE,
    Reason.UNSUBSCRIBE_UNSIGNED,
    Reason.BODY_OPTOUT_MISSING,
    Reason.SENDER_UNIDENTIFIED,
    Reason.SUBJECT_MISLEADING,
    Reason.FROM_MISALIGNED,
    Reason.BULK_UNDECLARED,
    Reason.NULL_MX,
}


def findings(name: str = "list.csv", **lines: int) -> Findings:
    counts = Counts(unreadable=lines.pop("unreadable", 0))
    for word, number in lines.items():
        verdict = Verdict(Action.REFUSE, Reason(word)) if word in set(Reason) else None
        for _ in range(number):
            counts.add(LineVerdict(verdict or Verdict(Action.ALLOW, basis=Basis(word))))
    stream = Stream("offers", purpose="offers")
    now = datetime(2026, 11, 1, 12, tzinfo=UTC)
    return Findings(name, "ab" * 32, ScrubRequest(stream, builtin("fr"), now), counts)


class Tags(HTMLParser):
    """The external resources, the labels of pictures, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.labels: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.fetched += [f"{tag} {key}" for key in ("src", "href", "srcset") if key in found]
        self.fetched += [tag] if tag in ("script", "link", "iframe") else []
        if found.get("role") == "img":
            self.labels.append(found.get("aria-label") or "")

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_report_is_complete_and_self_contained() -> None:
    page = html(findings(consent=6, no_record=3, consent_expired=1, unreadable=2))
    tags = Tags(page)
    assert tags.fetched == []
    assert not re.search(r"url\(|@import|https?:", page)
    assert tags.labels == ["no record, 25.0%", "consent expired, 8.3%", "consent, 50.0%"]
    text = " ".join(tags.text.split())
    assert "6 of 12 (50.0%) may be mailed on stream offers" in text
    for part in (
        of_reason("no_record", "en"),
        "They agreed to this purpose.",
        "ab" * 32,
        "1 November 2026 at 12:00:00 UTC",
    ):
        assert part in text
    assert re.search(r"Rulebook\s*fr", tags.text)


def test_the_name_of_the_list_is_escaped() -> None:
    page = html(findings("<script>alert(1)</script>\x1b.csv", consent=1))
    assert Tags(page).fetched == []
    assert "\x1b" not in page


def test_empty_and_faultless_lists_are_reported_as_such() -> None:
    assert "The list is empty" in html(findings())
    assert "Everyone on this list may be mailed" in html(findings(consent=2))


@pytest.mark.parametrize("lang", LANGS)
def test_every_reason_of_a_recipient_has_words(lang: str) -> None:
    said = {reason: of_reason(reason, lang) for reason in set(Reason) - NEVER_OF_A_LIST}
    assert {r: text for r, text in said.items() if not text.endswith(".") or "docs/" in text} == {}


@pytest.mark.parametrize("lang", LANGS)
def test_every_basis_has_words(lang: str) -> None:
    assert {f"scrub.basis.{basis}" for basis in Basis} - texts(lang).phrases.keys() == set()


def test_the_charts_share_one_scale() -> None:
    """A bar for half of the lines is half as long in every chart."""
    page = html(findings(consent=8, existing_customer=4, no_record=2))
    assert re.findall(r'rect width="([\d.]+)"', page) == ["25.0", "100.0", "50.0"]


@pytest.mark.parametrize(
    ("part", "whole", "shown"),
    [
        (0, 0, "0%"),
        (0, 5, "0%"),
        (5, 5, "100%"),
        (1, 1_000_000, "0.1%"),
        (999_999, 1_000_000, "99.9%"),
        (1, 3, "33.3%"),
    ],
)
def test_a_share_is_never_rounded_to_all_or_none(part: int, whole: int, shown: str) -> None:
    assert texts("en").percent(share(part, whole)) == shown


def test_the_report_in_french() -> None:
    page = html(findings(consent=6000, no_record=3000, consent_expired=1000), "fr")
    assert '<html lang="fr">' in page
    assert "6\N{NARROW NO-BREAK SPACE}000 sur 10\N{NARROW NO-BREAK SPACE}000" in page
    assert "adresse inconnue <code>no_record</code>" in page
    for english in ("may be mailed", "Stream", "lines", "of all", "duplicate is", "LineVerdict"):
        assert english not in page
