"""docs/reasons.md has exactly one paragraph for each reason."""

import re
from pathlib import Path

import pytest

from smtpproxy.locale import REFERENCE, texts
from smtpproxy.policy.model import Action, Reason, Verdict
from smtpproxy.policy.replies import reply_codes
from smtpproxy.policy.rulebooks import builtin

DOCUMENT = (Path(__file__).parents[2] / "docs" / "reasons.md").read_text("utf-8")
PARAGRAPHS = dict(re.findall(r"^### (\w+)\n\n(.+?)\n(?=\n|\Z)", DOCUMENT, re.MULTILINE | re.DOTALL))
DEFERRALS = {
    Reason.RESTORE_PENDING,
    Reason.STREAM_PAUSED,
    Reason.FREQUENCY_CAP,
    Reason.LIST_STALE,
    Reason.CAMPAIGN_ON_TRIAL,
    Reason.TEMPORARY_FAILURE,
}


def test_exactly_the_existing_reasons_are_explained() -> None:
    headings = re.findall(r"^### (.*)$", DOCUMENT, re.MULTILINE)
    assert sorted(headings) == sorted(Reason)
    assert set(PARAGRAPHS) == set(headings)


def test_every_reason_says_what_to_do() -> None:
    """In reports and on the page behind `help_url`."""
    phrases = texts(REFERENCE).phrases
    lacking = [reason for reason in Reason if f"fix.{reason}" not in phrases]
    assert lacking == [Reason.NONE], "add them to [fix] in smtpproxy/locale/en.toml and fr.toml"


@pytest.mark.parametrize("reason", sorted(set(builtin("fr").law) & set(Reason)))
def test_explain_cites_the_same_articles_as_the_paragraph(reason: str) -> None:
    rule = " ".join(PARAGRAPHS[reason].split()).partition(" Rule: ")[2]
    told = rule.partition(" What to do: ")[0].partition("; ")[2]
    assert _numbers(builtin("fr").law[reason]) == _numbers(told)


def _numbers(law: str) -> set[str]:
    """The numbers of articles and deliberations in a text of any language."""
    return set(re.findall(r"\d+(?:-\d+)?", law))


@pytest.mark.parametrize("reason", Reason)
def test_a_paragraph_has_the_rule_what_to_do_and_the_reply(reason: Reason) -> None:
    text = " ".join(PARAGRAPHS[reason].split())
    meaning, rule, advice, reply = re.split(r" Rule: | What to do: | Reply: ", text)
    assert len(meaning) > 40
    assert re.match(r"\d", rule)
    assert advice
    if reason is Reason.NONE:
        assert reply == "the upstream's own."
        return
    action = Action.DEFER if reason in DEFERRALS else Action.REFUSE
    code, enhanced = reply_codes(Verdict(action, reason))
    assert reply.startswith(f"`{code} {enhanced}`")
