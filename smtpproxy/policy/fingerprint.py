"""One text to many people: what is left of a body when all that is each reader's own is masked.

Two bodies with one fingerprint differ in nothing but names and addresses of their recipients,
greetings, and the tokens of links. Numbers and codes in the text are not masked: they are what
tells receipts, codes and invoices from one another (docs/bulk.md has the figures).
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b

from smtpproxy.mail.shown import ShownText, folded

# Each word is looked at once: what begins inside of one, or gives octets back, is quadratic.
_ADDRESS = re.compile(r"(?<![^\s<>@\"'(),;:])[^\s<>@\"'(),;:]++@[^\s<>@\"'(),;:]{1,255}")
_URI = re.compile(r"(?:https?://|mailto:)\S+")
_GREETING = re.compile(
    r"\b(dear|hello|hi|hey|bonjour|bonsoir|cher|chere|salut|hallo|guten tag|liebe|lieber"
    r"|sehr geehrte|sehr geehrter|hola|estimad[oa]|querid[oa]|buenos dias|ciao|gentile|salve"
    r"|beste|geachte|ola|prezad[oa]|car[oa]|czesc|witaj) [^,.!:;?\n]{1,60}+(?=[,.!:;?])"
)
_TOKEN = re.compile(r"(?=[^/]*[0-9])[^/]{6,}|[^/]{20,}")
_NUMBER = re.compile(r"\d+(?:[.,:/-]\d+)*")
_SHORTEST_NAME = 2  # letters: initials are no names
_MOST_NAMES = 60
_LEAST_TEXT = 8  # words: what is shorter tells nothing
_PIECE = 65_536  # characters: a search by many words holds up other threads until it is through


def fingerprint(
    shown: ShownText, recipients: Iterable[str], names: Sequence[str], *, numbers: bool = False
) -> bytes | None:
    """Return 16 octets; None for a body with too few words to tell it from others.

    `recipients` are addresses and `names` what the header calls the readers. `numbers`: mask
    those in the text as well.
    """
    text = _URI.sub("~", shown.text)
    text = _ADDRESS.sub("@", text)
    text = _GREETING.sub(r"\1 @", text)
    own = _own_words(recipients, names)
    if own is not None:
        text = " ".join([own.sub("@", piece) for piece in _pieces(text)])
    if numbers:
        text = _NUMBER.sub("#", text)
    if len(text.split(" ", _LEAST_TEXT)) <= _LEAST_TEXT:
        return None
    masked = "\n".join((text, *sorted({_masked_link(link) for link in shown.links})))
    return blake2b(masked.encode("utf-8", "replace"), digest_size=16).digest()


def _own_words(recipients: Iterable[str], names: Sequence[str]) -> re.Pattern[str] | None:
    """What the readers are called: words of their names, local parts and words of these."""
    words: set[str] = set()
    for name in names:
        words |= set(re.findall(r"[^\W\d_]+", folded(name)))
    for address in recipients:
        local = folded(address.rpartition("@")[0])
        words |= {local, *re.findall(r"[^\W\d_]+", local)}
    longest = sorted((word for word in words if len(word) > _SHORTEST_NAME), key=len, reverse=True)
    if not longest:
        return None
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, longest[:_MOST_NAMES]))})\b")


def _pieces(text: str) -> Iterator[str]:
    """Cut a text at spaces, which are left out."""
    start = 0
    while (space := text.find(" ", start + _PIECE)) >= 0:
        yield text[start:space]
        start = space + 1
    yield text[start:]


def _masked_link(link: str) -> str:
    """A link without what may be the reader's: query, fragment, path segments like tokens."""
    scheme, colon, rest = link.partition(":")
    path = rest.partition("#")[0].partition("?")[0]
    if scheme.lower() == "mailto":
        return "mailto:" + path.rpartition("@")[2].lower()
    return scheme.lower() + colon + "/".join(_TOKEN.sub("*", part) for part in path.split("/"))
