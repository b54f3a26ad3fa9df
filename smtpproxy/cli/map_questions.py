"""How `contact map` shows its guesses, and asks about the rest."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import click
from msgspec.structs import replace

from smtpproxy.cli import fail
from smtpproxy.cli.import_file import on_a_terminal
from smtpproxy.cli.options import Value
from smtpproxy.cli.printer import Column, Styled, Table, print_text
from smtpproxy.cli.prompter import NEEDED
from smtpproxy.policy.model import EVERY_PURPOSE
from smtpproxy.store.exchange.consent_columns import purpose_in_words
from smtpproxy.store.exchange.guess import propose
from smtpproxy.store.exchange.look import ColumnLook, TableLook
from smtpproxy.store.exchange.mapping import FIELDS
from smtpproxy.store.exchange.proposal import NONE, Answers, Known, Proposal, Question
from smtpproxy.store.exchange.rows import column_key
from smtpproxy.terminal import counted, printable

_COLUMNS = [Column("column"), Column("is"), Column("what is in it", prose=True)]
_SHOWN = 6  # different cells of a column


def column_pair(value: str) -> tuple[str, str]:
    """Read COLUMN=WORD; a column may have `=` in its name."""
    name, equals, word = value.rpartition("=")
    if not equals or not name.strip() or not word.strip():
        raise ValueError(f"{value!r} is not COLUMN=WORD")
    return name.strip(), word.strip()


ColumnPair = Annotated[tuple[str, str], Value("COLUMN=WORD", column_pair)]


def asked(look: TableLook, known: Known, answers: Answers) -> Answers:
    """Show the guesses, and ask until no question is left."""
    try:
        answers = _confirmed(look, known, answers)
        while questions := propose(look, known, answers).questions:
            answers = _answer(questions[0])
    except click.Abort:
        click.echo(err=True)  # the line of the question is open
        left = _listed(propose(look, known, answers).questions)
        fail(
            "\n".join(
                ["some answers are missing; to run without questions, give --yes and", *left]
            ),
            2,
        )
    return answers


def _confirmed(look: TableLook, known: Known, answers: Answers) -> Answers:
    while True:
        proposal = propose(look, known, answers)
        print_text([guessed(look, proposal)], err=True)
        if not proposal.columns or click.confirm("Is this right?", default=True, err=True):
            return answers
        text = click.prompt(
            "Correct one: COLUMN=FIELD, or COLUMN=none", default="", show_default=False, err=True
        )
        try:
            name, word = column_pair(text)
            if look.column(name) is None or word not in (*FIELDS, NONE):
                raise ValueError(f"no such column or field; fields are {', '.join(FIELDS)}")
        except ValueError as error:
            click.echo(str(error), err=True)
            continue
        answers = replace(answers, columns={**answers.columns, column_key(name): word})


def _answer(question: Question) -> Answers:
    """Ask one question until the answer is valid."""
    default = question.default or ""
    hint = f" ({', '.join(question.choices)})" if question.choices else ""
    hint += " (Enter: not known)" if question.may_stay_open else ""
    by_word = {word.casefold(): word for word in question.choices}
    while True:
        text = str(
            click.prompt(
                question.text + hint, default=default, show_default=bool(default), err=True
            )
        ).strip()
        word = by_word.get(text.casefold())
        try:
            if not text and not question.may_stay_open:
                raise ValueError(NEEDED)
            if text and word is None and question.check is not None:
                question.check(text)
            elif text and word is None and question.choices:
                raise ValueError(f"give one of {', '.join(question.choices)}")
        except ValueError as error:
            click.echo(str(error), err=True)
            continue
        return question.answered(word or text)


def check_known(file: Path, proposal: Proposal, notes: Iterable[str], *, leave_open: bool) -> None:
    """End the command if an answer is missing that must not be guessed."""
    missing = [
        one
        for one in proposal.questions
        if one.default is None and not (one.may_stay_open and leave_open)
    ]
    if not missing:
        return
    lines = [f"{file}: these answers are missing:"]
    lines += _listed(missing)
    if all(one.may_stay_open for one in missing):
        lines.append("  or --leave-open: unknown values are left out, and then prove nothing")
    lines += [f"  note: {note}" for note in notes]
    fail("\n".join(map(printable, lines)), 2)


def _listed(questions: Iterable[Question]) -> Iterator[str]:
    for one in questions:
        choices = f" ({', '.join(one.choices)[:200]})" if one.choices else ""
        yield f"  {one.text}{choices}"
        yield f"    {one.option}"


def left_open(answers: Answers, proposal: Proposal) -> Answers:
    """Take the defaults of unasked questions, and note which stay open."""
    for one in proposal.questions:
        answered = one.answered(one.default or "")
        answers = replace(answers, constants={**answers.constants, **answered.constants})
    return answers


def guessed(look: TableLook, proposal: Proposal) -> Table:
    return Table(_COLUMNS, [_row(one, proposal) for one in look.columns])


def _row(column: ColumnLook, proposal: Proposal) -> Sequence[str]:
    is_what = ", ".join(dict.fromkeys(_roles(column, proposal)))
    return (
        column.name if is_what else Styled(column.name, "dim"),
        Styled(is_what or "not read", "green" if is_what else "dim"),
        _holds(column, shown=bool(is_what) or on_a_terminal()),
    )


def _roles(column: ColumnLook, proposal: Proposal) -> Iterator[str]:
    if field := proposal.columns.get(column.name):
        yield field
    for table in proposal.consents:
        if table.column == column.name:
            kind = "consent to" if table.yes else "refusal of"
            yield f"{kind} {purpose_in_words(table.purpose)}"
        if table.given_at == column.name:
            yield f"when they agreed to {table.purpose}"
    refused = [table.purpose for table in proposal.consents if table.withdrawn_at == column.name]
    if EVERY_PURPOSE in refused:
        yield "when they refused everything"
    else:
        yield from (f"when they refused {purpose}" for purpose in refused)


def _holds(column: ColumnLook, *, shown: bool) -> str:
    """Describe a column's content. Cells may be personal data: `shown` allows showing them."""
    if not column.filled:
        return "nothing"
    if column.holds_addresses:
        return counted(column.addresses, "address", "addresses")
    if column.values is not None and not column.holds_times and shown:
        common = column.values.most_common(_SHOWN)
        more = " …" if len(column.values) > _SHOWN else ""
        return ", ".join(f"{printable(text)} {n:,}" for text, n in common) + more
    examples = f": {', '.join(map(printable, column.examples))} …" if on_a_terminal() else ""
    return counted(column.filled, "time" if column.holds_times else "cell") + examples
