"""A proposed mapping for a table without one, and the questions to its user."""

from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from smtpproxy.store.exchange.consent_columns import ConsentTable
from smtpproxy.store.exchange.look import TableLook, plain_words, words

LEFT_OPEN = "?"
"""A constant that its user does not know, and that is not written."""


class Known(Struct, frozen=True):
    """What the configuration has."""

    purposes: tuple[str, ...]
    brands: tuple[str, ...]
    methods: tuple[str, ...]  # those that prove a consent


class Answers(Struct, frozen=True):
    """The user's answers, each also an option of the command. Columns are by key."""

    columns: Mapping[str, str] = {}  # column to field, or none
    consents: Mapping[str, str] = {}  # column to purpose, or none
    given_at: str | None = None
    withdrawn_at: str | None = None
    true: tuple[str, ...] = ()
    false: tuple[str, ...] = ()
    nothing: tuple[str, ...] = ()
    no: Literal["withdrawal", "nothing"] | None = None
    time_format: str | None = None
    time_zone: str | None = None
    constants: Mapping[str, str] = {}

    def with_constant(self, name: str, text: str) -> "Answers":
        return replace(self, constants={**self.constants, name: text})


class Question(Struct, frozen=True):
    """A question only the user can answer, and the option with the same effect."""

    text: str
    option: str
    answered: Callable[[str], Answers]
    choices: tuple[str, ...] = ()
    default: str | None = None  # what is proposed
    may_stay_open: bool = False
    check: Callable[[str], object] | None = None  # raises ValueError; None: one of the choices


class Proposal(Struct, frozen=True):
    columns: Mapping[str, str]  # column, as in the header, to field
    consents: tuple[ConsentTable, ...]
    values: Mapping[str, Mapping[str, str]]
    time_format: str | None
    questions: tuple[Question, ...]
    notes: tuple[str, ...]


NONE = "none"
"""The field of a column that is not read."""


def fitting(header: str, names: Iterable[str]) -> dict[str, int]:
    """Return the fields with a name that the header contains, and the length of the longest."""
    text = f" {plain_words(header)} "
    found = {
        name: max((len(one) for one in words("names")[name] if f" {one} " in text), default=0)
        for name in names
    }
    return {name: length for name, length in found.items() if length}


def is_title(look: TableLook) -> bool:
    """Whether a row below the first names a column of addresses, and the first does not."""
    names = [one.name for one in look.columns]
    first, below = (any(fitting(cell, ["address"]) for cell in row) for row in (names, look.above))
    return below and not first


def begins(header: str, kind: Literal["refusal", "mail"]) -> bool:
    """Whether a word of a header begins with one of the prefixes of that kind."""
    beginnings = tuple(words("words")[kind])
    return any(word.startswith(beginnings) for word in plain_words(header).split())


def has_part(text: str, kind: Literal["out", "unmailable"]) -> bool:
    """Whether a word of a header or a cell, such as HASOPTEDOUTOFEMAIL, has one of these parts."""
    parts = words("words")[kind]
    return any(part in word for word in plain_words(text).split() for part in parts)


def is_state(header: str) -> bool:
    """Whether a column, by its name, says how things stand with a subscriber."""
    found = set(plain_words(header).split())
    states = words("words")["state"]
    return bool(found & states) and found <= states | words("words")["state_of"]


def unexplained(header: str, purposes: Iterable[str]) -> bool:
    """Whether a header has words that are not about agreeing, nor names of the purposes."""
    names = words("names")
    known = {word for name in _AGREED for text in names[name] for word in text.split()}
    known |= {word for one in purposes for word in plain_words(one).split()}
    return not set(plain_words(header).split()) <= known | words("words")["passing"]


_AGREED = ("opt_in", "given_at", "signed_up_at")


def longest(found: Mapping[str, int]) -> str | None:
    return max(found, key=lambda name: found[name]) if found else None
