"""A message's text as people see it, in the part that most see, folded for comparison.

HTML is read in one pass and never causes an error. This is not a renderer: style sheets are not
applied. Whatever is hidden by the element itself (`hidden`, `display:none`, `visibility:hidden`,
`opacity:0`, `max-height:0`) is not shown, nor is the head, nor text in a font of size 0: templates
(MJML) set that around every column, and a size again within.
"""

import re
import unicodedata

from msgspec import Struct
from msgspec.structs import replace

from smtpproxy.mail.html_syntax import COMMENT_END, attributes_of, plain_of
from smtpproxy.mail.mime import Body

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
_HIDING = re.compile(
    r"display\s*+:\s*+none|visibility\s*+:\s*+(?:hidden|collapse)"
    r"|(?:opacity|max-height)\s*+:\s*+[0.]",
    re.IGNORECASE,
)
_DECLARATION = re.compile(r"(?<![a-z-])([a-z-]{1,30}+)\s*+:([^;]{0,200}+)", re.IGNORECASE)
_CSS_COMMENT = re.compile(r"/\*.*?(?:\*/|\Z)", re.DOTALL)
_FONT = re.compile(r"(?<![a-z-])font(-size)?\s*+:\s*+([^;!]{0,99})", re.IGNORECASE)
_LENGTH = re.compile(r"(?<!\S)[0-9.][^\s/]{0,20}")  # the first of `font` is the size
_ZERO = re.compile(r"0{0,9}\.?0{1,9}(?:[a-z]{1,4}|%)?")
_NOTHING = re.compile(_ZERO.pattern + r"\s*+(?:!|\Z)")
_NUMBER = r"[+-]?(?:[0-9]{1,9}(?:\.[0-9]{1,9})?|\.[0-9]{1,9})"
_UNIT = r"(?:px|pt|r?em|ex|ch|in|cm|mm|pc|q|v(?:w|h|min|max)|%)"
_SIZE = re.compile(
    rf"{_NUMBER}{_UNIT}?|(?:calc|clamp|min|max)\(.*|x{{0,3}}-?(?:small|large)|medium", re.DOTALL
)
_VALID = {
    name: re.compile(f"(?:{values}|inherit|initial|unset|revert)(?:\\s*+!.*)?", re.DOTALL)
    for name, values in {
        "display": "none|block|contents|flex|flow-root|grid|list-item"
        "|inline(?:-(?:block|flex|grid|table))?"
        "|table(?:-(?:caption|cell|column|row|(?:column|footer|header|row)-group))?",
        "visibility": "visible|hidden|collapse",
        "opacity": f"{_NUMBER}%?",
        "max-height": f"{_NUMBER}{_UNIT}|0|none",
    }.items()
}
"""The properties that may hide, with the values that browsers understand; they ignore others."""
_LIKE_AROUND = re.compile(r".{0,20}(?:(?<!r)em|ex|ch|%)")
_MOST_SIZES = 1_000  # nested font sizes
_MAX_TAGS = 20_000  # later ones are ignored
_LONGEST_TAG = 16_384  # characters; attributes after that are ignored
_MAX_OPEN = 100  # tags with a quote that is never closed, or not soon


class VisibleHtml(Struct, frozen=True):
    """The visible text, and the targets of links (`href`), in order."""

    text: str
    links: tuple[str, ...]


def read_html(source: str) -> VisibleHtml:
    """Return what is visible. Linear in the length of `source`."""
    reader = _Reader(source)
    reader.read()
    return VisibleHtml(plain_of("".join(reader.text)), tuple(reader.links))


class _Reader:
    def __init__(self, source: str) -> None:
        self.text: list[str] = []
        self.links: list[str] = []
        self._source = source
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
            self.text.append("\n")
        if closing:
            if self._sizes and self._sizes[-1][0] == name:
                self._end_of_size(name)
            return
        style = _style(attributes) if attributes and name not in _VOID else ""
        if name in _UNSEEN or (style and _HIDING.search(style) and _hides(style)):
            self._hidden, self._depth = name, 1
            return
        if style or self._sizes:
            self._size(name, style)
        if (name == "a" or name == "area") and not (self._sizes and not self._sizes[-1][2]):
            href = attributes_of(attributes).get("href")
            if href:
                self.links.append(plain_of(href).strip())

    def _size(self, name: str, style: str) -> None:
        """Note the font size of an element; most mail has none of 0, so that nothing is noted."""
        size, sizes = _font_size(style), self._sizes
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


def _style(tag: str) -> str:
    """The style of an element from its attributes, as CSS; `hidden` is one of them."""
    lower = tag.lower()
    if "style" not in lower and "hidden" not in lower:
        return ""
    attributes = attributes_of(tag)
    style = plain_of(attributes.get("style", ""))
    if "/*" in style:
        style = _CSS_COMMENT.sub(" ", style)
    return f"display:none;{style}" if "hidden" in attributes else style  # `style` may show it


def _hides(style: str) -> bool:
    """Whether a style hides its element: the last valid declaration of a property counts."""
    stated: dict[str, str] = {}
    for name, value in _DECLARATION.findall(style):
        name, value = name.lower(), value.strip().lower()
        valid = name in _VALID and _VALID[name].fullmatch(value)
        if valid and ("!" in value or "!" not in stated.get(name, "")):  # !important
            stated[name] = value
    return (
        stated.get("display", "").startswith("none")
        or stated.get("visibility", "").startswith(("hidden", "collapse"))
        or any(_NOTHING.match(stated.get(name, "")) for name in ("opacity", "max-height"))
    )


def _font_size(style: str) -> bool | None:
    """Whether text of this style has a size; None: that of the text around it."""
    has_size = None
    for whole, value in _FONT.findall(style):
        size = value.strip().lower()
        if not whole:  # the shorthand `font`
            length = _LENGTH.search(size)
            size = "" if length is None else length[0]
        if _ZERO.fullmatch(size):
            has_size = False
        elif _SIZE.fullmatch(size) and not _LIKE_AROUND.fullmatch(size):
            has_size = True
    return has_size


class VisibleText(Struct, frozen=True):
    """`text` is folded (see `folded`); `links` are URIs as written, in order; `addresses` those
    written in the text, in lower case.

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
    addresses: tuple[str, ...] = ()

    def delivered(self, later: "VisibleText") -> "VisibleText":
        """Note what is broken in the text as MTAs deliver it."""
        broken = frozenset((*self.links, *self.addresses))
        return replace(self, broken=broken.difference(later.links, later.addresses))

    def unbroken(self) -> "VisibleText":
        """The same without broken links and addresses."""
        if not self.broken:
            return self
        return replace(
            self,
            links=tuple(each for each in self.links if each not in self.broken),
            addresses=tuple(each for each in self.addresses if each not in self.broken),
        )


_URI = re.compile(r"(?:https?://|mailto:)[^\s<>\"]{1,2000}", re.IGNORECASE)
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


def _addresses(text: str) -> tuple[str, ...]:
    """Return the addresses in a text as they are, since other accents make another address."""
    if "@" not in text:
        return ()
    return tuple(
        each.translate(_NOTHING_SEEN).lstrip(_BEFORE_ADDRESS).rstrip(_AFTER_ADDRESS).lower()
        for each in _ADDRESS.findall(text)
    )


def visible_text(body: Body) -> VisibleText:
    """Return what most readers see."""
    texts: list[str] = []
    links: list[str] = []
    for part in body.parts:
        if not part.shown:
            continue
        if part.plain:
            texts.append(part.text)
            continue
        read = read_html(part.text)
        texts.append(read.text)
        links += read.links
    text = "\n".join(texts)
    links += map(_without_marks, _URI.findall(text))
    return VisibleText(
        folded(text),
        tuple(links),
        body.whole,
        body.malformed,
        body.unclear,
        addresses=_addresses(text),
    )
