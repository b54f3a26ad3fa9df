"""The text of HTML that people see, and its links.

HTML is read in one pass and never causes an error. This is not a renderer: style sheets are not
applied. Whatever is hidden by the element itself (`hidden`, `display:none`, `visibility:hidden`,
`opacity:0`, `max-height:0`) is not shown, nor is the head, nor text in a font of size 0: templates
(MJML) set that around every column, and a size again within.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate

from msgspec import Struct

from smtpproxy.mail.html_styles import font_size, hides, style_of
from smtpproxy.mail.html_syntax import COMMENT_END, attributes_of, plain_of

_UNSEEN = frozenset({"script", "style", "title", "template", "noscript", "textarea"})
_RAW_END = {
    name: re.compile(f"</{name}", re.IGNORECASE)
    for name in ("script", "style", "title", "textarea")  # what looks like a tag inside is not one
}
_VOID = frozenset(
    {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "wbr"}
)
_BREAKING = frozenset(
    {
        *("address", "article", "aside", "blockquote", "body", "br", "caption", "center", "dd"),
        *("details", "dialog", "dir", "div", "dl", "dt", "fieldset", "figcaption", "figure"),
        *("footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hgroup", "hr", "html"),
        *("legend", "li", "listing", "main", "menu", "nav", "ol", "p", "plaintext", "pre"),
        *("search", "section", "summary", "table", "tbody", "td", "tfoot", "th", "thead", "tr"),
        *("ul", "xmp", "area", "audio", "button", "embed", "head", "iframe", "img", "input"),
        *("link", "meta", "noscript", "object", "optgroup", "option", "script", "select", "source"),
        *("style", "template", "textarea", "title", "video"),
    }
)
"""What separates words: it has lines, a cell or a box of its own, or shows no text. Whatever else
there is, is within a line, unknown elements (`st1:City` of Word) too."""
# The usual form of a tag; there is no backtracking, so that no octet is read twice.
_TAG = re.compile(
    r"""<(/?)([a-zA-Z][a-zA-Z0-9]{0,15}+)(?=[\s/>])"""
    r"""([^<>"']*+(?>(?:"[^"<>]*+"[^<>"']*+|'[^'<>]*+'[^<>"']*+){0,999}))>"""
)
# Any other, as HTML 5 reads it: a quote counts only after a =.
_REST = re.compile(r"""(?>(?:[^>=]++|=\s*+(?:"[^"]*+"|'[^']*+'|(?!["'])[^\s>]*+))*)>""")
_NAME = re.compile(r"/?([a-zA-Z][^\s/>]{0,30})")
_LINKING = frozenset({"a", "area", "img"})
_SIDES, _NO_SIZE = ("width", "height"), frozenset({"0", "1"})
_MOST_SIZES = 1_000  # nested font sizes
_MAX_TAGS = 20_000  # later ones are ignored
_LONGEST_TAG = 16_384  # characters; attributes after that are ignored
_MAX_OPEN = 100  # tags with a quote that is never closed, or not soon


class Way(Struct, frozen=True):
    """A link, or an address written out: `target` is where it leads, empty if nowhere.

    `start` and `end` are its places in a text, and `line` those of its block or line. `alt` is what
    the pictures in it say, None if it shows neither text nor pictures.
    """

    target: str
    start: int
    end: int
    line: tuple[int, int]
    alt: str | None = ""
    is_address: bool = False

    def at(self, place: Callable[[int], int]) -> "Way":
        """The same in another text, where each place is another."""
        line = place(self.line[0]), place(self.line[1])
        start, end = place(self.start), place(self.end)
        return Way(self.target, start, end, line, self.alt, self.is_address)


class VisibleHtml(Struct, frozen=True):
    """The visible text, its links (`href`) in order, and where its blocks begin and end."""

    text: str
    ways: tuple[Way, ...] = ()
    blocks: tuple[int, ...] = ()


def read_html(source: str) -> VisibleHtml:
    """Return what is visible. Linear in the length of `source`."""
    reader = _Reader(source)
    reader.read()
    reader.end_link()
    pieces = [plain_of(piece) for piece in reader.text]
    places = [0, *accumulate(map(len, pieces))]
    text = "".join(pieces)
    blocks = [*(places[number] for number in reader.breaks), len(text)]
    ways = (
        Way(href, places[start], places[end], block_of(blocks, places[start], places[end]), alt)
        for href, start, end, alt in reader.ways
    )
    return VisibleHtml(text, tuple(ways), tuple(blocks))


def block_of(blocks: Sequence[int], start: int, end: int) -> tuple[int, int]:
    """Where the block from `start` to `end` begins and ends."""
    before, after = bisect_right(blocks, start), bisect_left(blocks, end)
    return blocks[before - 1] if before else 0, blocks[min(after, len(blocks) - 1)]


class _Reader:
    def __init__(self, source: str) -> None:
        self.text: list[str] = []
        self.ways: list[tuple[str, int, int, str | None]] = []  # places in `text`
        self.breaks: list[int] = []  # the same, of what separates blocks
        self._source = source
        self._link: tuple[str, int] | None = None  # that is open, and where it begins
        self._alt: list[str] = []  # of the pictures in it
        self._hidden = ""  # the current hidden element, and
        self._depth = 0  # how many of the same name are open in it
        # Elements with a font size, once there was one of 0: the name, how many of it are open
        # in it, and whether its text has a size.
        self._sizes: list[tuple[str, int, bool]] = []
        self._open_quotes = 0  # tags with a quote that is not closed

    def read(self) -> None:
        source, position = self._source, 0
        for _ in range(_MAX_TAGS):
            start = source.find("<", position)
            if start < 0:
                self._show(source[position:])
                return
            if start > position:
                self._show(source[position:start])
            tag = _TAG.match(source, start)
            if tag is not None:
                closing, name, attributes = tag.groups()
                self._tag(name.lower(), closing == "/", attributes)
                position = tag.end()
            else:
                position = self._unusual(start)
            raw_end = _RAW_END.get(self._hidden)
            if raw_end is not None and position >= 0:
                end = raw_end.search(source, position)
                position = -1 if end is None else end.start()
            if position < 0:
                return

    def _unusual(self, start: int) -> int:
        """Read what a < begins that is not a usual tag; return where it ends, or -1 for never."""
        source = self._source
        if source.startswith("<!--", start):
            comment = COMMENT_END.search(source, start)  # <!--> is a comment, too
            return -1 if comment is None else comment.end()
        name = _NAME.match(source, start + 1)
        if name is None and source[start + 1 : start + 2] not in ("!", "?", "/"):
            self._show("<")
            return start + 1
        end = source.find(">", start) if name is None else self._end_of_tag(start)
        if end < 0:
            return -1
        if name is not None:
            cut = min(end, start + _LONGEST_TAG)
            self._tag(name[1].lower(), source[start + 1] == "/", source[name.end() : cut])
        return end + 1

    def _show(self, text: str) -> None:
        if self._hidden or (self._sizes and not self._sizes[-1][2]):
            return
        self.text.append(text)

    def _end_of_tag(self, start: int) -> int:
        """Where its > is; one between quotes does not end it, unless they are never closed."""
        if self._open_quotes < _MAX_OPEN:
            end = _REST.match(self._source, start + 1, start + 4 * _LONGEST_TAG)
            if end is not None:
                return end.end() - 1
            self._open_quotes += 1
        return self._source.find(">", start)

    def _tag(self, name: str, closing: bool, attributes: str) -> None:
        if self._hidden:
            self._in_hidden(name, closing)
            return
        if name in _BREAKING:
            self.breaks.append(len(self.text))
            self.text.append("\n")
        if closing:
            if name == "a":
                self.end_link()
            if self._sizes and self._sizes[-1][0] == name:
                self._end_of_size(name)
            return
        style = style_of(attributes) if attributes and name not in _VOID else ""
        if name in _UNSEEN or (style and hides(style)):
            self._hidden, self._depth = name, 1
            return
        if style or self._sizes:
            self._size(name, style)
        if name in _LINKING and not (self._sizes and not self._sizes[-1][2]):
            self._part_of_link(name, attributes)

    def _part_of_link(self, name: str, tag: str) -> None:
        """Note a link, or a picture in one."""
        if name == "img" and self._link is None:
            return
        attributes = attributes_of(tag)
        if name == "img":
            if not hides(style_of(tag)) and _NO_SIZE.isdisjoint(map(attributes.get, _SIDES)):
                self._alt.append(attributes.get("alt", ""))
            return
        self.end_link()
        if "href" in attributes or ("name" not in attributes and "id" not in attributes):
            self._link = plain_of(attributes.get("href", "")).strip(), len(self.text)
        if name == "area":
            self._alt.append(attributes.get("alt", ""))
            self.end_link()

    def end_link(self) -> None:
        if self._link is not None:
            shows = self._alt or any(map(str.strip, self.text[self._link[1] :]))
            alt = plain_of(" ".join(self._alt)) if shows else None
            self.ways.append((*self._link, len(self.text), alt))
        self._link, self._alt = None, []

    def _size(self, name: str, style: str) -> None:
        """Note the font size of an element; most mail has none of 0, so that nothing is noted."""
        size, sizes = font_size(style), self._sizes
        if sizes and sizes[-1][0] == name:
            if name == "p":
                sizes.pop()  # a p ends where another begins
            elif size is None:
                sizes[-1] = (name, sizes[-1][1] + 1, sizes[-1][2])
        if (size is False or (sizes and size)) and len(sizes) < _MOST_SIZES:
            sizes.append((name, 1, size))

    def _end_of_size(self, name: str) -> None:
        _, count, has_size = self._sizes.pop()
        if count > 1:
            self._sizes.append((name, count - 1, has_size))

    def _in_hidden(self, name: str, closing: bool) -> None:
        if name == self._hidden:
            self._depth += -1 if closing or name == "p" else 1  # a p ends where another begins
            if self._depth <= 0:
                self._hidden = ""
