"""Writes a document as Markdown or one self-contained HTML page, and the parts that every one has:
what a person must be told besides their data (GDPR 15(1) and (2)): who processes it, why and how
long."""

import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import ClassVar, TypeAlias

from msgspec import Struct

from smtpproxy.events import Decided
from smtpproxy.locale import Lang, Phrase, Value, has_words, recognised, say, texts
from smtpproxy.locale.pages import environment
from smtpproxy.policy.model import EVERY_PURPOSE, ConsentAct, Source
from smtpproxy.policy.periods import Period
from smtpproxy.settings import BrandSettings, ControllerSettings, RetentionSettings
from smtpproxy.sinks.audit.chain import Kind, Report
from smtpproxy.store.journals import IndexRow
from smtpproxy.terminal import printable

_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~!])")


class Heading(Struct, frozen=True):
    kind: ClassVar[str] = "heading"
    text: str
    level: int = 2


class Paragraph(Struct, frozen=True):
    kind: ClassVar[str] = "paragraph"
    text: str


class Facts(Struct, frozen=True):
    """Names and values."""

    kind: ClassVar[str] = "facts"
    rows: Sequence[tuple[str, str]]


Cell: TypeAlias = tuple[str, ...]
"""The lines of a cell: the first is its main text, the others are less important."""


class Table(Struct, frozen=True):
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
    """Return the document as a page: no script, no link, suitable for paper and phones."""
    made = environment(lang)
    made.filters["longest_word"] = _longest_word
    return made.get_template("evidence.html").render(blocks=blocks)


def _plain(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", text)


def _longest_word(text: str) -> int:
    return max(map(len, text.split()), default=0)


def controller(
    of: ControllerSettings, brands: Sequence[BrandSettings], lang: Lang
) -> Iterator[Block]:
    """Yield who processes the data, for what, and who else receives it."""
    separator = _say("separator", lang)
    rows = [
        ("controller_name", printable(of.name)),
        ("controller_address", printable(of.address)),
        ("controller_contact", printable(of.contact)),
        ("officer", printable(of.officer or "")),
        ("purposes", separator.join(map(printable, of.purposes))),
        ("recipients", separator.join(map(printable, of.recipients))),
        ("transfers", printable(of.transfers or "")),
    ]
    yield Heading(_say("controller", lang))
    facts = [(_say(name, lang), text) for name, text in rows if text]
    for brand in brands:
        who = printable(f"{brand.legal_name}, {brand.address}")
        if brand.title != brand.legal_name:
            title = printable(brand.title or brand.name)
            who = _say("brand_title", lang, title=title, who=who)
        facts.append((_say("brand_named", lang, brand=brand.name), who))
    yield Facts(facts)


def channel(name: str, lang: Lang) -> str:
    """Return the name of a channel; files may name unknown ones."""
    key = f"channel.{name}"
    return _say(key, lang) if has_words(f"evidence.{key}") else printable(name)


def purpose(act: ConsentAct, lang: Lang) -> str:
    """Return what an act is about, with the brand that it names."""
    name = texts(lang).term("marketing") if act.purpose == EVERY_PURPOSE else act.purpose
    return printable(f"{name} ({act.brand})" if act.brand else name)


def collection(name: str, lang: Lang) -> str:
    """Return the name of a collection, `purchased: List Ltd`, with its source in words."""
    source, _, suppliers = name.partition(": ")
    if source not in list(Source):
        return printable(name)
    word = texts(lang).term(source)
    return _say("named", lang, name=word, text=printable(suppliers)) if suppliers else word


def subject(of: Decided, reports_to: Sequence[str], lang: Lang) -> Cell:
    """Return the subject of a message, with where it says the address comes from, and who learns
    that it is opened."""
    announced = of.features.source_statement if of.features else None
    lines = [printable(of.subject or "–")]
    if announced:
        lines.append(_say("source_announced", lang, text=printable(announced)))
    if reports_to:
        lines.append(_say("tracked", lang, hosts=printable(", ".join(reports_to))))
    return tuple(lines)


def motive(note: str | None, lang: Lang) -> str:
    """Return the note on an order not to mail, or a reason; free text stays as it is."""
    if not note:
        return "–"
    found = recognised("evidence.motive", printable(note))
    return say(found, lang) if isinstance(found, Phrase) else printable(note)


def findings(of: Report, lang: Lang) -> Iterator[Block]:
    """Yield anomalies of the record. Rows that no anchor seals yet are only counted."""
    for one in of.findings:
        if one.kind is Kind.UNPROVEN:
            continue
        where = printable(one.file)
        if one.line is not None:
            where = _say("place_text", lang, file=where, row=str(one.line))
        kind = _say(f"finding.{one.kind}", lang)
        yield Paragraph(_say("found", lang, kind=kind, where=where, what=printable(one.what)))


def retention(of: RetentionSettings, lang: Lang) -> Iterator[Block]:
    """Yield how long data is kept."""
    rows = (
        ("prospects", of.prospects),
        ("customers", of.customers),
        ("suppressions", of.suppressions),
        ("lifted", of.lifted_suppressions),
        ("audit", of.audit),
        ("reports", of.reports),
    )
    yield Heading(_say("keep", lang))
    yield Facts([(_say(f"keep_{name}", lang), _kept(name, period, lang)) for name, period in rows])


def _kept(name: str, period: Period | None, lang: Lang) -> str:
    if period is None:
        return _say("keep_for_ever", lang)
    return _say(f"keep_{name}_text", lang, period=period)


def of_others(rows: Sequence[IndexRow], since: datetime | None, lang: Lang) -> Iterator[Block]:
    """Yield what the index knows about decisions of other relays; `since`: none older."""
    if rows:
        relays = ", ".join(sorted({one.host for one in rows}))
        yield Paragraph(_say("elsewhere", lang, count=len(rows), relays=relays))
    if since is not None:
        yield Paragraph(_say("elsewhere_since", lang, since=since))


def rights(of: ControllerSettings, lang: Lang) -> Iterator[Block]:
    """Yield the person's rights, and where they may complain."""
    yield Heading(_say("rights", lang))
    yield Paragraph(_say("rights_text", lang, contact=printable(of.contact)))
    yield Paragraph(_say("complaint", lang, authority=printable(of.authority)))
    yield Paragraph(_say("automated", lang))


def _say(key: str, lang: Lang, **values: Value) -> str:
    return say(Phrase(f"evidence.{key}", values), lang)
