"""A message's text as people see it, in the part that most see, folded for comparison."""

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator, Sequence

from msgspec import Struct
from msgspec.structs import replace

from smtpproxy.mail.mime import Body, TextPart
from smtpproxy.mail.unsubscribe import placeholder_end
from smtpproxy.mail.visible_html import Way, block_of, read_html


class VisibleText(Struct, frozen=True):
    """`text` is folded (see `folded`); `links` are URIs as written, in order; `ways` are where in
    `text` these are, the addresses written out, and the links that lead nowhere.

    `whole`: nothing that may have been text was left out. `malformed`: why a reader may see another
    text; `unclear`: why a reader may see less. `broken`: the links and addresses that MTAs break,
    in long lines.
    """

    text: str
    links: tuple[str, ...]
    whole: bool = True
    malformed: str | None = None
    unclear: str | None = None
    broken: frozenset[str] = frozenset()
    ways: tuple[Way, ...] = ()

    def delivered(self, later: "VisibleText") -> "VisibleText":
        """Note what is broken in the text as MTAs deliver it."""
        return replace(self, broken=self._targets() - later._targets())

    def _targets(self) -> frozenset[str]:
        return frozenset((*self.links, *(way.target for way in self.ways)))

    def unbroken(self) -> "VisibleText":
        """The same without broken links and addresses."""
        if not self.broken:
            return self
        return replace(
            self,
            links=tuple(each for each in self.links if each not in self.broken),
            ways=tuple(each for each in self.ways if each.target not in self.broken),
        )


_URI = re.compile(r"(?:https?://|mailto:)[^\s<>\"]{1,2000}", re.IGNORECASE)
_LINE_END = re.compile("\n")
_OPENING = re.compile(r"[{\[]|\*\||<[%?]")  # of a placeholder that is lost in part
_AFTER_URI = ".,;:!?)]}'*_"
_INVISIBLE = (
    "\u00ad\u034f\u180e\u200b\u200c\u200d\u2060\u2061\u2062\u2063\u2064\ufeff"
    "\u115f\u1160\u2800\u3164\uffa0"  # blanks
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # of direction
)
_AROUND = r"\s<>@\"'’‘“”„(),;:\[\]«»‹›…·•"  # what stands around an address, not in it
_ADDRESS = re.compile(rf"(?<![^{_AROUND}])[^{_AROUND}]++@[^{_AROUND}|/{{}}*!?]{{1,255}}")
_BEFORE_ADDRESS = "*|/{=-–—→"
_AFTER_ADDRESS = "._-–—"
_STYLED = (*range(0xFF01, 0xFF5F), *range(0x1D400, 0x1D800))  # full-width; bold, italic, double


_NOTHING_SEEN = dict.fromkeys(map(ord, _INVISIBLE))


def _base_letters() -> dict[int, str | None]:
    """Maps accented letters and typographic marks to plain ones, and accents and invisible
    characters to nothing."""
    table: dict[int, str | None] = dict.fromkeys(range(0x300, 0x370))
    table |= _NOTHING_SEEN
    for code in (*range(0xC0, 0x250), *range(0x1E00, 0x1F00)):
        base = unicodedata.normalize("NFD", chr(code))[0]
        if ord(base) != code:
            table[code] = base
    for code in _STYLED:
        table[code] = unicodedata.normalize("NFKC", chr(code))[0]
    for plain, marks in (("'", "’‘"), ('"', "“”„"), ("-", "‐‑–—")):
        table |= dict.fromkeys(map(ord, marks), plain)
    return table


_BASE = _base_letters()


def folded(text: str) -> str:
    """Return text without case, accents, typography, invisible characters and runs of white space.

    It uses no normalisation form, which would take quadratic time on hostile text.
    """
    if not text.isascii():
        text = text.translate(_BASE)
    return " ".join(text.casefold().split())


def _without_marks(found: str) -> str:
    """Return a link without final punctuation, except `_`, which may belong to a token."""
    link = found.rstrip(_AFTER_URI)
    behind = found[len(link) :]
    return link + "_" * (len(behind) - len(behind.lstrip("_")))


def _written(text: str, blocks: Sequence[int]) -> Iterator[Way]:
    """The URIs and addresses in a text, the latter as they are, since other accents make another
    address."""
    for found in _URI.finditer(text):
        start, end = found.span()
        target = _without_marks(found[0])
        if _OPENING.search(text, start, end + 2) and (cut := placeholder_end(text, start, end)):
            target = text[start : max(cut, end)]
        yield Way(target, start, end, block_of(blocks, start, end))
    if "@" in text:
        for found in _ADDRESS.finditer(text):
            plain = found[0].translate(_NOTHING_SEEN)
            address = plain.lstrip(_BEFORE_ADDRESS).rstrip(_AFTER_ADDRESS).lower()
            yield Way(address, *found.span(), block_of(blocks, *found.span()), is_address=True)


class _Part(Struct, frozen=True):
    """What is seen in a part; `written` are the URIs and addresses in `text`."""

    text: str
    marked: Sequence[Way]
    written: Sequence[Way]

    def folded(self, offset: int) -> tuple[str, list[Way]]:
        """The folded text, and the places of its links there, `offset` before them."""
        starts = [way.start for way in self.marked]
        alone = (way for way in self.written if not self._covers(way, starts))
        ways = sorted((*self.marked, *alone), key=lambda way: way.start)
        places: dict[int, int] = {}
        pieces: list[str] = []
        size, begin = offset, 0
        marks = {place for way in ways for place in (way.start, way.end, *way.line)}
        for end in sorted(marks | {len(self.text)}):
            piece = folded(f"|{self.text[begin:end]}|")[1:-1]  # the bars keep the spaces
            if piece.startswith(" ") and (not pieces or pieces[-1].endswith(" ")):
                piece = piece[1:]
            if piece:
                pieces.append(piece)
            size += len(piece)
            places[end] = size
            begin = end
        return "".join(pieces).rstrip(), [way.at(places.__getitem__) for way in ways]

    def _covers(self, written: Way, starts: Sequence[int]) -> bool:
        """Whether a URI or address is the text of a link, which then says where it leads."""
        before = bisect_right(starts, written.start)
        return before > 0 and self.marked[before - 1].end > written.start


def _read(part: TextPart) -> _Part:
    if part.plain:
        text = part.text
        lines = [*(found.start() for found in _LINE_END.finditer(text)), len(text)]
        return _Part(text, (), tuple(_written(text, lines)))
    html = read_html(part.text)
    return _Part(html.text, html.ways, tuple(_written(html.text, html.blocks)))


def visible_text(body: Body) -> VisibleText:
    """Return what most readers see."""
    texts: list[str] = []
    ways: list[Way] = []
    parts = [_read(part) for part in body.parts if part.shown]
    size = 0
    for part in parts:
        text, found = part.folded(size)
        ways += found
        if text:
            texts.append(text)
            size += len(text) + 1
    written = [way for part in parts for way in part.written]
    marked = [way for part in parts for way in part.marked if way.target]
    return VisibleText(
        " ".join(texts),
        tuple(way.target for way in (*marked, *written) if not way.is_address),
        body.whole,
        body.malformed,
        body.unclear,
        ways=tuple(ways),
    )
