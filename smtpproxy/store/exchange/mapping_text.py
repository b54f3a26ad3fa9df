"""Writing a mapping file for people: TOML with comments."""

from collections.abc import Iterable, Iterator, Sequence

import tomlkit

from smtpproxy.policy.model import EVERY_PURPOSE
from smtpproxy.store.exchange.consent_columns import ConsentTable
from smtpproxy.store.exchange.encodings import GUESSED
from smtpproxy.store.exchange.look import TableLook
from smtpproxy.store.exchange.proposal import LEFT_OPEN, Answers, Proposal
from smtpproxy.toml import named

_WANTED = {
    "source": "how the addresses were obtained; without it their origin is unknown",
    "consent_method": "how they agreed; without it no consent is proven",
    "consent_wording": "what they agreed to; without it no consent is proven",
    "consent_form": "where they agreed",
    "brand": "whom they dealt with; without it nobody may be mailed while there are several brands",
}
_MEANING = {
    "true": "cells that mean yes",
    "false": "cells that mean no",
    "nothing": "cells that say nothing",
    "given_at": "when they agreed; without it a row is rejected",
    "withdrawn_at": "when they withdrew",
}
_WIDE = 44  # where comments begin


def mapping_lines(
    proposal: Proposal,
    answers: Answers,
    head: Iterable[str],
    unread: Sequence[str],
    look: TableLook,
) -> Iterator[str]:
    """Yield the lines of the file. `head` are those of its first comment, `unread` the columns left
    out."""
    yield from (f"# {line}" for line in head)
    yield ""
    if look.encoding == GUESSED:
        yield _pair("# encoding", GUESSED, "a guess; uncomment it if it is right")
    if look.delimiter not in (None, ","):
        yield _pair("delimiter", look.delimiter)
    if proposal.time_format:
        yield _pair("time_format", proposal.time_format)
    if answers.time_zone:
        yield _pair("time_zone", answers.time_zone, "of times without one")
    yield ""
    yield "[columns]                                   # column = field"
    for column, field in proposal.columns.items():
        yield _pair(_key(column), field)
    if unread:
        yield f"# not read: {', '.join(map(_text, unread))}"
    yield ""
    yield "[constants]                                 # in every row without a value of its own"
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
        "withdrawal": "a no withdraws an earlier consent",
        "nothing": "a no means nothing, and changes nothing",
    }
    is_of_all = table.purpose == EVERY_PURPOSE
    yield _pair("purpose", table.purpose, "a refusal of all marketing, whatever comes" * is_of_all)
    written = table.as_written()
    for name in ("column", "true", "false", "nothing", "no", "given_at", "withdrawn_at"):
        value = written.get(name)
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
