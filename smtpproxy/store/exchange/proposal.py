"""What a table nobody has described may mean: a mapping that is proposed, and what to ask."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from typing import Literal

from smtpproxy import toml
from smtpproxy.store.exchange.consent_columns import ConsentTable
from smtpproxy.store.exchange.look import plain

LEFT_OPEN = "?"
"""A constant that its user does not know: it is not written."""


@dataclass(frozen=True, slots=True)
class Known:
    """What the configuration says of streams."""

    purposes: tuple[str, ...]
    brands: tuple[str, ...]
    methods: tuple[str, ...]  # that prove something


@dataclass(frozen=True, slots=True)
class Answers:
    """What the user said: each is an option of the command. Columns are by their keys."""

    columns: Mapping[str, str] = field(default_factory=dict)  # column to field, or none
    consents: Mapping[str, str] = field(default_factory=dict)  # column to purpose, or none
    given_at: str | None = None
    withdrawn_at: str | None = None
    true: tuple[str, ...] = ()
    false: tuple[str, ...] = ()
    nothing: tuple[str, ...] = ()
    no: Literal["withdrawal", "nothing"] | None = None
    time_format: str | None = None
    time_zone: str | None = None
    constants: Mapping[str, str] = field(default_factory=dict)

    def with_constant(self, name: str, text: str) -> "Answers":
        return replace(self, constants={**self.constants, name: text})


@dataclass(frozen=True, slots=True)
class Question:
    """What only the user can know, and the option that says it too."""

    text: str
    option: str
    answered: Callable[[str], Answers]
    choices: tuple[str, ...] = ()
    default: str | None = None  # what is proposed
    may_stay_open: bool = False
    check: Callable[[str], object] | None = None  # raises ValueError; None: one of the choices


@dataclass(frozen=True, slots=True)
class Proposal:
    columns: Mapping[str, str]  # column, as it is written, to field
    consents: tuple[ConsentTable, ...]
    values: Mapping[str, Mapping[str, str]]
    time_format: str | None
    questions: tuple[Question, ...]
    notes: tuple[str, ...]


NONE = "none"
"""What a column is that is not read."""


@cache
def words(table: str) -> Mapping[str, frozenset[str]]:
    """Return the names of columns, or of cells, that a field has, or words by what they say."""
    folder = resources.files("smtpproxy.store.exchange")
    document = toml.loads(folder.joinpath("columns.toml").read_text("utf-8"))
    return {name: frozenset(texts) for name, texts in document[table].items()}


def fitting(header: str, names: Iterable[str]) -> dict[str, int]:
    """Return how long a name of each field is that the header has; only those that it has."""
    text = f" {plain(header)} "
    found = {
        name: max((len(one) for one in words("names")[name] if f" {one} " in text), default=0)
        for name in names
    }
    return {name: length for name, length in found.items() if length}


def begins(header: str, kind: Literal["out", "refusal", "mail"]) -> bool:
    """Whether a word of a header begins like one that says no, or is about being reached."""
    beginnings = tuple(words("words")[kind])
    return any(word.startswith(beginnings) for word in plain(header).split())


def unexplained(header: str, purposes: Iterable[str]) -> bool:
    """Whether a header says more than that people agreed, and to which of the purposes."""
    names = words("names")
    known = {word for name in _AGREED for text in names[name] for word in text.split()}
    known |= {word for one in purposes for word in plain(one).split()}
    return not set(plain(header).split()) <= known | words("words")["passing"]


_AGREED = ("opt_in", "given_at", "signed_up_at")


def longest(found: Mapping[str, int]) -> str | None:
    return max(found, key=lambda name: found[name]) if found else None
