"""A mapping file as it is written for people: TOML with comments."""

from collections.abc import Iterable, Iterator, Sequence

import tomlkit

from smtpproxy.store.exchange.consent_columns import ConsentTable
from smtpproxy.store.exchange.encodings import GUESSED
from smtpproxy.store.exchange.look import TableLook
from smtpproxy.store.exchange.proposal import LEFT_OPEN, Answers, Proposal
from smtpproxy.toml import named

_WANTED = {
    "source": "how the addresses were obtained; without it they count as of unknown origin",
    "consent_method": "how they agreed; without it no consent is proven",
    "consent_wording": "what they agreed to; without it no consent is proven",
    "consent_form": "where they agreed",
    "brand": "whom they said it to; without it nobody may be mailed while there are several brands",
}
_MEANING = {
    "true": "cells that are a consent",
    "false": "cells that are a no",
    "nothing": "cells that say nothing",
    "given_at": "when they agreed; without it a row is rejected",
    "withdrawn_at": "when they took it back",
}
_WIDE = 44  # where comments begin


def mapping_text(
    proposal: Proposal,
    answers: Answers,
    head: Iterable[str],
    unread: Sequence[str],
    look: TableLook,
) -> str:
    """Return the file. `head` are the lines of the comment on top, `unread` columns."""
    return "".join(f"{line}\n" for line in _lines(proposal, answers, head, unread, look))


def _lines(
    proposal: Proposal,
    answers: Answers,
    head: Iterable[str],
    unread: Sequence[str],
    look: TableLook,
) -> Iterator[str]:
    yield from (f"# {line}" for line in head)
    yield ""
    if look.encoding == GUESSED:
        yield _pair("# encoding", GUESSED, "as which it was read; say it if that is right")
    if look.delimiter not in (None, ","):
        yield _pair("delimiter", look.delimiter)
    if proposal.time_format:
        yield _pair("time_format", proposal.time_format)
    if answers.time_zone:
        yield _pair("time_zone", answers.time_zone, "of times that name none")
    yield ""
    yield "[columns]                                   # column = field"
    for column, said in proposal.columns.items():
        yield _pair(_key(column), said)
    if unread:
        yield f"# not read: {', '.join(map(_text, unread))}"
    yield ""
    yield "[constants]                                 # in every row that does not say otherwise"
    for name, text in answers.constants.items():
        if text != LEFT_OPEN:
            yield _pair(name, text)
        elif name in _WANTED:
            yield f'# {name} = "…"'.ljust(_WIDE) + f"# not known: {_WANTED[name]}"
    for name, values in proposal.values.items():
        yield ""
        yield f"[values.{name}]".ljust(_WIDE) + "# cell = value"
        yield from (_pair(_key(cell), value) for cell, value in values.items())
    for table in proposal.consents:
        yield ""
        yield from _consent(table)


def _consent(table: ConsentTable) -> Iterator[str]:
    yield "[[consent]]"
    no = {
        "withdrawal": "what a no is: they withdraw what they agreed to before",
        "nothing": "what a no is: nothing, what is on record stays",
    }
    yield _pair("purpose", table.purpose)
    told = table.as_written()
    for name in ("column", "true", "false", "nothing", "no", "given_at", "withdrawn_at"):
        value = told.get(name)
        if value is None or (name == "nothing" and not value):
            continue
        comment = no.get(str(value), "") if name == "no" else _MEANING.get(name, "")
        yield _pair(name, list(value) if isinstance(value, tuple) else value, comment)


def _pair(key: str, value: object, comment: str = "") -> str:
    line = f"{key} = {_text(value)}"
    return f"{line.ljust(_WIDE - 1)} # {comment}" if comment else line


def _key(name: str) -> str:
    bare = named(name)
    return name if bare == name else _text(name)


def _text(value: object) -> str:
    return str(tomlkit.item(value).as_string())
