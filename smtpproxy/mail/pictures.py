"""The pictures that HTML loads when it is displayed, and the position of each in the source.

Tags are read as HTML 5 reads them (WHATWG HTML 13.2.5), so that nothing in a comment, a style sheet
or an attribute's value counts as a picture or hides one. Only ASCII matters, and no character is
read twice.
"""

import re
from collections.abc import Iterator, Mapping

from msgspec import Struct

from smtpproxy.mail.html_syntax import ATTRIBUTE, COMMENT_END, attributes_of, plain_of

_UNSHOWN = ("style", "script", "title", "textarea", "template")
_PICTURES = frozenset(
    {
        *("img", "image", "input", "source"),
        *("amp-img", "amp-anim"),  # AMP
        *("v:fill", "v:image", "v:imagedata"),  # Outlook
    }
)
# Text and irrelevant tags are skipped, many at once. There is no backtracking.
_SAYING = "|".join((*_UNSHOWN, *_PICTURES))
_DULL = re.compile(rf"""(?>(?:[^<]++|</?+(?!(?:{_SAYING})[\s/>])[a-z][^<>=]*+>){{0,999}})""", re.I)
_START = re.compile(r"<(?:(!--)|([!?])|/?+([a-z][^\s/>]{0,30}+))", re.I)
_CLOSING = {name: re.compile(f"</{name}", re.I) for name in _UNSHOWN}
_REST = re.compile(r"""((?>(?:[^>=]++|=\s*+(?:"[^"]*+"|'[^']*+'|(?!["'])[^\s>]*+))*))>""")
_NEVER_CLOSED = re.compile(r"""=\s*+(?:"[^"<]*+<[^"]*+(?<==)"|'[^'<]*+<[^']*+(?<==)')""")
"""A value that ends where the next one begins, with a tag in it."""
_IN_STYLE = re.compile(r"url\(\s*+([^)]{1,4096}+)\)", re.I)
# The end is matched too: a failure there would be retried from each space before it.
_CANDIDATE = re.compile(r"[\s,]*+(?:\Z|(\S++)(?:(?<=,)|[^,]*+))")
_MAX_CANDIDATES = 20  # of a srcset
_MAX_TAGS = 50_000  # later ones are ignored
_MAX_ODD = 100  # tags with unpaired quotes
_LONGEST_TAG = 8_192  # characters


class Picture(Struct, frozen=True):
    """A picture, with the addresses that it may be loaded from, as written.

    `start` and `end` are those of its tag; for a `background` those of the address, and the
    attributes are those of its element. `closed`: the tag has an end. `commented`: it is within a
    conditional comment, which programs other than Outlook end at the next `-->`.
    """

    urls: tuple[str, ...]
    attributes: Mapping[str, str]
    start: int
    end: int
    background: bool = False
    closed: bool = True
    commented: bool = False


def pictures(source: str) -> Iterator[Picture]:
    """Yield the pictures of HTML, in order."""
    for name, start, begin, end, closed, commented in _tags(source):
        tag = source[begin : end - closed]
        name = name.lower()
        if name in _PICTURES:
            attributes = attributes_of(tag)
            urls = tuple(_urls(name, attributes))
            if urls:
                yield Picture(urls, attributes, start, end, closed=closed, commented=commented)
        elif closed and ("rl(" in tag.lower() or "background" in tag.lower()):
            yield from _backgrounds(tag, begin)


def _urls(name: str, attributes: Mapping[str, str]) -> Iterator[str]:
    if name == "input" and attributes.get("type", "").lower() != "image":
        return
    if name != "source" and attributes.get("src"):
        yield attributes["src"]
    if "srcset" in attributes:
        found = _CANDIDATE.finditer(plain_of(attributes["srcset"]))
        for candidate, _ in zip(found, range(_MAX_CANDIDATES), strict=False):
            if candidate[1]:
                yield candidate[1].rstrip(",")


def _backgrounds(tag: str, offset: int) -> Iterator[Picture]:
    attributes = attributes_of(tag)
    for attribute in ATTRIBUTE.finditer(tag):
        name, group = attribute[1].lower(), attribute.lastindex or 0
        value, at = attribute[group] if group > 1 else "", offset + attribute.start(group)
        if name == "background" and value.strip():
            yield Picture((value,), attributes, at, at + len(value), background=True)
        elif name == "style":
            for found in _IN_STYLE.finditer(value):
                url = plain_of(found[1]).strip().strip("\"'")
                yield Picture(
                    (url,), attributes, at + found.start(1), at + found.end(1), background=True
                )


_Tag = tuple[str, int, int, int, bool, bool]
"""The name; where the tag begins, where its attributes begin, and where it ends; whether it is
closed; whether it is within a conditional comment."""


def _tags(source: str) -> Iterator[_Tag]:
    """The tags that may load something, except those in comments and the like."""
    position, odd, comment_end = 0, 0, 0
    for _ in range(_MAX_TAGS):
        start = _START.search(source, _DULL.match(source, position).end())  # type: ignore[union-attr]
        if start is None:
            return
        if start[1]:
            position = _after_comment(source, start.end())
            if source.startswith("[if", start.end()) and position >= comment_end:
                mark = COMMENT_END.search(source, position)
                comment_end = mark.end() if mark is not None else len(source)
        elif start[2]:
            position = source.find(">", start.end()) + 1 or len(source)
        else:
            tag = _tag(source, start)
            if tag is None or (odd := odd + tag[1]) > _MAX_ODD:
                position = start.start() + _LONGEST_TAG
                continue
            end = tag[0]
            closed = source.startswith(">", end - 1)
            yield start[3], start.start(), start.end(), end, closed, end < comment_end
            position = end
            name = start[3].lower()
            if name in _CLOSING and not source.startswith("/", start.start() + 1):
                close = _CLOSING[name].search(source, end)
                if close is None:
                    return
                position = close.start()


def _tag(source: str, start: re.Match[str]) -> tuple[int, bool] | None:
    """Where a tag ends, and whether its quotes are unpaired; None if it is too long."""
    limit = start.start() + _LONGEST_TAG
    tag = _REST.match(source, start.end(), limit)
    if tag is not None and not ("<" in tag[1] and _NEVER_CLOSED.search(tag[1])):
        return tag.end(), False
    end = source.find(">", start.end(), limit)
    if end >= 0:
        return end + 1, True
    if limit < len(source):
        return None
    return len(source.rstrip()), True  # not closed before the end


def _after_comment(source: str, position: int) -> int:
    """Where a comment ends. Some programs show the content of a conditional one."""
    if source.startswith("[if", position):
        return position
    if source.startswith((">", "->"), position):
        return position
    end = COMMENT_END.search(source, position)
    return end.end() if end is not None else len(source)
