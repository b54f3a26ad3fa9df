"""A document in Markdown or as one HTML page that needs nothing else."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from smtpproxy.locale.pages import environment
from smtpproxy.locale.texts import Lang

_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~!])")


@dataclass(frozen=True, slots=True)
class Heading:
    kind: ClassVar[str] = "heading"
    text: str
    level: int = 2


@dataclass(frozen=True, slots=True)
class Paragraph:
    kind: ClassVar[str] = "paragraph"
    text: str


@dataclass(frozen=True, slots=True)
class Facts:
    """Names and values."""

    kind: ClassVar[str] = "facts"
    rows: Sequence[tuple[str, str]]


Cell: TypeAlias = tuple[str, ...]
"""Its lines: the first is what it says, the others are less important."""


@dataclass(frozen=True, slots=True)
class Table:
    kind: ClassVar[str] = "table"
    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]


Block: TypeAlias = Heading | Paragraph | Facts | Table


def markdown(blocks: Sequence[Block], lang: Lang) -> str:
    """Return the document in Markdown, tables as GitHub and Pandoc read them."""
    made = environment(lang).overlay(autoescape=False)
    made.filters["plain"] = _plain
    return made.get_template("evidence.md").render(blocks=blocks)


def html(blocks: Sequence[Block], lang: Lang) -> str:
    """Return the document as a page of its own: no script, no link, fit for paper and phones."""
    made = environment(lang)
    made.filters["longest_word"] = _longest_word
    return made.get_template("evidence.html").render(blocks=blocks)


def _plain(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", text)


def _longest_word(text: str) -> int:
    return max(map(len, text.split()), default=0)
