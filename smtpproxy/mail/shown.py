"""A message's text as people read it: the part that most of them see, folded for comparing."""

import re
import unicodedata

from msgspec import Struct

from smtpproxy.mail.html import read_html
from smtpproxy.mail.mime import Body


class ShownText(Struct, frozen=True):
    """`text` is folded (see `folded`); `links` are URIs as they stand, in their order.

    `whole`: nothing that may have been text was left out.
    """

    text: str
    links: tuple[str, ...]
    whole: bool = True


_URI = re.compile(r"(?:https?://|mailto:)[^\s<>\"]{1,2000}", re.IGNORECASE)
_AFTER_URI = ".,;:!?)]}'*_"
_INVISIBLE = "\u00ad\u034f\u200b\u200c\u200d\u2060\ufeff"


def _base_letters() -> dict[int, str | None]:
    """Letters with accents to their base, combining accents and what nobody sees to nothing."""
    table: dict[int, str | None] = dict.fromkeys(range(0x300, 0x370))
    table |= dict.fromkeys(map(ord, _INVISIBLE))
    for code in (*range(0xC0, 0x250), *range(0x1E00, 0x1F00)):
        base = unicodedata.normalize("NFD", chr(code))[0]
        if ord(base) != code:
            table[code] = base
    table |= {ord("’"): "'", ord("‘"): "'", ord("‐"): "-", ord("‑"): "-", ord("–"): "-"}
    return table


_BASE = _base_letters()


def folded(text: str) -> str:
    """Return text without case, accents, invisible characters and runs of white space.

    No normalisation form: that costs quadratic time on hostile text.
    """
    if not text.isascii():
        text = text.translate(_BASE)
    return " ".join(text.casefold().split())


def shown_text(body: Body) -> ShownText:
    """Return what most readers see: the HTML parts where there are any, else the plain ones."""
    html = [part.text for part in body.parts if not part.plain]
    texts: list[str] = []
    links: list[str] = []
    for source in html:
        shown = read_html(source)
        texts.append(shown.text)
        links += shown.links
    if not html:
        texts = [part.text for part in body.parts]
    text = "\n".join(texts)
    links += [found.rstrip(_AFTER_URI) for found in _URI.findall(text)]
    return ShownText(folded(text), tuple(links), body.whole)
