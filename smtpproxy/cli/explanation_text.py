"""The output of `smtpproxy explain`, for people and for programs."""

import re
import sys
import textwrap
from collections.abc import Iterator, Sequence

from smtpproxy.cli.printer import VERDICT_STYLES, Part, Styled, screen_width
from smtpproxy.core.explanation import Explanation
from smtpproxy.events import picked
from smtpproxy.explain import Account
from smtpproxy.explain.trace import TraceStep
from smtpproxy.locale import Lang, Phrase, Time, Value, say
from smtpproxy.mail.reply import Reply
from smtpproxy.policy.model import BUILT_IN_BRAND, Action
from smtpproxy.sinks.audit.reader import Outcome
from smtpproxy.sinks.audit.verify import Seal
from smtpproxy.terminal import printable

_WIDEST = 100  # columns: longer lines are hard to read


def as_object(explanation: Explanation) -> dict[str, object]:
    """Return the object of design.md section 7, together with the plain words."""
    message, reply = explanation.message, explanation.message_reply
    account = explanation.message_account
    return {
        "stream": explanation.stream.name,
        "rulebook": explanation.rulebook,
        "message": message
        and {
            "verdict": message.action,
            "reason": message.reason,
            "reply": str(reply) if reply else None,
            "trace": _steps(explanation.message_trace),
            **_account_object(account or Account("")),
        },
        "recipients": [
            {
                "address": recipient.address,
                "verdict": recipient.verdict.action,
                "reason": recipient.verdict.reason,
                "basis": recipient.verdict.basis,
                "reply": str(recipient.reply) if recipient.reply else None,
                "trace": _steps(recipient.trace),
                **_account_object(recipient.account),
            }
            for recipient in explanation.recipients
        ],
        **picked(explanation, "at", "id", "observed", "lang", "relayed"),
        "upstream": explanation.outcome and picked(explanation.outcome, "at", "code", "reply"),
        **picked(explanation, "seal", "source_announced"),
    }


def _steps(trace: Sequence[TraceStep]) -> list[dict[str, str]]:
    names = ("rule", "outcome", "text", "source", "question")
    return [picked(step, *names) for step in trace]


def _account_object(account: Account) -> dict[str, object]:
    return {"explanation": account.happened, "changes": account.changes, "notes": account.notes}


def text(explanation: Explanation) -> Iterator[Part]:
    """Yield what happened and why, what would change it, then the steps."""
    page = _Page(explanation.lang)
    yield from page.head(explanation)
    if explanation.message is not None and explanation.message_account is not None:
        yield from page.part(page.label("message"), explanation.message.action)
        yield from page.account(explanation.message_account, explanation.message_reply)
        yield from page.steps(explanation.message_trace)
    for recipient in explanation.recipients:
        judged = bool(recipient.account.happened)
        yield from page.part(recipient.address, recipient.verdict.action if judged else None)
        shown = recipient.reply == explanation.message_reply
        yield from page.account(recipient.account, None if shown else recipient.reply)
        yield from page.steps(recipient.trace)
    if explanation.observed and not explanation.allowed:
        would = "would" if explanation.id is None else "was"
        yield from page.paragraph(page.say(f"note.observed.{would}"))


class _Page:
    def __init__(self, lang: Lang) -> None:
        self._lang = lang

    def say(self, key: str, **values: Value) -> str:
        return say(Phrase(key, values), self._lang)

    def label(self, name: str, **values: Value) -> str:
        return self.say(f"explain.{name}", **values)

    def head(self, it: Explanation) -> Iterator[Part]:
        occasion = "asked" if it.id is None else "recorded"
        about = self.label(it.stream.class_name)
        if it.stream.purpose:
            about = self.label("purpose", kind=about, purpose=it.stream.purpose)
        if it.stream.brand != BUILT_IN_BRAND:
            about = self.label("brand", about=about, brand=it.stream.brand)
        yield from self._lines(self.label(occasion, at=Time(it.at), id=it.id) + ".")
        yield from self._lines(
            self.label("stream", stream=it.stream.name, about=about, rulebook=it.rulebook)
            + ". "
            + self.label("utc")
        )
        if it.source_announced:
            yield from self._lines(self.label("source_announced", text=it.source_announced))
        if it.relayed:
            yield from self._lines(self._upstream(it.outcome))
        if it.seal is not None:
            yield from self._lines(self._seal(it.seal))

    def _upstream(self, outcome: Outcome | None) -> str:
        if outcome is None:
            return self.label("upstream.unknown")
        reply = outcome.reply or str(outcome.code)
        return self.label("upstream", at=Time(outcome.at), reply=reply)

    def _seal(self, seal: Seal) -> str:
        if seal.at is None:
            return self.label(f"seal.{seal.state}", what=seal.what or "")
        return self.label(f"seal.{seal.state}", anchor=str(seal.anchor), at=Time(seal.at))

    def part(self, title: str, action: Action | None) -> Iterator[Part]:
        yield ""
        if action is None:
            yield Styled(f"{title}  {self.label('not_judged')}", "dim")
        else:
            yield Styled(f"{title}  {self.say(f'outcome.{action}')}", VERDICT_STYLES[action])

    def account(self, account: Account, reply: Reply | None) -> Iterator[Part]:
        for text in (account.happened, *account.notes):
            if text:
                yield from self.paragraph(text, "  ")
        if account.changes:
            many = len(account.changes) > 1
            yield from self.paragraph(self.label("change.any" if many else "change"), "  ", "bold")
            for change in account.changes:
                yield from self._lines(change, "  - ", "    ")
            yield from self._lines(self.say("note.others"), "  ")
        if reply is not None:
            yield from self.paragraph(self.label("reply"), "  ", "bold")
            yield from (f"  {line}" for line in str(reply).splitlines())

    def steps(self, steps: Sequence[TraceStep]) -> Iterator[Part]:
        if not steps:
            return
        yield from self.paragraph(self.label("steps"), "  ", "bold")
        for number, step in enumerate(steps, 1):
            passed = step.outcome == "passed"
            style = "dim" if passed else VERDICT_STYLES[step.outcome]
            outcome = self.say(f"outcome.{step.outcome}")
            sentence = f"{step.text[:1].upper()}{step.text[1:]}"
            text = self.label(
                "step", question=step.question, rule=step.rule, outcome=outcome, text=sentence
            )
            yield from self._lines(text, f"  {number:2}. ", "      ", style)
            yield from self._lines(
                self.label("source", source=self._source(step)), "      ", style="dim"
            )

    def paragraph(self, text: str, indent: str = "", style: str = "") -> Iterator[Part]:
        yield ""
        yield from self._lines(text, indent, style=style)

    def _lines(
        self, text: str, first: str = "", others: str | None = None, style: str = ""
    ) -> Iterator[Part]:
        """Break lines at ordinary spaces only, never at the no-break ones of French."""
        width = min(screen_width(), _WIDEST) if sys.stdout.isatty() else screen_width()
        for line in textwrap.wrap(
            printable(text),
            max(width, 40),
            initial_indent=first,
            subsequent_indent=first if others is None else others,
            break_long_words=False,
            break_on_hyphens=False,
        ):
            yield Styled(line, style) if style else line

    def _source(self, step: TraceStep) -> str:
        rows = re.sub(r"\bA\d", r"docs/law.md \g<0>", step.rows, count=1)
        for word, label in (("by rulebook", "by_rulebook"), ("design", "design"), ("to", "to")):
            rows = re.sub(rf"\b{word}\b", self.label(label), rows)
        law = step.law
        if self._lang != "en":  # the rulebooks' notes on an article are in English
            law = law.partition(": ")[0].replace("no law", self.label("no_law"))
        law, rows = (text.replace(";", self.label("semicolon")) for text in (law, rows))
        return self.label("both", law=law, rows=rows) if law else rows
